"""A head of ellipsoids."""

from pathlib import Path

import numpy as np

from quicknat.images.volumes import Volume

SPACING, SHAPE = 2.0, (100, 120, 110)
RADII = np.array([70, 85, 68])  # of the cavity, mm
CAVITY_ML = 4 / 3 * np.pi * RADII.prod() / 1000


def ellipsoid(radii, shift=(0, 0, 8)):
    """Mask of the head's voxels within an ellipsoid; radii and shift in mm."""
    away = [np.arange(n) * SPACING - (n - 1) * SPACING / 2 for n in SHAPE]
    x, y, z = np.meshgrid(*away, indexing="ij", sparse=True)
    (a, b, c), (p, q, r) = radii, shift
    return ((x - p) / a) ** 2 + ((y - q) / b) ** 2 + ((z - r) / c) ** 2 <= 1


def head(stripped=False):
    """A head of ellipsoids: white and grey matter, CSF, skull, scalp, as in T1w; and its brain."""
    parts = [(15, 210), (6, 25), (0, 60), (-4, 105), (-8, 165)]  # outermost first
    data = np.zeros(SHAPE, np.float32)
    for margin, intensity in parts[3 * stripped :]:
        data[ellipsoid(RADII + margin)] = intensity
    data += np.abs(np.random.default_rng(0).normal(0, 2, SHAPE)) * (not stripped)
    affine = np.diag([SPACING, SPACING, SPACING, 1])
    affine[:3, 3] = -(np.array(SHAPE) - 1) * SPACING / 2
    return Volume(data.astype(np.float32), affine, Path("head.nii.gz")), ellipsoid(RADII - 4)
