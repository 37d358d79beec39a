"""QuickNAT's loss: weighted cross-entropy plus Dice (Roy et al. 2019, section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def class_weights(counts: np.ndarray, power: float = 1.0, cap: float | None = None) -> np.ndarray:
    """Return median-frequency class weights, ``(median(f) / f_l) ** power``, float32 (C,).

    Args:
        counts: pixels per class, summed over the whole training set (C,).
        power: 1 as in the paper; lower values are milder, as short training needs.
        cap: upper limit of a weight.

    A class that never occurs gets weight 0, and the median is over the classes that do occur.
    """
    present = counts > 0
    frequency = counts / counts.sum()
    weights = np.zeros(len(counts))
    weights[present] = (np.median(frequency[present]) / frequency[present]) ** power
    return np.minimum(weights, np.inf if cap is None else cap).astype(np.float32)


def prior_offsets(weights: Sequence[float], share: float) -> Tensor:
    """Return the offsets that correct a network's logits for its class weights, float32 (C,).

    Cross-entropy weighted by `w` is lowest where the softmax is proportional to ``w · p``, with `p`
    the true fraction of a class at such a pixel. Rare classes are thus overestimated, which adding
    ``-share · log w`` corrects (logit adjustment: Menon et al., ICLR 2021).

    Args:
        weights: from :func:`class_weights`; a class of weight 0 is left unchanged.
        share: 1 corrects fully, 0 not at all.
    """
    given = torch.tensor(weights, dtype=torch.float32)
    return torch.where(given > 0, -share * given.clamp(min=1e-6).log(), 0.0)


def edge_weight(counts: np.ndarray, power: float = 1.0, cap: float | None = None) -> float:
    """Return the extra weight ω0 of boundary pixels: twice that of the rarest class present."""
    return 2.0 * float(class_weights(counts, power, cap).max())


def edges(labels: Tensor) -> Tensor:
    """Return where the central difference of the label map is not zero, bool (N, H, W).

    This is |∇S| > 0 with numpy's gradient, so a boundary is two pixels wide.
    """
    padded = F.pad(labels[:, None].float(), (1, 1, 1, 1), mode="replicate")[:, 0]
    across = padded[:, 1:-1, 2:] != padded[:, 1:-1, :-2]
    along = padded[:, 2:, 1:-1] != padded[:, :-2, 1:-1]
    return across | along


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Return the mean over all pixels of cross-entropy times weight.

    Args:
        logits: (N, C, H, W).
        labels: int64 (N, H, W).
        weight: (N, H, W).
    """
    return (F.cross_entropy(logits, labels, reduction="none") * weight).mean()


DiceReduction = Literal["batch", "slice"]


def dice_loss(logits: Tensor, labels: Tensor, reduction: DiceReduction = "slice") -> Tensor:
    """Return 1 - Dice of the softmax, averaged over classes.

    Args:
        logits: (N, C, H, W).
        labels: int64 (N, H, W).
        reduction: ``slice``: Dice of each slice, averaged (the paper). ``batch``: of all slices as
            if they were one, in which a structure's few pixels in one slice weigh little.
    """
    pixels = (2, 3) if reduction == "slice" else (0, 2, 3)
    probabilities = logits.softmax(dim=1)
    truth = F.one_hot(labels, logits.shape[1]).movedim(-1, 1).to(probabilities.dtype)
    overlap = (probabilities * truth).sum(dim=pixels)
    total = probabilities.sum(dim=pixels) + truth.sum(dim=pixels)
    return (1 - 2 * overlap / (total + 1e-4)).mean()


class CombinedLoss(nn.Module):
    """Cross-entropy weighted by class and edge, plus Dice, in equal parts.

    ``ω(x) = Σ_l [S(x)=l] · median(f)/f_l + ω0 · [|∇S(x)| > 0]``
    """

    weights: Tensor  # the buffer

    def __init__(
        self, weights: np.ndarray, edge: float, dice_reduction: DiceReduction = "slice"
    ) -> None:
        super().__init__()
        self.register_buffer("weights", torch.as_tensor(weights))
        self.edge = edge
        self.dice_reduction = dice_reduction

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted cross-entropy and Dice loss of a batch; their sum is to be minimised.

        Args:
            logits: (N, C, H, W).
            labels: uint8 or int64 (N, H, W).
        """
        logits, labels = logits.float(), labels.long()
        weight = self.weights[labels] + self.edge * edges(labels)
        dice = dice_loss(logits, labels, self.dice_reduction)
        return weighted_cross_entropy(logits, labels, weight), dice
