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
import SimpleITK as sitk
import torch
import torchio as tio

from quicknat.errors import InputError
from quicknat.files import written_whole
from quicknat.images.volumes import Volume, read_volume
from quicknat.package_data import DATA

SPACING_MM = 1.5  # of the copies: quicker than 1 mm, still finer than the demo's 2.5 mm
KNOTS_MM = 30  # distance of the elastic field's control points
DEGREES, SCALING, SHIFT_MM, ELASTIC_MM = 7, 0.08, 5, 7  # largest of each


def deform(image: Volume, labels: Volume, seed: int) -> tuple[Volume, Volume]:
    """Return one random but anatomically smooth variant of a labelled head.

    Image and labels are each resampled once, through an affine map and a cubic B-spline.

    Args:
        image, labels: on the same grid.
        seed: of the deformation.

    Returns:
        float32 image and uint8 labels at 1.5 mm.
    """
    rng = np.random.default_rng(seed)
    spacing = nib.affines.voxel_sizes(image.affine)
    shape = np.ceil(image.data.shape * spacing / SPACING_MM).astype(int)
    head, classes = (sitk.GetImageFromArray(volume.data.T.astype(kind))
                     for volume, kind in ((image, np.float32), (labels, np.uint8)))  # fmt: skip
    head.SetSpacing(spacing)
    classes.SetSpacing(spacing)
    grid = sitk.Image(shape.tolist(), sitk.sitkFloat32)
    grid.SetSpacing([SPACING_MM] * 3)
    affine = sitk.AffineTransform(3)
    affine.SetCenter(grid.TransformContinuousIndexToPhysicalPoint((shape - 1) / 2))
    for axes in ((0, 1), (1, 2), (2, 0)):
        affine.Rotate(*axes, np.radians(rng.uniform(-DEGREES, DEGREES)))
    affine.Scale(rng.uniform(1 - SCALING, 1 + SCALING, 3))
    affine.SetTranslation(rng.uniform(-SHIFT_MM, SHIFT_MM, 3))
    mesh = np.maximum(np.round(shape * SPACING_MM / KNOTS_MM), 4).astype(int)
    elastic = sitk.BSplineTransformInitializer(grid, mesh.tolist())
    controls = rng.uniform(-ELASTIC_MM, ELASTIC_MM, (3, *(mesh + 3)[::-1]))
    inner = np.zeros_like(controls)  # nothing at the borders, so that nothing is torn
    inner[:, 2:-2, 2:-2, 2:-2] = controls[:, 2:-2, 2:-2, 2:-2]
    elastic.SetParameters(inner.ravel())
    field = sitk.TransformToDisplacementField(  # evaluated once for both
        sitk.CompositeTransform([affine, elastic]), sitk.sitkVectorFloat64, grid.GetSize(),
        grid.GetOrigin(), grid.GetSpacing(),
    )  # fmt: skip
    transform = sitk.DisplacementFieldTransform(field)
    moved = sitk.Resample(head, grid, transform, sitk.sitkLinear)
    carried = sitk.Resample(classes, grid, transform, sitk.sitkLabelLinear, 0, sitk.sitkUInt8)
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(seed)
        values = torch.from_numpy(sitk.GetArrayFromImage(moved).T.copy())[None].clamp(min=0)
        high = torch.quantile(values[:, ::4, ::4, ::4], 0.98)
        sigma = (0.01 + 0.03 * torch.rand(1)).item() * high
        spoil = tio.Compose([
            tio.RandomBiasField(coefficients=0.25, order=2), tio.RandomGamma(log_gamma=0.15),
        ])  # fmt: skip
        clean = spoil(tio.ScalarImage(tensor=values)).data[0]
        real, imaginary = sigma * torch.randn(2, *clean.shape)
        noisy = torch.hypot(clean + real, imaginary)  # Rician
    finally:
        torch.random.set_rng_state(state)
    own = image.affine @ np.diag([*(SPACING_MM / spacing), 1])
    labelled = sitk.GetArrayFromImage(carried).T
    return Volume(noisy.numpy(), own, image.path), Volume(labelled, own, labels.path)


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
