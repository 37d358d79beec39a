"""Registration of one image to another: an affine map, then a smooth invertible deformation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

SHRINK = (4, 2, 1)  # downsampling factors of the deformation's levels


def to_image(data: np.ndarray, spacing_mm: float) -> sitk.Image:
    """Return an array (X, Y, Z) as a SimpleITK image; SimpleITK lists axes in reverse order."""
    image = sitk.GetImageFromArray(data)
    image.SetSpacing([spacing_mm] * 3)
    return image


def labels_at(labels: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the most probable label at each point, interpolating each class linearly.

    Args:
        labels: uint8 (X, Y, Z).
        points: voxel coordinates in it, float (3, I, J, K).

    Returns:
        uint8 (I, J, K), 0 outside `labels`.
    """
    found = np.zeros(points.shape[1:], np.uint8)
    labelled = np.argwhere(labels)
    if not len(labelled):
        return found
    low, high = labelled.min(axis=0) - 1, labelled.max(axis=0) + 1
    inside = np.all([(low[a] < points[a]) & (points[a] < high[a]) for a in range(3)], axis=0)
    (box,) = ndimage.find_objects(inside.astype(np.uint8)) or (None,)
    if box is None:
        return found
    points = points[(slice(None), *box)]  # sampling is slow
    away = points - np.indices(points.shape[1:])
    field = sitk.GetImageFromArray(away[::-1].transpose(1, 2, 3, 0), isVector=True)
    transform = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    grid = to_image(found[box], 1.0)
    sampled = sitk.Resample(to_image(labels, 1.0), grid, transform, sitk.sitkLabelLinear)
    found[box] = sitk.GetArrayFromImage(sampled)
    return found


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
