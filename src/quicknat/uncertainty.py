"""How much sampled segmentations of one scan differ (Roy et al., NeuroImage 195, 2019)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def structure_uncertainty(
    samples: Iterable[np.ndarray], n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Agreement of Monte-Carlo samples per structure (section 2.4).

    Args:
        samples: integer label maps of one shape, class indices below `n_classes` (at most 64);
            looked at one after the other, so a generator need not hold them all.
        n_classes: background included.

    Returns:
        Two float (C,) arrays: IoU, voxels that all samples give to a class over those that any
        does; and CV, standard deviation over mean of the class's volume. NaN where no sample has
        the class.

    Raises:
        ValueError: there are no samples, or more than 64 classes.
    """
    if n_classes > 64:
        raise ValueError(f"at most 64 classes, not {n_classes}")
    in_all, in_any, volumes = None, None, []
    for labels in samples:
        bit = np.left_shift(np.uint64(1), labels.astype(np.uint64))  # one bit per class
        in_all = bit if in_all is None else in_all & bit
        in_any = bit if in_any is None else in_any | bit
        volumes.append(np.bincount(labels.ravel(), minlength=n_classes))
    if in_all is None or in_any is None:
        raise ValueError("no samples")
    classes = np.arange(n_classes, dtype=np.uint64)
    both, either = (
        np.array([np.count_nonzero(voxels >> k & np.uint64(1)) for k in classes], dtype=np.float64)
        for voxels in (in_all, in_any)
    )
    with np.errstate(invalid="ignore"):  # 0 / 0 of a class that is nowhere
        return both / either, np.std(volumes, axis=0) / np.mean(volumes, axis=0)
