"""Resample probabilities and their entropy to the scan's native grid, on the device they are on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from nibabel.affines import apply_affine
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from quicknat.images.resampling import TRUNCATE, coincides, resample, resample_labels, smoothing_sd
from quicknat.images.volumes import Grid, Volume

BLOCK = 1 << 22  # numbers held at a time to interpolate: 16 MiB
POINT = 9  # of these for where a voxel is: three float32, three float64

Part = tuple[Tensor, np.ndarray]  # float32 (C, X, Y, Z), and the voxel-to-world of its grid


@torch.inference_mode()
def to_native(parts: Sequence[Part], native: Grid) -> np.ndarray:
    """Return the most probable class at each voxel of the native grid.

    Probabilities are interpolated linearly, summed and compared there, which keeps boundaries
    smooth where the native voxels are finer; where these are coarser, probabilities are smoothed
    first, as an image would be. Where native voxels coincide with those of the only part, nothing
    is interpolated. Only the box around the first part's structures is computed.

    Returns:
        uint8 class indices; 0 outside the window.
    """
    probabilities, affine = parts[0]
    classes = probabilities.argmax(dim=0).byte().cpu().numpy()
    most_probable = Volume(classes, affine, Path())
    if len(parts) == 1 and coincides(most_probable, native):
        return resample_labels(most_probable, native)
    labels = torch.zeros(native.shape, dtype=torch.uint8, device=probabilities.device)
    for inside in ndimage.find_objects((classes > 0).astype(np.uint8)):  # one, or none
        low, high = ([getattr(part, end) for part in inside] for end in ("start", "stop"))
        for box, found in _sampled(parts, native, np.subtract(low, 2), np.add(high, 1)):
            labels[box] = found.argmax(dim=1).byte()
    return labels.cpu().numpy()


@torch.inference_mode()
def map_to_native(values: Tensor, affine: np.ndarray, native: Grid) -> np.ndarray:
    """Return a float32 map (X, Y, Z) at the voxels of the native grid, 0 outside.

    As :func:`quicknat.images.resampling.resample` does it on the CPU.
    """
    volume = Volume(values.cpu().numpy(), affine, Path())
    if coincides(volume, native):
        return resample(volume, native)
    result = torch.zeros(native.shape, device=values.device)
    reach = np.array(values.shape)
    for box, found in _sampled([(values[None], affine)], native, np.full(3, -1), reach):
        result[box] = found[:, 0]
    return result.cpu().numpy()


def _sampled(
    parts: Sequence[Part], native: Grid, low: np.ndarray, high: np.ndarray
) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """Yield boxes of the native grid, and the sum of the parts at their voxels, (I, C, J, K).

    Together the boxes hold what lies between two corners, in voxels of the first part.
    """
    parts = [(_as_coarse_as(native, *part), part[1]) for part in parts]
    corners = np.array(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, -1).T
    reach = apply_affine(np.linalg.inv(native.affine) @ parts[0][1], corners)
    first = np.clip(np.floor(reach.min(axis=0)), 0, native.shape).astype(int)
    last = np.clip(np.ceil(reach.max(axis=0)) + 1, 0, native.shape).astype(int)
    rest = tuple(map(slice, first[1:], last[1:]))
    row_size = (len(parts[0][0]) + POINT) * math.prod((last - first)[1:].tolist())
    rows = max(1, BLOCK // max(1, row_size))
    for row in range(first[0], last[0], rows):
        box = slice(row, min(row + rows, last[0])), *rest
        total, *others = (_interpolated(*part, native, box) for part in parts)
        for other in others:
            total += other
        yield box, total


def _interpolated(
    values: Tensor, affine: np.ndarray, native: Grid, box: tuple[slice, ...]
) -> Tensor:
    """Return values (C, X, Y, Z) at the voxels of a box of the native grid, (I, C, J, K)."""
    # grid_sample counts from -1 to 1 across the volume, and wants the last axis first
    matrix = (np.linalg.inv(affine) @ native.affine)[:3]
    matrix = matrix / np.maximum(np.array(values.shape[1:]) - 1, 1)[:, None] * 2
    matrix[:, 3] -= 1
    x, y, z, origin = torch.from_numpy(matrix[::-1].T.copy()).to(values.device)
    i, j, k = (
        torch.arange(part.start, part.stop, dtype=torch.float64, device=values.device)
        for part in box
    )
    where = i[:, None, None, None] * x + j[:, None, None] * y + (k[:, None] * z + origin)
    # each row as a sample of its own, since a CPU shares samples among its threads
    each = values.expand(len(i), *values.shape)
    return F.grid_sample(each, where.float()[:, None], align_corners=True)[:, :, 0]


def _as_coarse_as(native: Grid, values: Tensor, affine: np.ndarray) -> Tensor:
    """Return values (C, X, Y, Z), smoothed by a Gaussian if the native grid is coarser."""
    sd = smoothing_sd(np.linalg.inv(affine) @ native.affine)
    if not sd.any():
        return values
    result = torch.empty_like(values)
    for one, smooth in zip(values, result, strict=True):  # one by one, for memory
        for axis in np.flatnonzero(sd).tolist():
            reach, side = int(TRUNCATE * sd[axis] + 0.5), one.shape[axis]
            weights = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sd[axis]))
            weights /= weights.sum()
            steps = torch.arange(-reach, side + reach, device=values.device).clamp(0, side - 1)
            padded = one.index_select(axis, steps)  # with its edges
            one = padded.narrow(axis, 0, side) * weights[0]
            for step, weight in enumerate(weights[1:].tolist(), start=1):
                one.add_(padded.narrow(axis, step, side), alpha=weight)
        smooth.copy_(one)
    return result
