"""The three views as one network on volumes, for programs that know nothing of this package.

Needs torch and ``network.py`` beside it: ``quicknat export`` puts a copy of both beside the
weights, which is why the import is a relative one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .network import NetworkSettings, QuickNAT

AXES = {"sagittal": 2, "coronal": 3, "axial": 4}  # that a view's slices cut, in (N, C, X, Y, Z)
BRIGHT = 25 / 255  # brighter than air
MIN_BRIGHT = 0.005  # share of such pixels in the slices that the networks were trained on
BATCH = 4  # slices at a time


class ThreeViews(nn.Module):
    """(N, 1, S, S, S) intensities in 0 … 1, RAS+ axes, to (N, C, S, S, S) probabilities.

    The same aggregation as :func:`quicknat.segmentation.inference.aggregate` (paper, section 2.4),
    but for whole volumes. S is a multiple of 16.

    Args:
        settings: keyword arguments of :class:`NetworkSettings`, by view.
        sagittal: class of the sagittal network for each class, which merges left and right.
        weights: share of each view.
        mirror: class that each becomes in a mirror; where given, coronal and axial slices are seen
            from both sides and the two predictions averaged.
    """

    def __init__(
        self,
        settings: Mapping[str, Mapping],
        sagittal: Sequence[int],
        weights: Mapping[str, float],
        mirror: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.mirror = None if mirror is None else list(mirror)
        self.n_classes = len(sagittal)
        self.register_buffer("sagittal", torch.tensor(sagittal), persistent=False)
        merged = max(sagittal) + 1
        self.views = nn.ModuleDict(
            {
                view: QuickNAT(
                    merged if view == "sagittal" else self.n_classes,
                    NetworkSettings(**settings[view]),
                )
                for view in AXES
            }
        )

    def forward(self, volumes: Tensor) -> Tensor:
        n, _, *shape = volumes.shape
        total = volumes.new_zeros(n, self.n_classes, *shape)
        for view, axis in AXES.items():
            slices = volumes.movedim(axis, 1).flatten(0, 1)  # (N·S, 1, …)
            # where the slices of a view's sum are, in the same order as `slices`
            sums = total.movedim(axis, 1)
            seen = (slices > BRIGHT).float().mean(dim=(1, 2, 3)) > MIN_BRIGHT
            sums[(~seen).reshape(n, -1)] += self.background(view, sums)
            for some in seen.nonzero()[:, 0].split(BATCH):
                probabilities = self.views[view](slices[some]).softmax(dim=1)
                if view == "sagittal":
                    probabilities = probabilities[:, self.sagittal]
                elif self.mirror is not None:
                    other = self.views[view](slices[some].flip(2)).softmax(dim=1).flip(2)
                    probabilities = (probabilities + other[:, self.mirror]) / 2
                scan, number = some // shape[axis - 2], some % shape[axis - 2]
                sums[scan, number] += self.weights[view] * probabilities
        return total

    def background(self, view: str, like: Tensor) -> Tensor:
        """What a view adds where there is nothing to see, (C, 1, 1)."""
        sure = like.new_zeros(self.n_classes, 1, 1)
        sure[0] = self.weights[view]
        return sure
