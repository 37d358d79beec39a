"""Register images, and label scans by majority vote of registered atlases."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from quicknat.errors import InputError
from quicknat.images.conform import head_window, load_conformed
from quicknat.images.slices import crop
from quicknat.images.volumes import as_bytes, on_grid, read_volume

log = logging.getLogger(__name__)

BRAIN_BOX_MM = 192  # side of the cube that is registered
SHRINK = (4, 2, 1)  # downsampling factors of the deformation's levels
ITERATIONS, SMOOTHNESS = (60, 40, 15), 1.5  # see `deformation`
UNDECIDED = 255  # voxels where the vote is tied


def to_image(data: np.ndarray, spacing_mm: float) -> sitk.Image:
    """Return an array (X, Y, Z) as a SimpleITK image; SimpleITK lists axes in reverse order."""
    image = sitk.GetImageFromArray(data)
    image.SetSpacing([spacing_mm] * 3)
    return image


def affine_map(fixed: sitk.Image, moving: sitk.Image, seed: int) -> sitk.Transform:
    """Return the affine map from points of `fixed` to `moving`, by mutual information."""
    registration = sitk.ImageRegistrationMethod()
    registration.SetMetricAsMattesMutualInformation(numberOfHistogramBins=32)
    registration.SetMetricSamplingStrategy(registration.RANDOM)
    registration.SetMetricSamplingPercentage(0.1, seed + 1)  # 0 would seed from the clock
    registration.SetInterpolator(sitk.sitkLinear)
    registration.SetOptimizerAsGradientDescent(
        learningRate=1.0, numberOfIterations=80, convergenceWindowSize=10
    )
    registration.SetOptimizerScalesFromPhysicalShift()
    registration.SetShrinkFactorsPerLevel([4, 2])
    registration.SetSmoothingSigmasPerLevel([2, 1])
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    registration.SetInitialTransform(start, inPlace=False)
    return registration.Execute(fixed, moving)


def deformation(
    fixed: sitk.Image, moving: sitk.Image, iterations: Sequence[int], smoothness: float
) -> sitk.Transform:
    """Return a smooth invertible map (diffeomorphic demons) from points of `fixed` to `moving`.

    Args:
        fixed, moving: on the same grid, with matched intensities.
        iterations: per level of :data:`SHRINK`.
        smoothness: SD of the Gaussian that smooths the field, in voxels of each level.
    """
    field = None
    for shrink, number in zip(SHRINK, iterations, strict=True):
        small = [
            sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, shrink * 0.5), [shrink] * 3)
            for image in (fixed, moving)
        ]
        demons = sitk.DiffeomorphicDemonsRegistrationFilter()
        demons.SetNumberOfIterations(number)
        demons.SetStandardDeviations(smoothness)
        if field is None:
            field = demons.Execute(*small)
        else:
            field = demons.Execute(*small, sitk.Resample(field, small[0]))
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))


def label_by_atlases(
    image: np.ndarray,
    atlases: Sequence[tuple[np.ndarray, np.ndarray]],
    spacing_mm: float,
    seed: int = 0,
    threads: int = 1,
) -> np.ndarray:
    """Label a conformed scan by majority vote of registered atlases.

    Args:
        image: uint8 (X, Y, Z), RAS+.
        atlases: pairs of image and class indices, uint8, on grids of the same spacing.
        spacing_mm: voxel side.
        seed: for the random sampling of the similarity metric.
        threads: for SimpleITK.

    Returns:
        uint8 class indices; ties go to the atlas with the highest correlation.
    """
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    fixed = to_image(image.astype(np.float32), spacing_mm)
    votes = []
    for number, (moving, labels) in enumerate(atlases, start=1):
        picture = to_image(moving.astype(np.float32), spacing_mm)
        affine = affine_map(fixed, picture, seed)
        moved = sitk.Resample(picture, fixed, affine, sitk.sitkLinear)
        matched = sitk.HistogramMatching(moved, fixed, 256, 12)
        smooth = deformation(fixed, matched, ITERATIONS, SMOOTHNESS)
        transform = sitk.CompositeTransform([affine, smooth])
        alike = sitk.GetArrayFromImage(sitk.Resample(picture, fixed, transform, sitk.sitkLinear))
        correlation = float(np.corrcoef(alike.ravel(), image.ravel())[0, 1])
        warped = sitk.Resample(to_image(labels, spacing_mm), fixed, transform, sitk.sitkLabelLinear)
        log.info("atlas %d of %d: correlation %.3f", number, len(atlases), correlation)
        votes.append((correlation, warped))
    maps = [labels for _, labels in sorted(votes, key=lambda vote: -vote[0])]
    fused = sitk.GetArrayFromImage(sitk.LabelVoting(maps, UNDECIDED))
    return np.where(fused == UNDECIDED, sitk.GetArrayFromImage(maps[0]), fused).astype(np.uint8)


def label_scan(
    scan: Path, atlases: Sequence[tuple[Path, Path]], seed: int = 0, threads: int = 1
) -> np.ndarray:
    """Return the classes of a conformed scan, uint8; see :func:`label_by_atlases`.

    Atlases are pairs of a conformed scan and class indices on its grid.

    Raises:
        InputError: an atlas was conformed to another spacing, or its labels are on another grid.
    """
    image, _, record = load_conformed(scan)
    spacing = record["spacing_mm"]
    # register only a cube around the brain, which halves the time
    side = min(round(BRAIN_BOX_MM / spacing), record["size"])
    pairs = []
    for picture, labels in atlases:
        data, grid, other = load_conformed(picture)
        if other["spacing_mm"] != spacing:
            raise InputError(
                picture, "was conformed to a different spacing than the scan", "convert it again"
            )
        volume = on_grid(read_volume(labels), grid)
        box = head_window(data, spacing, side)
        pairs.append((crop(data, box, side), crop(as_bytes(volume, 255), box, side)))
    start = head_window(image, spacing, side)
    classes = np.zeros_like(image)
    found = label_by_atlases(crop(image, start, side), pairs, spacing, seed, threads)
    crop(classes, start, side)[...] = found
    return classes
