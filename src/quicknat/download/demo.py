"""Make the demo cohort: seeded deformations of real labelled heads.

Two heads make a poor training set, so the demo deforms them: each copy gets its own affine map,
elastic field, bias field, gamma and noise (torchio). Copies have the file formats of public data
sets: OASIS-1 style Analyze pairs with a label map, or IXI style NIfTI without one.
"""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torchio as tio
from nibabel.affines import apply_affine

from quicknat.autolabel.registration import labels_at
from quicknat.errors import InputError
from quicknat.files import written_whole
from quicknat.images.volumes import Volume, read_volume
from quicknat.package_data import DATA

SPACING_MM = 1.5  # of the copies: faster than 1 mm, still finer than the demo's 2 mm
KNOTS_MM = 30  # between control points of the elastic field


def deform(image: Volume, labels: Volume, seed: int) -> tuple[Volume, Volume]:
    """Return a random smooth deformation of a labelled head.

    torchio deforms the image together with a map of each voxel's origin. At these origins the label
    map is resampled once, class by class; torchio itself would use the nearest label three times.

    Args:
        image, labels: on the same grid.
        seed: of the deformation.

    Returns:
        float32 image and uint8 labels at 1.5 mm.
    """
    values = torch.from_numpy(image.data.astype(np.float32))[None]
    subject = tio.Subject(image=tio.ScalarImage(tensor=values, affine=image.affine))
    subject = tio.Resample(SPACING_MM)(subject)
    voxels = np.indices(subject.spatial_shape)
    world = apply_affine(subject.image.affine, voxels.transpose(1, 2, 3, 0))
    inside = np.pad(np.ones(np.array(subject.spatial_shape) - 2), 1)  # 0 at the border and beyond
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
    """Write .img + .hdr like OASIS-1: big-endian int16, a trailing axis of 1, no orientation."""
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


def make_copy(image: str, heads: Path, folder: Path) -> list[str]:
    """Write one deformed copy of a demo head; in OASIS-1 style also its label map.

    Args:
        image: path of the copy in `folder`: ``…CSI1x03….nii.gz`` is the third copy of CSI1;
            ``….img`` an Analyze pair (LAS) in ``RAW``, with its labels in ``SEG``.
        heads: folder of the original T1w scans.
        folder: folder of the source.

    Returns:
        The paths of the written files, relative to `folder`.

    Raises:
        InputError: `image` names no copy of a demo head.
    """
    found = re.search(r"(CSI[12])x(\d+)", image)
    if not found:
        raise InputError(image, "is not a copy of a demo head", "name it CSI1x01, CSI2x07, …")
    head, number = found[1], int(found[2])
    seed = 100 * int(head[-1]) + number  # unique per head and copy
    scan = read_volume(heads / f"sub-{head}_ses-16_anat_sub-{head}_ses-16_T1w.nii.gz")
    copy, labels = deform(scan, read_volume(DATA / f"demo_labels/sub-{head}_dseg.nii.gz"), seed)
    if not image.endswith(".img"):
        with written_whole(folder / image) as (temporary,):
            nib.save(nib.Nifti1Image(_int16(copy), copy.affine), temporary)
        return [image]
    labels_path = image.replace("/RAW/", "/SEG/").replace("_mpr-1_anon.img", "_seg.img")
    for path, volume in ((image, copy), (labels_path, labels)):
        _save_analyze(folder / path, _int16(volume), nib.affines.voxel_sizes(volume.affine))
    return [file for path in (image, labels_path) for file in (path, f"{path[:-4]}.hdr")]


def _int16(volume: Volume) -> np.ndarray:
    return np.rint(volume.data).astype(np.int16)
