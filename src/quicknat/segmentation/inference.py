"""From a conformed scan to a label map on its native grid."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from tqdm import tqdm

from quicknat.errors import InputError
from quicknat.images.conform import head_window
from quicknat.images.resampling import moved
from quicknat.images.slices import AXIS, VIEWS, crop, filled_enough
from quicknat.images.training_stats import BRIGHT, ScanStatistics, describe_scan
from quicknat.images.volumes import Grid
from quicknat.model.bundle import Bundle
from quicknat.progress import no_bar
from quicknat.segmentation.confidence import mean_per_class, normalised_entropy, view_agreement
from quicknat.segmentation.native import entropy_to_native, to_native, votes_to_native
from quicknat.segmentation.uncertainty import structure_uncertainty

log = logging.getLogger(__name__)

MIN_BRIGHT = 0.005  # share of bright pixels that makes a slice worth looking at
HALF = 0.5  # voxel


@dataclass(frozen=True)
class Segmentation:
    """Result on the native grid.

    ``labels`` uint8 class indices; ``confidence`` maps a measure to one value per class, NaN where
    the class is absent:

    - ``uncertainty``: mean normalised entropy of the aggregated probabilities over the structure's
      voxels, 0 (sure) … 1;
    - ``view_agreement``: Dice between each view's own map and the result, mean over the views;
    - ``iou`` and ``cv`` of Monte-Carlo samples, see :mod:`quicknat.segmentation.uncertainty`.

    Where the bundle looks at the scan a second time, half a voxel on, ``labels`` come from both
    passes, all else from the first.

    ``entropy``: normalised entropy of the aggregated probabilities at each voxel, of their mean
    where there are Monte-Carlo samples; float32 0 … 1 on the native grid.
    ``views``: each view's own labels, if wanted; in the sagittal one, which knows no sides, a
    merged class has the index of the first class that it merges.
    ``statistics``: of the window that the networks saw, to compare with the training scans.
    ``seconds``: what the stages took: the networks, the scores, the way to the native grid.
    """

    labels: np.ndarray
    grid: Grid
    confidence: dict[str, np.ndarray]
    entropy: np.ndarray
    views: dict[str, np.ndarray]
    statistics: ScanStatistics
    seconds: dict[str, float]


@dataclass(frozen=True)
class Prediction:
    """Aggregated probabilities of a box of the window that the networks see.

    ``probabilities`` float32 (C, X, Y, Z); ``start`` the box's first voxel in that window;
    ``votes`` uint8 (X, Y, Z) by view, each view's most probable class among its own; of
    Monte-Carlo samples the first one's.
    """

    probabilities: torch.Tensor
    start: tuple[int, int, int]
    votes: dict[str, torch.Tensor]


def filled_slices(image: np.ndarray, view: str) -> np.ndarray:
    """Numbers of the slices of a view that show something; the networks never saw another kind."""
    bright = np.moveaxis(image > BRIGHT, AXIS[view], 0)
    return np.flatnonzero(bright.mean(axis=(1, 2)) > MIN_BRIGHT)


@torch.inference_mode()
def slice_probabilities(
    bundle: Bundle, view: str, image: np.ndarray, batch: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Softmax of one view, slice by slice where there is something to see.

    Where the bundle mirrors, coronal and axial slices are seen from both sides, and the two
    predictions averaged.

    Args:
        image: uint8 (S, S, S), RAS+, the window that the networks see.
        batch: slices per forward pass.

    Yields:
        Number of the slice, and float32 (H, W, C) on the processor; C are all classes of the
        protocol, in the sagittal view both sides' with the probability of their merged one.
    """
    network = bundle.networks[view]
    swapped = torch.from_numpy(bundle.protocol.swapped) if bundle.mirror else None
    device = next(network.parameters()).device
    classes = torch.tensor(bundle.protocol.sagittal) if view == "sagittal" else slice(None)
    slices = np.moveaxis(image, AXIS[view], 0)
    numbers = filled_slices(image, view)
    while len(numbers):
        some = numbers[:batch]
        values = torch.from_numpy(slices[some].astype(np.float32) / 255)[:, None]
        try:
            values = values.to(device, memory_format=torch.channels_last)
            probabilities = network(values).softmax(dim=1)
            if swapped is not None and view != "sagittal":  # which has but one side
                other = network(values.flip(2)).softmax(dim=1).flip(2)
                probabilities = (probabilities + other[:, swapped]) / 2
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
            torch.cuda.empty_cache()
            log.warning("the GPU's memory is full; going on with %d slices at a time", batch)
            continue
        probabilities = probabilities.cpu()[:, classes].movedim(1, -1)
        yield from zip(some.tolist(), probabilities, strict=True)
        numbers = numbers[batch:]


@torch.inference_mode()
def aggregate(bundle: Bundle, image: np.ndarray, batch: int = 4) -> Prediction:
    """Weighted mean of the three views' probabilities (section 2.4).

    The slices are added up as they come, so that memory holds one volume of probabilities, cut to
    the box of what the views can see; outside of it all is background.

    Args:
        image: uint8 (S, S, S), RAS+, the window that the networks see.
        batch: slices per forward pass.
    """
    seen = {view: filled_slices(image, view) for view in VIEWS}
    if not all(map(len, seen.values())):
        nothing = torch.zeros(len(bundle.protocol.names), 0, 0, 0)
        return Prediction(nothing, (0, 0, 0), {view: nothing[0].byte() for view in VIEWS})
    ranges = sorted((AXIS[view], some.min(), some.max() + 1) for view, some in seen.items())
    box = tuple(slice(int(first), int(last)) for _, first, last in ranges)
    shape = tuple(part.stop - part.start for part in box)
    total = torch.zeros(*shape, len(bundle.protocol.names))
    votes = {view: torch.zeros(shape, dtype=torch.uint8) for view in VIEWS}
    merged = torch.tensor(bundle.protocol.sagittal, dtype=torch.uint8)
    for view in VIEWS:
        axis, weight = AXIS[view], bundle.weights[view]
        inside = tuple(part for other, part in enumerate(box) if other != axis)
        empty = np.setdiff1d(np.arange(box[axis].start, box[axis].stop), seen[view])
        for number in empty - box[axis].start:
            total.select(axis, number)[..., 0] += weight
        for number, probabilities in slice_probabilities(bundle, view, image, batch):
            ours, here = probabilities[inside], number - box[axis].start
            total.select(axis, here).add_(ours, alpha=weight)
            vote = ours.argmax(dim=-1)
            votes[view].select(axis, here).copy_(merged[vote] if view == "sagittal" else vote)
    x, y, z = (part.start for part in box)
    return Prediction(total.movedim(-1, 0), (x, y, z), votes)


@contextmanager
def dropout_on(bundle: Bundle) -> Iterator[None]:
    """Inside the block the networks drop channels at random, as in training.

    Raises:
        InputError: a network was trained without dropout, so its samples would be all alike.
    """
    for view, network in bundle.networks.items():
        if not network.settings.dropout:
            raise InputError(
                f"the {view} network", "was trained without dropout, so it cannot be sampled",
                "train with 'dropout' above 0, or leave out --uncertainty",
            )  # fmt: skip
        network.dropout.train()
    try:
        yield
    finally:
        for network in bundle.networks.values():
            network.dropout.eval()


@torch.inference_mode()
def sample(
    bundle: Bundle, image: np.ndarray, samples: int, batch: int
) -> tuple[Prediction, dict[str, np.ndarray]]:
    """Mean of Monte-Carlo dropout samples, and how they differ per class (Bayesian QuickNAT).

    The random numbers depend on the number of the sample and the size of the batches alone, so the
    result is the same each time. Nothing is mirrored: the mean of two would vary less than the
    paper's samples do.
    """
    bundle = replace(bundle, mirror=False)
    labels: list[np.ndarray] = []
    mean: Any = None  # until the first sample
    with dropout_on(bundle):
        for number in tqdm(range(samples), desc="samples", leave=False, disable=no_bar()):
            torch.manual_seed(number)
            one = aggregate(bundle, image, batch)
            labels.append(one.probabilities.argmax(dim=0).byte().numpy())
            if mean is None:
                mean = one
                mean.probabilities.div_(samples)
            else:
                mean.probabilities.add_(one.probabilities, alpha=1 / samples)
    iou, cv = structure_uncertainty(labels, len(bundle.protocol.names))
    return mean, {"iou": iou, "cv": cv}


def shifted(image: np.ndarray) -> np.ndarray:
    """Values of a uint8 image half a voxel on along each axis, by cubic splines."""
    values = ndimage.shift(image.astype(np.float32), -HALF, order=3, mode="nearest")
    return np.rint(values.clip(0, 255)).astype(np.uint8)


def segment(
    bundle: Bundle,
    image: np.ndarray,
    affine: np.ndarray,
    native: Grid,
    batch: int = 4,
    samples: int = 0,
    views: bool = False,
) -> Segmentation:
    """Segment a conformed scan and return to the native grid.

    Args:
        bundle: the model.
        image: uint8 conformed scan.
        affine: its voxel-to-world.
        native: the grid that the scan came on.
        batch: slices per forward pass.
        samples: Monte-Carlo dropout samples, which stand in for the bundle's mirror and shift; 0 to
            segment without dropout.
        views: return each view's own labels too.

    Raises:
        InputError: samples of networks that were trained without dropout.
    """
    first = head_window(image, bundle.spacing_mm, bundle.slice_size)
    window = crop(image, first, bundle.slice_size)
    confidence: dict[str, np.ndarray] = {}
    times = [time.perf_counter()]
    if samples:
        prediction, confidence = sample(bundle, window, samples, batch)
    else:
        prediction = aggregate(bundle, window, batch)
    probabilities = prediction.probabilities
    box_affine = moved(affine, np.add(first, prediction.start))
    parts = [(probabilities, box_affine)]
    if bundle.shift and not samples:
        second = aggregate(bundle, shifted(window), batch)
        start = np.add(first, second.start) + HALF
        parts.append((second.probabilities, moved(affine, start)))
    times.append(time.perf_counter())
    classes = probabilities.argmax(dim=0)
    entropy = normalised_entropy(probabilities)
    confidence |= {
        "uncertainty": mean_per_class(entropy, classes, len(probabilities)),
        "view_agreement": view_agreement(prediction.votes, classes, bundle.protocol),
    }
    seen = np.zeros(window.shape, dtype=np.uint8)
    box = (slice(f, f + n) for f, n in zip(prediction.start, classes.shape, strict=True))
    seen[tuple(box)] = classes.numpy()
    coronal = zip(*(np.moveaxis(part, AXIS["coronal"], 0) for part in (window, seen)), strict=True)
    learnt = filled_enough(np.moveaxis(seen, AXIS["coronal"], 0))
    labelled = (pair for pair, like in zip(coronal, learnt, strict=True) if like)
    statistics = describe_scan(labelled, len(probabilities))
    times.append(time.perf_counter())
    labels = to_native(parts, native)
    entropy_there = entropy_to_native(entropy, box_affine, native)
    own = votes_to_native(prediction.votes, box_affine, native, bundle.protocol) if views else {}
    times.append(time.perf_counter())
    took = np.diff(times).round(2).tolist()
    seconds = dict(zip(("networks", "scores", "native"), took, strict=True))
    return Segmentation(labels, native, confidence, entropy_there, own, statistics, seconds)
