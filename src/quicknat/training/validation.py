"""How good a network is on slices that it is not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from quicknat.model.losses import CombinedLoss


@torch.no_grad()
def validate(
    fabric: Fabric,
    model: Callable[[torch.Tensor], torch.Tensor],
    loss: CombinedLoss,
    loader: Iterable[dict[str, torch.Tensor]],
    n_classes: int,
) -> tuple[float, np.ndarray]:
    """Mean loss and Dice per class over all slices of all processes together.

    Returns:
        The loss, and float (C,) Dice; NaN for a class that is in neither map.
    """
    # pixels per class: right, predicted, true; then the sum of the losses and their number
    sums = torch.zeros(3 * n_classes + 2, dtype=torch.float64, device=fabric.device)
    for batch in loader:
        logits, labels = model(batch["image"]), batch["labels"].long()
        predicted = logits.argmax(dim=1)
        maps = labels[predicted == labels], predicted, labels
        counts = [torch.bincount(pixels.flatten(), minlength=n_classes) for pixels in maps]
        slices = torch.tensor(len(labels), device=fabric.device)
        sums += torch.cat([*counts, torch.stack((sum(loss(logits, labels)) * slices, slices))])
    everywhere: Any = fabric.all_reduce(sums, reduce_op="sum")
    *pixels, total, slices = everywhere.cpu().numpy()
    right, predicted, true = np.reshape(pixels, (3, n_classes))
    size = predicted + true
    dice = np.divide(2 * right, size, out=np.full(n_classes, np.nan), where=size > 0)
    return float(total / slices), dice
