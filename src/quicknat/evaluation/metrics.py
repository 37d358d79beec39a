"""Compare a segmentation with a reference: overlap, distance, volumes, confusion matrix."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from monai.metrics import compute_hausdorff_distance
from nibabel.affines import voxel_sizes
from scipy import ndimage

from quicknat.errors import InputError
from quicknat.evaluation.scores import AGGREGATE, COLUMNS
from quicknat.images.labels import Protocol

log = logging.getLogger(__name__)

Box = tuple[slice, ...]


def count_pairs(
    prediction: np.ndarray, reference: np.ndarray, n_classes: int, where: str
) -> np.ndarray:
    """Count voxels of each reference class (row) and predicted class (column), int64 (C, C).

    Raises:
        InputError: the grids differ in shape; it names `where`.
    """
    if prediction.shape != reference.shape:
        problem = f"prediction {prediction.shape}, reference {reference.shape}"
        raise InputError(where, problem, "give labels on one grid")
    pairs = np.zeros(n_classes**2, dtype=np.int64)
    for ours, theirs in zip(prediction, reference, strict=True):  # a slice at a time, for memory
        number = theirs.astype(np.intp) * n_classes + ours.astype(np.intp)
        pairs += np.bincount(number.ravel(), minlength=n_classes**2)
    return pairs.reshape(n_classes, n_classes)


def overlap(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Dice and IoU of each class, float (C,), from pairs; NaN where both maps lack it."""
    both, sizes = pairs.diagonal(), pairs.sum(axis=0) + pairs.sum(axis=1)
    with np.errstate(invalid="ignore"):  # 0 / 0 of a class that is nowhere
        return 2 * both / sizes, both / (sizes - both)


def hausdorff95(prediction: np.ndarray, reference: np.ndarray, voxel_mm: np.ndarray) -> float:
    """Return the 95 % Hausdorff distance in mm of two bool masks (by MONAI); NaN if one is empty.

    Masks are (X, Y, Z), voxel sides (3,).
    """
    if not (prediction.any() and reference.any()):
        return np.nan
    ours, true = (
        torch.from_numpy(mask.astype(np.uint8))[None, None] for mask in (prediction, reference)
    )
    spacing = [float(side) for side in voxel_mm]
    return compute_hausdorff_distance(
        ours, true, include_background=True, percentile=95, spacing=spacing
    ).item()


def _around(*boxes: Box | None) -> Box:
    """Return the smallest box around those that are there, a voxel wider on each side; else all."""
    sides = zip(*(box for box in boxes if box), strict=True)
    return tuple(
        slice(max(min(part.start for part in side) - 1, 0), max(part.stop for part in side) + 1)
        for side in sides
    )


def evaluate(
    prediction: np.ndarray,
    reference: np.ndarray,
    affine: np.ndarray,
    protocol: Protocol,
    subject: str,
) -> pd.DataFrame:
    """Return a long table of all structures of one subject; NaN where a value has no meaning.

    Prediction and reference are class indices on one grid, which has this affine.

    Raises:
        InputError: the grids differ in shape.
    """
    pairs = count_pairs(prediction, reference, len(protocol.names), subject)
    dice, iou = overlap(pairs)
    voxel_mm, voxel_mm3 = voxel_sizes(affine), abs(np.linalg.det(affine[:3, :3]))
    names, distances = protocol.names[1:], []
    boxes = [ndimage.find_objects(labels, len(names)) for labels in (prediction, reference)]
    for index, own in enumerate(zip(*boxes, strict=True), start=1):
        box = _around(*own)
        masks = prediction[box] == index, reference[box] == index
        distances.append(hausdorff95(*masks, voxel_mm))
    volumes = (pairs.sum(axis=axis)[1:] * voxel_mm3 for axis in (0, 1))
    columns = (subject, names, dice[1:], iou[1:], distances, *volumes)
    table = pd.DataFrame(dict(zip(COLUMNS["metrics"], columns, strict=True)))
    log.info("%s: mean Dice %.3f over %d structures", subject, table["dice"].mean(), len(table))
    return table


def confusion_table(pairs: np.ndarray, protocol: Protocol, subject: str) -> pd.DataFrame:
    """Return the pairs that occur: subject, reference, prediction (names), voxels."""
    rows, columns = pairs.nonzero()
    names, voxels = np.array(protocol.names), pairs[rows, columns]
    table = {"reference": names[rows], "prediction": names[columns], "voxels": voxels}
    return pd.DataFrame({"subject": subject, **table})


def view_table(
    pairs: np.ndarray,
    views: Mapping[str, np.ndarray],
    reference: np.ndarray,
    protocol: Protocol,
    subject: str,
) -> pd.DataFrame:
    """Return scores of the result and of each view alone: subject, view, structure, dice, iou.

    The sagittal view does not tell left from right. For it both maps are merged as its network
    does, and both sides have the score of the merged structure.

    Args:
        pairs: of :func:`count_pairs`, of the result.
        views, reference: class indices on one grid: each view's own label map, the reference.
        protocol, subject: names of the classes; ``sub-X``.

    Raises:
        InputError: see :func:`count_pairs`.
    """
    names, merged = protocol.names[1:], protocol.sagittal.astype(np.uint8)
    scores = {AGGREGATE: overlap(pairs)}
    for view, labels in views.items():
        where, count = f"{subject}, {view} view", protocol.n_classes(view)
        if view == "sagittal":
            alone = overlap(count_pairs(merged[labels], merged[reference], count, where))
            scores[view] = alone[0][merged], alone[1][merged]
        else:
            scores[view] = overlap(count_pairs(labels, reference, count, where))
    tables = [
        pd.DataFrame({"view": view, "structure": names, "dice": dice[1:], "iou": iou[1:]})
        for view, (dice, iou) in scores.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "subject", subject)
    return table
