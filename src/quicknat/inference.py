"""From a conformed scan to a label map on its native grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from nibabel.affines import apply_affine
from torch.nn import functional as F

from quicknat.bundle import Bundle
from quicknat.conform import head_window
from quicknat.slices import AXIS, VIEWS, crop
from quicknat.volumes import Grid

BRIGHT, MIN_BRIGHT = 25, 0.005  # of 255, and the share of such pixels that makes a slice worth it


@dataclass(frozen=True)
class Segmentation:
    """Result on the native grid.

    ``labels`` uint8 class indices; ``uncertainty`` one value per class, mean normalised entropy of
    the aggregated probabilities over the structure's voxels, 0 (sure) … 1; NaN when absent.
    """

    labels: np.ndarray
    grid: Grid
    uncertainty: np.ndarray


def filled_slices(image: np.ndarray, view: str) -> np.ndarray:
    """Numbers of the slices of a view that show something; the networks never saw another kind."""
    bright = np.moveaxis(image > BRIGHT, AXIS[view], 0)
    return np.flatnonzero(bright.mean(axis=(1, 2)) > MIN_BRIGHT)


@torch.inference_mode()
def slice_probabilities(
    bundle: Bundle, view: str, image: np.ndarray, batch: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Softmax of one view, slice by slice where there is something to see.

    Args:
        image: uint8 (S, S, S), RAS+, the window that the networks see.
        batch: slices per forward pass.

    Yields:
        Number of the slice, and float32 (H, W, C) on the processor; C are all classes of the
        protocol, in the sagittal view both sides' with the probability of their merged one.
    """
    network = bundle.networks[view]
    device = next(network.parameters()).device
    classes = torch.tensor(bundle.protocol.sagittal) if view == "sagittal" else slice(None)
    slices = np.moveaxis(image, AXIS[view], 0)
    numbers = filled_slices(image, view)
    for start in range(0, len(numbers), batch):
        some = numbers[start : start + batch]
        values = torch.from_numpy(slices[some].astype(np.float32) / 255)[:, None]
        logits = network(values.to(device, memory_format=torch.channels_last))
        probabilities = logits.float().softmax(dim=1).cpu()[:, classes].movedim(1, -1)
        yield from zip(some.tolist(), probabilities, strict=True)


@torch.inference_mode()
def aggregate(
    bundle: Bundle, image: np.ndarray, batch: int = 4
) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Weighted mean of the three views' probabilities (section 2.4).

    The slices are added up as they come, so that memory holds one volume of probabilities, cut to
    the box of what the views can see; outside of it all is background.

    Args:
        image: uint8 (S, S, S), RAS+, the window that the networks see.
        batch: slices per forward pass.

    Returns:
        float32 (C, X, Y, Z), and the first voxel of that box in `image`.
    """
    seen = {view: filled_slices(image, view) for view in VIEWS}
    if not all(map(len, seen.values())):
        return torch.zeros(len(bundle.protocol.names), 0, 0, 0), (0, 0, 0)
    ranges = sorted((AXIS[view], some.min(), some.max() + 1) for view, some in seen.items())
    box = tuple(slice(first, last) for _, first, last in ranges)
    total = torch.zeros(*(s.stop - s.start for s in box), len(bundle.protocol.names))
    for view in VIEWS:
        axis, weight = AXIS[view], bundle.weights[view]
        inside = tuple(part for other, part in enumerate(box) if other != axis)
        empty = np.setdiff1d(np.arange(box[axis].start, box[axis].stop), seen[view])
        for number in empty - box[axis].start:
            total.select(axis, number)[..., 0] += weight
        for number, probabilities in slice_probabilities(bundle, view, image, batch):
            here = total.select(axis, number - box[axis].start)
            here.add_(probabilities[inside], alpha=weight)
    return total.movedim(-1, 0), tuple(int(part.start) for part in box)


def normalised_entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy over the first axis, as a share of the largest possible (0 … 1)."""
    shares = probabilities / probabilities.sum(dim=0, keepdim=True).clamp(min=1e-6)
    return torch.special.entr(shares).sum(dim=0) / np.log(len(shares))


@torch.inference_mode()
def to_native(probabilities: torch.Tensor, affine: np.ndarray, native: Grid) -> np.ndarray:
    """Most probable class at each voxel of the native grid.

    Probabilities are interpolated linearly and compared there, which keeps boundaries smooth where
    the native voxels are finer. Only the box around the structures is computed.

    Args:
        probabilities: (C, X, Y, Z).
        affine: voxel-to-world of that grid.
        native: grid to fill.

    Returns:
        uint8 class indices; 0 outside the window.
    """
    labels = np.zeros(native.shape, dtype=np.uint8)
    inside = probabilities.argmax(dim=0).nonzero().numpy()
    if not len(inside):
        return labels
    low, high = inside.min(axis=0) - 2, inside.max(axis=0) + 2
    corners = np.array(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, -1).T
    box = apply_affine(np.linalg.inv(native.affine) @ affine, corners)
    first = np.clip(np.floor(box.min(axis=0)), 0, native.shape).astype(int)
    last = np.clip(np.ceil(box.max(axis=0)) + 1, 0, native.shape).astype(int)
    to_window = np.linalg.inv(affine) @ native.affine
    extent = np.array(probabilities.shape[1:]) - 1
    j, k = (np.arange(first[axis], last[axis]) for axis in (1, 2))
    for i in range(first[0], last[0]):
        voxels = np.stack(np.broadcast_arrays(i, j[:, None], k[None, :]), axis=-1)
        points = apply_affine(to_window, voxels) / extent * 2 - 1
        # grid_sample wants the last axis first
        where = torch.from_numpy(points[None, None, ..., ::-1].astype(np.float32).copy())
        sampled = F.grid_sample(probabilities[None], where, align_corners=True)[0, :, 0]
        labels[i, first[1] : last[1], first[2] : last[2]] = sampled.argmax(dim=0).numpy()
    return labels


def segment(bundle: Bundle, image: np.ndarray, affine: np.ndarray, native: Grid) -> Segmentation:
    """Segment a conformed scan and return to the native grid.

    Args:
        image: uint8 conformed scan.
        affine: its voxel-to-world.
        native: the grid that the scan came on.
    """
    window = head_window(image, bundle.spacing_mm, bundle.slice_size)
    probabilities, start = aggregate(bundle, crop(image, window, bundle.slice_size))
    window_affine = affine.copy()
    window_affine[:3, 3] = apply_affine(affine, np.add(window, start))
    labels = to_native(probabilities, window_affine, native)
    entropy, classes = normalised_entropy(probabilities), probabilities.argmax(dim=0)
    uncertainty = [
        entropy[classes == index].mean().item() for index in range(len(bundle.protocol.names))
    ]
    return Segmentation(labels, native, np.array(uncertainty))
