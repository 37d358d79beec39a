"""How sure a segmentation is of itself: entropy of its probabilities, agreement of the views."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from quicknat.images.labels import Protocol


def normalised_entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy over the first axis, as a share of the largest possible (0 … 1)."""
    result = torch.zeros(probabilities.shape[1:])
    # in slabs, or it would need several times the memory of the probabilities
    for slab, entropy in zip(probabilities.split(16, dim=1), result.split(16), strict=True):
        shares = slab / slab.sum(dim=0, keepdim=True).clamp(min=1e-6)
        entropy.copy_(torch.special.entr(shares).sum(dim=0) / np.log(len(shares)))
    return result


def mean_per_class(values: torch.Tensor, labels: torch.Tensor, n_classes: int) -> np.ndarray:
    """Mean of a map over each class's voxels, float (C,); NaN where a class is absent."""
    labels = labels.flatten()
    sums = torch.bincount(labels, weights=values.flatten().double(), minlength=n_classes)
    return (sums / torch.bincount(labels, minlength=n_classes)).numpy()


def view_agreement(
    votes: Mapping[str, torch.Tensor], labels: torch.Tensor, protocol: Protocol
) -> np.ndarray:
    """Dice between each view's own map and the result, mean over the views, float (C,).

    Args:
        votes: each view's map, (X, Y, Z); the sagittal one in its merged classes.
        labels: the result, (X, Y, Z).
        protocol: says which classes the sagittal view merges.
    """
    merged = torch.tensor(protocol.sagittal, dtype=torch.long)
    agreement = []
    for view, vote in votes.items():
        vote, result = vote.long(), merged[labels] if view == "sagittal" else labels
        n_classes = protocol.n_classes(view)
        both, ours, its = (
            torch.bincount(part.flatten(), minlength=n_classes).double()
            for part in (result[result == vote], result, vote)
        )
        dice = 2 * both / (ours + its)
        agreement.append(dice[merged] if view == "sagittal" else dice)
    return torch.stack(agreement).mean(dim=0).numpy()
