"""Uncertainty of a segmentation: entropy, agreement of the views, spread of sampled ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from quicknat.images.labels import Protocol


def split_sides(probabilities: torch.Tensor, swapped: torch.Tensor) -> torch.Tensor:
    """Return aggregated probabilities that add up to 1.

    The sagittal network does not tell left from right: :func:`quicknat.model.views.aggregate` adds
    what it gives to a pair of structures to both, so the sum over classes exceeds 1 by all that was
    added twice. Here both share it, in proportion to what the other views give them. Of several
    pairs at one voxel, each was given at most the lesser of its two sides; the excess is divided
    among them in proportion to that.

    Args:
        probabilities: (C, …), of three views whose weights add up to 1.
        swapped: of the protocol, int64 (C,).
    """
    paired = (swapped != torch.arange(len(swapped), device=swapped.device)).float()
    lesser = torch.minimum(probabilities, probabilities[swapped])
    lesser *= paired.view(-1, *[1] * (probabilities.ndim - 1))
    twice = 2 * (probabilities.sum(dim=0) - 1)  # both sides' part of the excess
    sagittal = lesser * (twice / lesser.sum(dim=0).clamp(min=1e-6)).clamp(0, 1)
    others = probabilities - sagittal
    both = others + others[swapped]
    shared = others + sagittal * torch.where(both > 0, others / both, 0.5)
    # label tables may merge classes in the sagittal view that are not partners
    return shared / shared.sum(dim=0).clamp(min=1e-6)


def normalised_entropy(probabilities: torch.Tensor, swapped: np.ndarray) -> torch.Tensor:
    """Return the entropy over the first axis as a fraction of the largest possible, 0 … 1.

    Args:
        probabilities: aggregated, (C, X, Y, Z).
        swapped: of the protocol, see :func:`split_sides`.
    """
    result = torch.zeros(probabilities.shape[1:], device=probabilities.device)
    other = torch.from_numpy(swapped).to(probabilities.device)
    # in slabs, or it would need several times the memory of the probabilities
    for slab, entropy in zip(probabilities.split(8, dim=1), result.split(8), strict=True):
        fractions = split_sides(slab, other)
        entropy.copy_(torch.special.entr(fractions).sum(dim=0) / np.log(len(fractions)))
    return result


def mean_per_class(values: torch.Tensor, labels: torch.Tensor, n_classes: int) -> np.ndarray:
    """Return the mean of a map over each class's voxels, float (C,); NaN where it is absent."""
    labels = labels.flatten()
    sums = torch.bincount(labels, weights=values.flatten().double(), minlength=n_classes)
    return (sums / torch.bincount(labels, minlength=n_classes)).cpu().numpy()


def view_agreement(
    views: Mapping[str, torch.Tensor], labels: torch.Tensor, protocol: Protocol
) -> np.ndarray:
    """Return the Dice between each view's own map and the result, mean over views, float (C,).

    Args:
        views: each view's map, (X, Y, Z); the sagittal one in its merged classes.
        labels: the result, int64 (X, Y, Z).
        protocol: says which classes the sagittal view merges.
    """
    merged = torch.tensor(protocol.sagittal).to(labels.device)
    agreement = []
    for view, own in views.items():
        n, result = protocol.n_classes(view), merged[labels] if view == "sagittal" else labels
        pairs = torch.bincount((result * n + own).flatten(), minlength=n * n).view(n, n).double()
        dice = 2 * pairs.diagonal() / (pairs.sum(dim=0) + pairs.sum(dim=1))
        agreement.append(dice[merged] if view == "sagittal" else dice)
    return torch.stack(agreement).mean(dim=0).cpu().numpy()


def structure_uncertainty(
    samples: Sequence[np.ndarray], n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the agreement of Monte-Carlo samples (Roy et al., NeuroImage 195, 2019, section 2.4).

    Args:
        samples: label maps of one shape, class indices below `n_classes`.

    Returns:
        Two float (C,) arrays: IoU, voxels that all samples give to a class over those that any
        does; and CV, standard deviation over mean of the class's volume. NaN where no sample has
        the class.
    """
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
