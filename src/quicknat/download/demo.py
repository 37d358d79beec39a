"""The embedded demo cohort: seeded deformations of real labelled heads.

Two heads make a poor training set, so the demo bends them: each copy gets its own affine map,
an elastic field, a bias field, gamma and noise (torchio). What comes out is written as archives
deliver it: OASIS-1 style Analyze pairs, or IXI style NIfTI.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torchio as tio
from nibabel.affines import apply_affine

from quicknat.autolabel.registration import labels_at
from quicknat.files import written_whole
from quicknat.images.volumes import Volume, read_volume
from quicknat.package_data import DATA

SPACING_MM = 1.5  # of the copies: quicker than 1 mm, still finer than the demo's 2 mm
KNOTS_MM = 30  # distance of the elastic field's control points


def demo_labels(head: str) -> Path:
    """Label map of one demo head (FreeSurfer numbering, made with SAMSEG)."""
    return DATA / f"demo_labels/sub-{head}_dseg.nii.gz"


def deform(image: Volume, labels: Volume, seed: int) -> tuple[Volume, Volume]:
    """One random but anatomically smooth variant of a labelled head.

    torchio deforms the image, and with it a picture of where each voxel comes from. There the label
    map is read, once and class by class: torchio itself would take the nearest label three times.

    Args:
        image, labels: the same grid.
        seed: same seed, same result.

    Returns:
        float32 image and uint8 labels at 1.5 mm.
    """
    values = torch.from_numpy(image.data.astype(np.float32))[None]
    subject = tio.Subject(image=tio.ScalarImage(tensor=values, affine=image.affine))
    subject = tio.Resample(SPACING_MM)(subject)
    voxels = np.indices(subject.spatial_shape)
    world = apply_affine(subject.image.affine, voxels.transpose(1, 2, 3, 0))
    inside = np.pad(np.ones(np.array(subject.spatial_shape) - 2), 1)  # 0 at the rim, and beyond
    origin = np.concatenate([world.transpose(3, 0, 1, 2), inside[None]]).astype(np.float32)
    subject.add_image(tio.ScalarImage(tensor=origin, affine=subject.image.affine), "origin")
    knots = tuple(round(n * SPACING_MM / KNOTS_MM) for n in subject.spatial_shape)
    transform = tio.Compose(
        [
            tio.RandomAffine(scales=0.08, degrees=7, translation=5, default_pad_value=0),
            tio.RandomElasticDeformation(knots, max_displacement=7, locked_borders=2),
            tio.RandomBiasField(coefficients=0.25, order=2, include=["image"]),
            tio.RandomGamma(log_gamma=0.15, include=["image"]),
        ]
    )
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(seed)
        result = transform(subject)
        clean = result.image.data[0].clamp(min=0)
        sigma = (0.01 + 0.03 * torch.rand(1)) * torch.quantile(clean.flatten()[::97], 0.98)
        noise = torch.randn(2, *clean.shape) * sigma
        noisy = torch.sqrt((clean + noise[0]) ** 2 + noise[1] ** 2)  # Rician
    finally:
        torch.random.set_rng_state(state)
    *world, inside = result.origin.numpy()
    points = apply_affine(np.linalg.inv(labels.affine), np.stack(world, axis=-1))
    carried = labels_at(labels.data.astype(np.uint8), points.transpose(3, 0, 1, 2))
    carried[inside < 0.999] = 0
    affine = result.image.affine
    return (
        Volume(noisy.numpy(), affine, image.path),
        Volume(carried, affine, labels.path),
    )


def _save_analyze(path: Path, data: np.ndarray, zooms: np.ndarray) -> None:
    """Write .img + .hdr like OASIS-1: big-endian int16, a trailing axis of one, no orientation."""
    header = nib.AnalyzeHeader(endianness=">")
    header.set_data_dtype(">i2")
    flipped = data[::-1, :, :, None].astype(np.int16)  # RAS to LAS
    image = nib.AnalyzeImage(flipped, None, header)
    image.header.set_zooms((*zooms, 1.0))
    header_path = path.with_suffix(".hdr")
    with written_whole(header_path, path) as (header_file, image_file):
        image.file_map["header"].filename = str(header_file)
        image.file_map["image"].filename = str(image_file)
        image.to_file_map()


def make_scan(
    head: str, image_path: str | Path, output: str | Path, seed: int, labels_output: str | Path = ""
) -> None:
    """Write one deformed copy of a demo head, and its label map if asked for.

    Args:
        head: name of the demo head (``CSI1`` or ``CSI2``).
        image_path: the head's T1w scan.
        output: ``*.img`` for an OASIS-style pair (LAS), else NIfTI.
        seed: the copy's random seed.
        labels_output: where its label map goes, same format rule; empty for an unlabelled copy.
    """
    image, labels = deform(read_volume(image_path), read_volume(demo_labels(head)), seed)
    for target, volume in ((output, image), (labels_output, labels)):
        if not target:
            continue
        data = np.rint(volume.data).astype(np.int16)
        if Path(target).suffix == ".img":
            _save_analyze(Path(target), data, nib.affines.voxel_sizes(volume.affine))
            continue
        with written_whole(target) as (temporary,):
            nib.save(nib.Nifti1Image(data, volume.affine), temporary)
