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
    image: Volume, classes: Volume, like: Volume, spacing_mm: float, threads: int = 1
) -> tuple[np.ndarray, np.ndarray, Grid]:
    """Warp a scan and its labels to the shape of another label map.

    Images made from the label maps are registered, in which each structure has its mean intensity
    in the scan. Since the deformation is smooth, warped labels match the warped image exactly, but
    the other map only approximately.

    Args:
        image, classes: scan, and its class indices (uint8), on any grids.
        like: class indices of the other map.
        spacing_mm: voxel size of the result.
        threads: for SimpleITK.

    Returns:
        Image (float32), classes (uint8), and their grid, around the labels of `like`.

    Raises:
        InputError: a map has no labels.
    """
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    here, there = (grid_around(volume, spacing_mm) for volume in (classes, like))
    data, own = resample(image, here), resample_labels(classes, here)
    other = resample_labels(like, there)
    count = int(max(own.max(), other.max())) + 1
    voxels = np.bincount(own.ravel(), minlength=count)
    brightness = np.bincount(own.ravel(), data.ravel(), count) / np.maximum(voxels, 1)
    brightness[0] = 0
    fixed, moving = (
        sitk.SmoothingRecursiveGaussian(
            to_image(brightness[labels].astype(np.float32), spacing_mm), BLUR_MM
        )
        for labels in (other, own)
    )
    affine = affine_map(fixed, moving, seed=0)
    moved = sitk.Resample(moving, fixed, affine, sitk.sitkLinear)
    smooth = deformation(fixed, moved, ITERATIONS, SMOOTHNESS)
    transform = sitk.CompositeTransform([affine, smooth])
    picture, labels = to_image(data.astype(np.float32), spacing_mm), to_image(own, spacing_mm)
    return (
        sitk.GetArrayFromImage(sitk.Resample(picture, fixed, transform, sitk.sitkLinear)),
        sitk.GetArrayFromImage(sitk.Resample(labels, fixed, transform, sitk.sitkLabelLinear)),
        there,
    )
