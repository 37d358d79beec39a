"""Label scans by multi-atlas registration and majority vote."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from quicknat.autolabel.registration import affine_map, deformation, to_image
from quicknat.errors import InputError
from quicknat.images.conform import head_window, load_conformed
from quicknat.images.slices import crop
from quicknat.images.volumes import Grid, as_bytes, on_grid, read_volume

log = logging.getLogger(__name__)

BRAIN_BOX_MM = 192  # side of the cube that is registered
ITERATIONS, SMOOTHNESS = (60, 40, 15), 1.5  # of the deformation, see registration.py
UNDECIDED = 255  # voxels where the vote is tied


def register(fixed: sitk.Image, moving: sitk.Image, seed: int) -> sitk.Transform:
    """Return the transform from points of `fixed` to `moving`: affine, then demons."""
    affine = affine_map(fixed, moving, seed)
    moved = sitk.Resample(moving, fixed, affine, sitk.sitkLinear)
    matched = sitk.HistogramMatching(moved, fixed, 256, 12)
    return sitk.CompositeTransform([affine, deformation(fixed, matched, ITERATIONS, SMOOTHNESS)])


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
        transform = register(fixed, picture, seed)
        moved = sitk.GetArrayFromImage(sitk.Resample(picture, fixed, transform, sitk.sitkLinear))
        correlation = float(np.corrcoef(moved.ravel(), image.ravel())[0, 1])
        warped = sitk.Resample(to_image(labels, spacing_mm), fixed, transform, sitk.sitkLabelLinear)
        log.info("atlas %d of %d: correlation %.3f", number, len(atlases), correlation)
        votes.append((correlation, warped))
    maps = [labels for _, labels in sorted(votes, key=lambda vote: -vote[0])]
    fused = sitk.GetArrayFromImage(sitk.LabelVoting(maps, UNDECIDED))
    return np.where(fused == UNDECIDED, sitk.GetArrayFromImage(maps[0]), fused).astype(np.uint8)


def label_scan(
    scan: Path, atlases: Sequence[tuple[Path, Path]], seed: int = 0, threads: int = 1
) -> np.ndarray:
    """Read a conformed scan and conformed atlases, and label the scan.

    Args:
        scan: the conformed scan.
        atlases: pairs of conformed scan and class indices on its grid.
        seed, threads: as for :func:`label_by_atlases`.

    Returns:
        uint8 class indices on the scan's conformed grid.

    Raises:
        InputError: an atlas was conformed to another spacing, or its labels are on another grid.
    """
    image, _, record = load_conformed(scan)
    spacing = record["spacing_mm"]
    pairs = []
    for picture, labels in atlases:
        data, affine, other = load_conformed(picture)
        if other["spacing_mm"] != spacing:
            raise InputError(
                picture, "was conformed to a different spacing than the scan", "convert it again"
            )
        volume = on_grid(read_volume(labels), Grid(data.shape, affine))
        pairs.append((data, as_bytes(volume, 255)))
    # register only a cube around the brain, which halves the time
    side = min(round(BRAIN_BOX_MM / spacing), record["size"])
    boxes = [head_window(data, spacing, side) for data, _ in pairs]
    pairs = [
        (crop(data, box, side), crop(labels, box, side))
        for (data, labels), box in zip(pairs, boxes, strict=True)
    ]
    start = head_window(image, spacing, side)
    classes = np.zeros_like(image)
    found = label_by_atlases(crop(image, start, side), pairs, spacing, seed, threads)
    crop(classes, start, side)[...] = found
    return classes
