"""How much sampled segmentations of one scan differ (Roy et al., NeuroImage 195, 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def structure_uncertainty(
    samples: Sequence[np.ndarray], n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Agreement of Monte-Carlo samples per structure (section 2.4).

    Args:
        samples: integer label maps of one shape, class indices below `n_classes`.
        n_classes: background included.

    Returns:
        Two float (C,) arrays: IoU, voxels that all samples give to a class over those that any
        does; and CV, standard deviation over mean of the class's volume. NaN where no sample has
        the class.

    Raises:
        ValueError: there are no samples.
    """
    if not len(samples):
        raise ValueError("no samples")
    volumes = [np.bincount(labels.ravel(), minlength=n_classes) for labels in samples]
    alike = np.all([labels == samples[0] for labels in samples], axis=0)
    both = np.bincount(samples[0][alike], minlength=n_classes)
    either = np.zeros(n_classes)
    for number, labels in enumerate(samples):  # each voxel counts once for each class that it has
        seen = np.zeros(labels.shape, dtype=bool)
        for earlier in samples[:number]:
            seen |= labels == earlier
        either += np.bincount(labels[~seen], minlength=n_classes)
    with np.errstate(invalid="ignore"):  # 0 / 0 of a class that is nowhere
        return both / either, np.std(volumes, axis=0) / np.mean(volumes, axis=0)
