"""How well a segmentation agrees with a reference, per structure (computed by MONAI)."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou
from nibabel.affines import voxel_sizes
from scipy import ndimage

from quicknat.evaluation.confusion import check_shapes
from quicknat.images.labels import Protocol

log = logging.getLogger(__name__)

COLUMNS = ["subject", "structure", "dice", "iou", "hd95_mm", "volume_mm3", "reference_mm3"]
Box = tuple[slice, ...]


def _around(*boxes: Box | None) -> Box:
    """The smallest box around those that are there, one voxel wider on each side; else all."""
    sides = zip(*(box for box in boxes if box), strict=True)
    return tuple(
        slice(max(min(part.start for part in side) - 1, 0), max(part.stop for part in side) + 1)
        for side in sides
    )


def structure_metrics(
    prediction: np.ndarray, reference: np.ndarray, voxel_mm: np.ndarray
) -> tuple[float, float, float]:
    """Dice, IoU (both 0 … 1) and 95 % Hausdorff distance (mm) of two masks.

    Args:
        prediction, reference: bool (X, Y, Z).
        voxel_mm: voxel sides (3,).

    Returns:
        NaN for all when both masks are empty; NaN distance when one is.
    """
    if not (prediction.any() or reference.any()):
        return np.nan, np.nan, np.nan
    ours, true = (
        torch.from_numpy(mask.astype(np.uint8))[None, None] for mask in (prediction, reference)
    )
    dice = compute_dice(ours, true, include_background=True, ignore_empty=False).item()
    iou = compute_iou(ours, true, include_background=True, ignore_empty=False).item()
    if not (prediction.any() and reference.any()):
        return dice, iou, np.nan
    distance = compute_hausdorff_distance(
        ours, true, include_background=True, percentile=95,
        spacing=[float(side) for side in voxel_mm],
    ).item()  # fmt: skip
    return dice, iou, distance


def evaluate(
    prediction: np.ndarray,
    reference: np.ndarray,
    affine: np.ndarray,
    protocol: Protocol,
    subject: str,
) -> pd.DataFrame:
    """Long table of all structures of one subject; empty cells where a value has no meaning.

    Args:
        prediction, reference: class indices on the same grid.
        affine: voxel-to-world of that grid.
        protocol: names of the classes.
        subject: ``sub-X``.

    Raises:
        InputError: the grids differ in shape.
    """
    check_shapes(prediction, reference, subject)
    voxel_mm, voxel_mm3 = voxel_sizes(affine), abs(np.linalg.det(affine[:3, :3]))
    names, rows = protocol.names[1:], []
    boxes = [ndimage.find_objects(labels, len(names)) for labels in (prediction, reference)]
    for index, (name, *own) in enumerate(zip(names, *boxes, strict=True), start=1):
        box = _around(*own)
        masks = prediction[box] == index, reference[box] == index
        volumes = [mask.sum() * voxel_mm3 for mask in masks]
        rows.append((subject, name, *structure_metrics(*masks, voxel_mm), *volumes))
    table = pd.DataFrame(rows, columns=COLUMNS)
    log.info("%s: mean Dice %.3f over %d structures", subject, table["dice"].mean(), len(rows))
    return table
