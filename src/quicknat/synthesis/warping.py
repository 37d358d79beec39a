"""Warp labelled scans to the shapes of other brains, to train on a wider range of shapes.

Cohorts of young people have no wide ventricles. A label map of an older brain, without an image,
provides the shape: scan and labels are warped until the structures match those of the map.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from quicknat.autolabel.atlas import affine_map, deformation, to_image
from quicknat.errors import InputError
from quicknat.images.resampling import resample, resample_labels
from quicknat.images.volumes import Grid, Volume

BOX_MM = 192  # side of the cube of a warped copy
ITERATIONS, SMOOTHNESS = (150, 100, 30), 1.0  # ventricles may grow to a multiple of their volume
BLUR_MM = 1.0


def grid_around(classes: Volume, spacing_mm: float) -> Grid:
    """Return a cube of 192 mm, RAS+, centred on the labelled voxels.

    Raises:
        InputError: no voxel is labelled.
    """
    labelled = np.argwhere(classes.data > 0)
    if not len(labelled):
        raise InputError(classes.path, "has no labelled voxel", "give a label map of a brain")
    corners = np.stack([labelled.min(axis=0), labelled.max(axis=0)])
    middle = classes.affine[:3, :3] @ corners.mean(axis=0) + classes.affine[:3, 3]
    size = round(BOX_MM / spacing_mm)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = middle - spacing_mm * (size - 1) / 2
    return Grid((size, size, size), affine)


def warp(
    image: np.ndarray, classes: np.ndarray, like: np.ndarray, spacing_mm: float, threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Warp a scan and its labels to the shape of another label map.

    Images made from the label maps are registered, in which each structure has its mean intensity
    in the scan. Since the deformation is smooth, warped labels match the warped image exactly, but
    the other map only approximately.

    Args:
        image: float32 (X, Y, Z), RAS+.
        classes: uint8 class indices, same shape.
        like: uint8 class indices of the other map, on its own grid of the same spacing.
        spacing_mm: voxel size.
        threads: for SimpleITK.

    Returns:
        The image and its classes on the grid of `like`, float32 and uint8.
    """
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    count = int(max(classes.max(), like.max())) + 1
    voxels = np.bincount(classes.ravel(), minlength=count)
    brightness = np.bincount(classes.ravel(), image.ravel(), count) / np.maximum(voxels, 1)
    brightness[0] = 0
    fixed, moving = (
        sitk.SmoothingRecursiveGaussian(
            to_image(brightness[labels].astype(np.float32), spacing_mm), BLUR_MM
        )
        for labels in (like, classes)
    )
    affine = affine_map(fixed, moving, seed=0)
    moved = sitk.Resample(moving, fixed, affine, sitk.sitkLinear)
    smooth = deformation(fixed, moved, ITERATIONS, SMOOTHNESS)
    transform = sitk.CompositeTransform([affine, smooth])
    picture, labels = to_image(image.astype(np.float32), spacing_mm), to_image(classes, spacing_mm)
    return (
        sitk.GetArrayFromImage(sitk.Resample(picture, fixed, transform, sitk.sitkLinear)),
        sitk.GetArrayFromImage(sitk.Resample(labels, fixed, transform, sitk.sitkLabelLinear)),
    )


def warp_scan(
    image: Volume, classes: Volume, like: Volume, spacing_mm: float, threads: int = 1
) -> tuple[np.ndarray, np.ndarray, Grid]:
    """Warp volumes on any grids to voxels of this size, see :func:`warp`.

    Returns:
        Image (float32), classes (uint8), and their grid.

    Raises:
        InputError: a map has no labels.
    """
    here, there = (grid_around(volume, spacing_mm) for volume in (classes, like))
    data, found = warp(
        resample(image, here), resample_labels(classes, here), resample_labels(like, there),
        spacing_mm, threads,
    )  # fmt: skip
    return data, found, there
