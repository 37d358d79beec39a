"""Registration of one image to another: an affine map, then a smooth invertible deformation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

SHRINK = (4, 2, 1)  # downsampling factors of the deformation's levels


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
