"""The embedded demo cohort: seeded deformations of real labelled heads.

Two heads make a poor training set, so the demo bends them: each copy gets its own affine map,
an elastic field, a bias field, gamma and noise (torchio). What comes out is written as archives
deliver it: OASIS-1 style Analyze pairs, or IXI style NIfTI.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torchio as tio

from quicknat.files import written_whole
from quicknat.scans.volumes import Volume, read_volume

SPACING_MM = 1.5  # of the copies: quicker than 1 mm, still finer than the demo's 2 mm
KNOTS_MM = 30  # distance of the elastic field's control points


def demo_labels(head: str) -> Path:
    """Label map of one demo head (FreeSurfer numbering, made with SAMSEG)."""
    return Path(str(files("quicknat") / "demo_labels" / f"sub-{head}_dseg.nii.gz"))


def deform(image: Volume, labels: Volume, seed: int) -> tuple[Volume, Volume]:
    """One random but anatomically smooth variant of a labelled head.

    Args:
        image, labels: the same grid.
        seed: same seed, same result.

    Returns:
        float32 image and uint8 labels at 1.5 mm.
    """
    subject = tio.Subject(
        image=tio.ScalarImage(
            tensor=torch.from_numpy(image.data.astype(np.float32))[None], affine=image.affine
        ),
        labels=tio.LabelMap(
            tensor=torch.from_numpy(labels.data.astype(np.uint8))[None], affine=labels.affine
        ),
    )
    subject = tio.Resample(SPACING_MM)(subject)
    knots = tuple(round(n * SPACING_MM / KNOTS_MM) for n in subject.spatial_shape)
    transform = tio.Compose(
        [
            tio.RandomAffine(scales=0.08, degrees=7, translation=5, default_pad_value=0),
            tio.RandomElasticDeformation(knots, max_displacement=7, locked_borders=2),
            tio.RandomBiasField(coefficients=0.25, order=2),
            tio.RandomGamma(log_gamma=0.15),
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
    affine = result.image.affine
    return (
        Volume(noisy.numpy(), affine, image.path),
        Volume(result.labels.data[0].numpy().astype(np.uint8), affine, labels.path),
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
