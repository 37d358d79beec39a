"""From a conformed scan to a label map on its native grid."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from quicknat.errors import InputError
from quicknat.hardware import computes_in_bfloat16
from quicknat.images.conform import head_window
from quicknat.images.resampling import moved, resample_labels
from quicknat.images.slices import filled_enough, to_slices
from quicknat.images.training_stats import ScanStatistics, describe_scan
from quicknat.images.volumes import Grid, Volume
from quicknat.model.bundle import Bundle
from quicknat.model.views import Prediction, Progress, aggregate
from quicknat.segmentation.intracranial import (
    Box,
    Intracranial,
    brain_box,
    brain_mask,
    find_cavity,
    near_brain,
    remove_strays,
)
from quicknat.segmentation.native import Part, map_to_native, to_native
from quicknat.segmentation.uncertainty import (
    mean_per_class,
    normalised_entropy,
    structure_uncertainty,
    view_agreement,
)

log = logging.getLogger(__name__)

HALF = 0.5  # voxel
# of structures on the sides of a view's cut slices: 0 in 8 scans with the bundled models, 340 with
# the demo's, thousands where a part of the brain is cut off
MAX_AT_EDGE_MM2 = 1000


@dataclass(frozen=True)
class Segmentation:
    """Result on the native grid.

    ``labels``: uint8 class indices. ``uncertainty``: by measure one value per class, NaN where the
    class is absent:

    - ``uncertainty``: mean normalised entropy of the aggregated probabilities over the structure's
      voxels, 0 … 1;
    - ``view_agreement``: Dice between each view's own map and the result, mean over the views;
    - ``iou`` and ``cv`` of Monte-Carlo samples, see :func:`structure_uncertainty`.

    ``entropy``: normalised entropy of the aggregated probabilities at each voxel, of their mean
    where there are Monte-Carlo samples; float32 0 … 1.
    ``views``: each view's own labels, if wanted. The sagittal one does not tell left from right: a
    merged class has the index of the first class that it merges.
    ``statistics``: of the window that training sees, to compare with the training scans.
    ``intracranial``: brain mask and intracranial volume.
    ``seconds``: of the networks, the scores, the resampling to the native grid, the brain mask.

    With the half-voxel shift ``labels`` come from both passes, all else from the first. Samples
    may hold scalp that was removed from all else.
    """

    labels: np.ndarray
    grid: Grid
    uncertainty: dict[str, np.ndarray]
    entropy: np.ndarray
    views: dict[str, np.ndarray]
    statistics: ScanStatistics
    intracranial: Intracranial
    seconds: dict[str, float]


def device_of(bundle: Bundle) -> torch.device:
    """Return the device of a model's networks."""
    return next(bundle.networks["coronal"].parameters()).device


@torch.inference_mode()
def warm_up(bundle: Bundle, batch: int) -> None:
    """Predict slices of air, so that a GPU has loaded its libraries before there is a scan."""
    for network in bundle.networks.values():
        shape = batch, network.settings.slices, *[bundle.slice_size] * 2
        air = torch.zeros(shape, device=device_of(bundle))
        network(air.to(memory_format=torch.channels_last))


def predict(
    bundle: Bundle,
    window: np.ndarray,
    batch: int = 4,
    progress: Progress | None = None,
    device: str | torch.device = "cpu",
    near: torch.Tensor | None = None,
) -> Prediction:
    """Return the aggregated probabilities of a window, uint8 (X, Y, Z), RAS+ axes, on `device`.

    `near`: see :func:`quicknat.model.views.aggregate`.
    """
    voxels = torch.from_numpy(window.copy()).to(device)
    return aggregate(
        bundle.networks, voxels, **bundle.aggregation, batch=batch, progress=progress, near=near
    )


@contextmanager
def dropout_on(bundle: Bundle) -> Iterator[None]:
    """Inside the block the networks drop channels at random, as in training.

    Raises:
        InputError: a network was trained without dropout, so its samples would all be alike.
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


def sample(
    bundle: Bundle,
    window: np.ndarray,
    samples: int,
    batch: int,
    progress: Progress | None = None,
    device: str | torch.device = "cpu",
    near: torch.Tensor | None = None,
) -> tuple[Prediction, dict[str, np.ndarray]]:
    """Return the mean of Monte-Carlo dropout samples, and how they differ per class.

    The random numbers depend on the number of the sample and the size of the batches alone, so the
    result is the same each time. Nothing is flipped: the mean of two would vary less than the
    samples of Bayesian QuickNAT do.
    """
    bundle = replace(bundle, flip=False)
    labels: list[np.ndarray] = []
    mean: Any = None  # until the first sample
    with dropout_on(bundle):
        for number in range(samples):
            torch.manual_seed(number)
            one = predict(bundle, window, batch, progress, device, near)
            labels.append(one.probabilities.argmax(dim=0).byte().cpu().numpy())
            with torch.inference_mode():
                if mean is None:
                    mean = one
                    mean.probabilities.div_(samples)
                else:
                    mean.probabilities.add_(one.probabilities, alpha=1 / samples)
            del one  # a volume of probabilities, before the next one is made
    iou, cv = structure_uncertainty(labels, len(bundle.protocol.names))
    return mean, {"iou": iou, "cv": cv}


def shifted(window: np.ndarray) -> np.ndarray:
    """Return a uint8 image half a voxel further along each axis, by cubic splines."""
    values = ndimage.shift(window.astype(np.float32), -HALF, order=3, mode="nearest")
    return np.rint(values.clip(0, 255)).astype(np.uint8)


def segment(
    bundle: Bundle,
    image: np.ndarray,
    affine: np.ndarray,
    native: Grid,
    batch: int = 4,
    samples: int = 0,
    views: bool = False,
    progress: Progress | None = None,
) -> Segmentation:
    """Segment a conformed scan and return to the native grid.

    Probabilities stay on the networks' device until labels are made of them. If a GPU's memory is
    full even with one slice at a time, they are kept on the CPU instead; if that does not help, the
    networks go there too, for this scan and all later ones.

    Args:
        bundle: the model.
        image: uint8 conformed scan.
        affine: its voxel-to-world.
        native: grid of the scan as it came.
        batch: slices per forward pass.
        samples: Monte-Carlo dropout samples, instead of the bundle's test-time augmentation; 0 to
            segment without dropout.
        views: return each view's own labels too.
        progress: called with the number of slices done and that of all passes; it starts again
            where a scan is segmented a second time.

    Raises:
        InputError: samples of networks that were trained without dropout.
    """
    device = device_of(bundle)
    arguments = (bundle, image, affine, native, batch, samples, views, progress)
    if device.type == "cpu":
        return _segment(*arguments, device)
    for place in (device, torch.device("cpu")):
        try:
            return _segment(*arguments, place)
        except torch.OutOfMemoryError as error:
            reason = str(error).partition(". ")[0]
        torch.cuda.empty_cache()
        log.warning("%s; using the CPU for more of the work, which is slower", reason)
    for network in bundle.networks.values():
        network.cpu()
        if not computes_in_bfloat16(gpu=False):
            network.float()  # on CPUs without its instructions bf16 is slower by far
    return _segment(*arguments, torch.device("cpu"))


@torch.inference_mode()
def _segment(
    bundle: Bundle,
    image: np.ndarray,
    affine: np.ndarray,
    native: Grid,
    batch: int,
    samples: int,
    views: bool,
    progress: Progress | None,
    device: torch.device,
) -> Segmentation:
    protocol, size = bundle.protocol, bundle.slice_size
    times = [_now(device)]
    cavity = find_cavity(image, affine, bundle.spacing_mm, device)
    times.append(_now(device))
    x, y, z = head_window(image, bundle.spacing_mm, size)
    head = slice(x, x + size), slice(y, y + size), slice(z, z + size)
    brain = cavity and bundle.windowed and brain_box(cavity, affine, len(image), size)
    near = near_brain(cavity, affine, brain) if cavity and brain else None
    run = partial(_networks, bundle, image, affine, batch, samples, progress, device)
    found, parts, measures = run(brain or head, near)
    if brain and max(found.at_edge.values()) * bundle.spacing_mm**2 > MAX_AT_EDGE_MM2:
        log.info("structures reach the sides of the cut slices: segmenting the whole head")
        del found, parts  # two volumes of probabilities would need twice the memory
        found, parts, measures = run(head, None)
    if cavity and (removed := remove_strays(parts, found.views, cavity)):
        log.debug("%.1f %% of the labelled voxels are scalp, and were removed", 100 * removed)
    most_probable = _labels(found, image.shape)
    times.append(_now(device))
    classes, box_affine = found.probabilities.argmax(dim=0), parts[0][1]
    entropy = normalised_entropy(found.probabilities, protocol.swapped)
    measures |= {
        "uncertainty": mean_per_class(entropy, classes, len(protocol.names)),
        "view_agreement": view_agreement(found.views, classes, protocol),
    }
    statistics = _statistics(image[head], most_probable[head], len(protocol.names))
    times.append(_now(device))
    labels, entropy_there = to_native(parts, native), map_to_native(entropy, box_affine, native)
    own = {}
    if views:
        one_side = np.unique(protocol.sagittal, return_index=True)[1].astype(np.uint8)
        for view, there in found.views.items():
            indices = there.cpu().numpy()
            indices = one_side[indices] if view == "sagittal" else indices
            own[view] = resample_labels(Volume(indices, box_affine, Path()), native)
    times.append(_now(device))
    intracranial = brain_mask(cavity, labels, native)
    times.append(_now(device))
    before, *stages, after = np.diff(times).tolist()
    stages.append(before + after)
    seconds = dict(zip(("networks", "scores", "native", "brain_mask"), stages, strict=True))
    seconds = {stage: round(value, 2) for stage, value in seconds.items()}
    return Segmentation(
        labels, native, measures, entropy_there, own, statistics, intracranial, seconds
    )


def _networks(
    bundle: Bundle,
    image: np.ndarray,
    affine: np.ndarray,
    batch: int,
    samples: int,
    progress: Progress | None,
    device: torch.device,
    box: Box,
    near: torch.Tensor | None,
) -> tuple[Prediction, list[Part], dict[str, np.ndarray]]:
    """Return what the networks say of a box of a conformed scan.

    Returns:
        The first pass, its ``start`` in the scan; the probabilities of all passes, each with the
        voxel-to-world of its grid; and measures of Monte-Carlo samples.
    """
    shift = bundle.shift and not samples
    measures: dict[str, np.ndarray] = {}
    window, first = image[box], np.array([part.start for part in box])
    finished = 0

    def of_all_passes(done: int, count: int) -> None:
        nonlocal finished
        finished += done
        if progress:
            progress(finished, count * max(samples, 1 + shift))

    if samples:
        found, measures = sample(bundle, window, samples, batch, of_all_passes, device, near)
    else:
        found = predict(bundle, window, batch, of_all_passes, device, near)
    x, y, z = (first + found.start).tolist()
    found = replace(found, start=(x, y, z))
    parts = [(found.probabilities, moved(affine, np.array(found.start)))]
    if shift:
        second = predict(bundle, shifted(window), batch, of_all_passes, device, near)
        parts.append((second.probabilities, moved(affine, first + second.start + HALF)))
    return found, parts, measures


def _labels(found: Prediction, shape: tuple[int, ...]) -> np.ndarray:
    """Return the most probable classes of a whole conformed scan, uint8."""
    labels = np.zeros(shape, dtype=np.uint8)
    classes = found.probabilities.argmax(dim=0).byte().cpu().numpy()
    labels[tuple(slice(f, f + n) for f, n in zip(found.start, classes.shape, strict=True))] = (
        classes
    )
    return labels


def _now(device: torch.device) -> float:
    """Return the time in seconds when the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _statistics(window: np.ndarray, classes: np.ndarray, n_classes: int) -> ScanStatistics:
    """Describe the slices that would be trained on, as :mod:`quicknat.training` does."""
    images, labels = (to_slices(part, "coronal") for part in (window, classes))
    kept = np.flatnonzero(filled_enough(labels))
    return describe_scan(((images[k], labels[k]) for k in kept), n_classes)
