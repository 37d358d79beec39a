"""Which voxels of which structure a segmentation gives to which, and what the views score alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from quicknat.errors import InputError
from quicknat.images.labels import Protocol

AGGREGATE = "aggregate"  # stands in the column of the views for the result of all three


def check_shapes(prediction: np.ndarray, reference: np.ndarray, where: str) -> None:
    """Raises InputError, naming `where`, if the shapes differ."""
    if prediction.shape != reference.shape:
        raise InputError(
            where, f"prediction {prediction.shape}, reference {reference.shape}",
            "give labels on one grid",
        )  # fmt: skip


def count_pairs(
    prediction: np.ndarray, reference: np.ndarray, n_classes: int, where: str
) -> np.ndarray:
    """Voxels of each reference class (row) that have each predicted class (column), int64 (C, C).

    Args:
        prediction, reference: class indices on the same grid.
        n_classes: background included.
        where: named in the message of an error.

    Raises:
        InputError: the grids differ in shape.
    """
    check_shapes(prediction, reference, where)
    pairs = np.zeros(n_classes**2, dtype=np.int64)
    for ours, theirs in zip(prediction, reference, strict=True):  # a slice at a time, for memory
        number = theirs.astype(np.intp) * n_classes + ours.astype(np.intp)
        pairs += np.bincount(number.ravel(), minlength=n_classes**2)
    return pairs.reshape(n_classes, n_classes)


def overlap(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dice and IoU of each class, float (C,); NaN where both maps lack it.

    Args:
        pairs: of :func:`count_pairs`.
    """
    both, sizes = pairs.diagonal(), pairs.sum(axis=0) + pairs.sum(axis=1)
    with np.errstate(invalid="ignore"):  # 0 / 0 of a class that is nowhere
        return 2 * both / sizes, both / (sizes - both)


def confusion_table(pairs: np.ndarray, protocol: Protocol, subject: str) -> pd.DataFrame:
    """The pairs that occur: subject, reference, prediction (names, background too), voxels."""
    rows, columns = pairs.nonzero()
    names = np.array(protocol.names)
    return pd.DataFrame(
        {
            "subject": subject,
            "reference": names[rows],
            "prediction": names[columns],
            "voxels": pairs[rows, columns],
        }
    )


def view_table(
    pairs: np.ndarray,
    views: Mapping[str, np.ndarray],
    reference: np.ndarray,
    protocol: Protocol,
    subject: str,
) -> pd.DataFrame:
    """Scores of the result and of each view alone: subject, view, structure, dice, iou.

    The sagittal view knows no sides. There both maps are merged as its network does, and the score
    of a merged structure stands at both sides' names.

    Args:
        pairs: of :func:`count_pairs`, of the result.
        views: each view's own label map, class indices.
        reference: class indices on the same grid.
        protocol: names of the classes, and which of them the sagittal view merges.
        subject: ``sub-X``.

    Raises:
        InputError: see :func:`count_pairs`.
    """
    n_classes, merged = len(protocol.names), protocol.sagittal
    scores = {AGGREGATE: overlap(pairs)}
    for view, labels in views.items():
        where = f"{subject}, {view} view"
        alone = count_pairs(labels, reference, n_classes, where)
        if view == "sagittal":
            whole = np.zeros((protocol.n_classes(view),) * 2, dtype=np.int64)
            np.add.at(whole, (merged[:, None], merged[None, :]), alone)
            scores[view] = tuple(values[merged] for values in overlap(whole))
        else:
            scores[view] = overlap(alone)
    tables = [
        pd.DataFrame(
            {
                "subject": subject,
                "view": view,
                "structure": protocol.names[1:],
                "dice": dice[1:],
                "iou": iou[1:],
            }
        )
        for view, (dice, iou) in scores.items()
    ]
    return pd.concat(tables, ignore_index=True)
