"""Aggregate the probabilities of the three views' networks over one volume.

Needs torch and ``network.py`` beside it: ``quicknat export`` copies both beside the weights, which
is why the import is a relative one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .network import LEVELS, NetworkSettings, QuickNAT

log = logging.getLogger(__name__)

AXES = {"coronal": 1, "axial": 2, "sagittal": 0}  # RAS+ axis that a view's slices cut across
BRIGHT = 25  # of 255: brighter than air
MULTIPLE = 2**LEVELS  # sides of slices are multiples of it
GROUP = 8  # neighbouring slices that are cut alike
MIN_BRIGHT = 0.005  # fraction of such pixels in the slices that networks are trained on

Cut = tuple[Tensor, slice, slice]  # numbers of slices, and their rows and columns to look at
Progress = Callable[[int, int], None]  # slices just done, slices in all


@dataclass(frozen=True)
class Prediction:
    """Aggregated probabilities of a box of a window; the rest of the window is background.

    ``probabilities``: float32 (C, X, Y, Z). ``start``: the box's first voxel in the window.
    ``views``: each view's own most probable class, uint8 (X, Y, Z), of that network's classes.
    ``at_edge``: pixels of structures on the sides of slices, by view.
    """

    probabilities: Tensor
    start: tuple[int, int, int]
    views: dict[str, Tensor]
    at_edge: dict[str, Tensor]


def filled_slices(window: Tensor, view: str) -> Tensor:
    """Return the numbers of the slices that show more than air, int64 (n,).

    Networks are trained on no other kind; what the others show is background.

    Args:
        window: (X, Y, Z), uint8, or float 0 … 1.
        view: a key of ``AXES``.
    """
    bright = window > (BRIGHT if window.dtype == torch.uint8 else BRIGHT / 255)
    others = [axis for axis in range(3) if axis != AXES[view]]
    pixels = window.numel() // window.shape[AXES[view]]
    return (bright.sum(dim=others) > MIN_BRIGHT * pixels).nonzero()[:, 0]


def with_neighbours(stack: Tensor, numbers: Tensor, count: int) -> Tensor:
    """Return slices with their neighbours on both sides, `count` in all, (n, count, …).

    The first and the last slice of a stack stand in for neighbours beyond it.

    Args:
        stack: (N, …).
        numbers: of the slices wanted, int64 (n,).
        count: odd.
    """
    offsets = torch.arange(count, device=numbers.device) - count // 2
    return stack[(numbers[:, None] + offsets).clamp(0, len(stack) - 1)]


def cuts_around(near: Tensor, numbers: Tensor) -> list[Cut]:
    """Return slices in groups of neighbours, each cut to what is near in any slice of the group.

    Groups do not depend on the size of batches, so that labels do not.

    Args:
        near: (N, H, W), bool, on the CPU; H and W are multiples of 16, and so are sides of cuts.
        numbers: of the slices wanted, int64 (n,).
    """
    groups = []
    for some in numbers.split(GROUP):
        seen, parts = near[some].any(dim=0), []
        for across, side in ((1, seen.shape[0]), (0, seen.shape[1])):
            where = seen.any(dim=across).nonzero()[:, 0].tolist()
            length = MULTIPLE * math.ceil((where[-1] + 1 - where[0]) / MULTIPLE)
            start = min(max((where[0] + where[-1] + 1 - length) // 2, 0), side - length)
            parts.append(slice(start, start + length))
        groups.append((some, parts[0], parts[1]))
    return groups


def slice_probabilities(
    network: QuickNAT,
    slices: Tensor,
    cuts: Sequence[Cut],
    flipped: Sequence[int] | Tensor | None = None,
    batch: int = 4,
) -> Iterator[tuple[Cut, Tensor]]:
    """Yield the softmax of some slices, batch by batch, on the device of the slices.

    Args:
        network: a QuickNAT, on its own device.
        slices: (N, H, W), uint8, or float 0 … 1.
        cuts: the slices wanted, their numbers on the CPU.
        flipped: if given, average with the prediction for the left–right flipped slice: the class
            that each class becomes in it. H is then the left–right axis.
        batch: slices per forward pass; halved when the GPU's memory is full.

    Yields:
        A cut of k slices, and its float32 probabilities (k, h, w, C).
    """
    device, count = next(network.parameters()).device, network.settings.slices
    flipped = None if flipped is None else torch.as_tensor(flipped).to(device)
    for numbers, rows, columns in cuts:
        cut = slices[:, rows, columns]
        while len(numbers):
            some = numbers[:batch]
            values = with_neighbours(cut, some.to(cut.device), count).contiguous()
            values = values.float() / 255 if values.dtype == torch.uint8 else values
            try:
                values = values.to(device, memory_format=torch.channels_last)
                probabilities = network(values).softmax(dim=1)
                if flipped is not None:
                    other = network(values.flip(2)).softmax(dim=1).flip(2)
                    probabilities = (probabilities + other[:, flipped]) / 2
            except torch.OutOfMemoryError:
                if batch == 1:
                    raise
                batch //= 2
                torch.cuda.empty_cache()
                log.warning("the GPU's memory is full; continuing with %d slices at a time", batch)
                continue
            yield (some, rows, columns), probabilities.to(slices.device).movedim(1, -1)
            numbers = numbers[batch:]


def _shared(cut: slice, box: slice) -> tuple[slice, slice]:
    """Return what a cut and a box share, as part of the cut and as part of the box."""
    start = max(cut.start, box.start)
    stop = max(start, min(cut.stop, box.stop))
    return slice(start - cut.start, stop - cut.start), slice(start - box.start, stop - box.start)


@torch.inference_mode()
def aggregate(
    networks: Mapping[str, QuickNAT],
    window: Tensor,
    weights: Mapping[str, float],
    sagittal: Sequence[int],
    flipped: Sequence[int] | None = None,
    batch: int = 4,
    progress: Progress | None = None,
    near: Tensor | None = None,
) -> Prediction:
    """Return the weighted mean of the views' probabilities (Roy et al. 2019, section 2.4).

    Slices are added up as they come: memory holds one volume of probabilities, cut to the box
    that all views can see, on the device of the window.

    Args:
        networks: by view, with the prior correction in their biases; one view alone will do, too.
        window: (X, Y, Z), RAS+ axes, uint8, or float 0 … 1; sides are multiples of 16.
        weights: fraction of each view.
        sagittal: for each class its class in the sagittal network, which merges left and right.
        flipped: for each class the one that it becomes in a left–right flip. If given, coronal and
            axial slices are predicted a second time flipped, and both predictions averaged.
        batch: slices per forward pass.
        progress: called after each batch.
        near: voxels near the brain, bool (X, Y, Z), on the CPU. If given, slices are cut to them,
            and the rest is background: for networks trained on cut slices.
    """
    merged = torch.as_tensor(sagittal).to(window.device)
    filled = {view: filled_slices(window, view).cpu() for view in AXES if view in networks}
    box = [slice(0, side) for side in window.shape]
    for view, numbers in filled.items():
        if near is not None:
            numbers = numbers[near.movedim(AXES[view], 0)[numbers].flatten(1).any(dim=1)]
            filled[view] = numbers
        listed = numbers.tolist() or [0]
        box[AXES[view]] = slice(listed[0], listed[-1] + 1)
    if not all(map(len, filled.values())):  # nothing but air: one voxel of background
        box = [slice(0, 1)] * 3
        filled = dict.fromkeys(filled, torch.arange(0))
    shape = [part.stop - part.start for part in box]
    count = sum(map(len, filled.values()))
    total = torch.zeros(*shape, len(merged), device=window.device)
    views = {view: torch.zeros(shape, dtype=torch.uint8, device=window.device) for view in filled}
    at_edge = {view: torch.zeros((), dtype=torch.int64, device=window.device) for view in filled}
    for view, numbers in filled.items():
        axis, weight = AXES[view], weights[view]
        inside = [part for other, part in enumerate(box) if other != axis]
        sums, own = total.movedim(axis, 0), views[view].movedim(axis, 0)
        seen = torch.zeros(own.shape, dtype=torch.bool, device=window.device)
        slices, both = window.movedim(axis, 0), None if view == "sagittal" else flipped
        cuts = [(numbers, slice(0, slices.shape[1]), slice(0, slices.shape[2]))]
        if near is not None and len(numbers):
            cuts = cuts_around(near.movedim(axis, 0), numbers)
        for (some, *cut), found in slice_probabilities(networks[view], slices, cuts, both, batch):
            labels = found.argmax(dim=-1).byte()
            sides = labels[:, :: labels.shape[1] - 1], labels[:, :, :: labels.shape[2] - 1]
            at_edge[view] += sum(side.count_nonzero() for side in sides)
            (here, there), (across, over) = map(_shared, cut, inside)
            some = (some - box[axis].start).to(window.device)
            own[:, there, over][some] = labels[:, here, across]
            seen[:, there, over][some] = True
            found = found[:, here, across, merged] if view == "sagittal" else found[:, here, across]
            sums[:, there, over].index_add_(0, some, found, alpha=weight)
            if progress:
                progress(len(some), count)
        sums[..., 0] += weight * ~seen
    first, second, third = (part.start for part in box)
    return Prediction(total.movedim(-1, 0), (first, second, third), views, at_edge)


class ThreeViews(nn.Module):
    """(N, 1, S, S, S) intensities 0 … 1 on RAS+ axes to (N, C, S, S, S) probabilities.

    :func:`aggregate` as one network, for programs that know nothing of this package. S is a
    multiple of 16.

    Args:
        settings: keyword arguments of :class:`NetworkSettings`, by view.
        sagittal, weights, flipped: see :func:`aggregate`.
    """

    def __init__(
        self,
        settings: Mapping[str, Mapping],
        sagittal: Sequence[int],
        weights: Mapping[str, float],
        flipped: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.aggregate = partial(aggregate, weights=weights, sagittal=sagittal, flipped=flipped)
        self.n_classes = len(sagittal)
        classes = dict.fromkeys(AXES, self.n_classes) | {"sagittal": max(sagittal) + 1}
        self.views: Any = nn.ModuleDict(
            {view: QuickNAT(classes[view], NetworkSettings(**settings[view])) for view in AXES}
        )

    def forward(self, volumes: Tensor) -> Tensor:
        n, _, *shape = volumes.shape
        result = volumes.new_zeros(n, self.n_classes, *shape)
        result[:, 0] = 1
        for whole, volume in zip(result, volumes[:, 0], strict=True):
            found = self.aggregate(self.views, volume)
            sides = zip(found.start, found.probabilities.shape[1:], strict=True)
            box = tuple(slice(first, first + side) for first, side in sides)
            whole[(slice(None), *box)] = found.probabilities
        return result
