"""Resample probabilities of the conformed grid to labels on the scan's native grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from nibabel.affines import apply_affine
from scipy import ndimage
from torch.nn import functional as F

from quicknat.images.resampling import TRUNCATE, coincides, resample_labels, smoothing_sd
from quicknat.images.volumes import Grid, Volume


@torch.inference_mode()
def to_native(parts: Sequence[tuple[torch.Tensor, np.ndarray]], native: Grid) -> np.ndarray:
    """Return the most probable class at each voxel of the native grid.

    Probabilities are interpolated linearly, summed and compared there, which keeps boundaries
    smooth where the native voxels are finer; where these are coarser, probabilities are smoothed
    first, as an image would be. Where native voxels coincide with those of the only part, nothing
    is interpolated. Only the box around the first part's structures is computed.

    Args:
        parts: probabilities (C, X, Y, Z), each with the voxel-to-world of its grid.
        native: grid to fill.

    Returns:
        uint8 class indices; 0 outside the window.
    """
    labels = np.zeros(native.shape, dtype=np.uint8)
    probabilities, affine = parts[0]
    classes = probabilities.argmax(dim=0)
    inside = classes.nonzero().numpy()
    if not len(inside):
        return labels
    most_probable = Volume(classes.byte().numpy(), affine, Path())
    if len(parts) == 1 and coincides(most_probable, native):
        return resample_labels(most_probable, native)
    parts = [(_as_coarse_as(native, *part), part[1]) for part in parts]
    low, high = inside.min(axis=0) - 2, inside.max(axis=0) + 2
    corners = np.array(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, -1).T
    box = apply_affine(np.linalg.inv(native.affine) @ affine, corners)
    first = np.clip(np.floor(box.min(axis=0)), 0, native.shape).astype(int)
    last = np.clip(np.ceil(box.max(axis=0)) + 1, 0, native.shape).astype(int)
    j, k = (np.arange(first[axis], last[axis]) for axis in (1, 2))
    for i in range(first[0], last[0]):
        voxels = np.stack(np.broadcast_arrays(i, j[:, None], k[None, :]), axis=-1)
        sampled = torch.stack([sample_at(*part, native, voxels) for part in parts]).sum(dim=0)
        labels[i, first[1] : last[1], first[2] : last[2]] = sampled.argmax(dim=0).numpy()
    return labels


def _as_coarse_as(native: Grid, probabilities: torch.Tensor, affine: np.ndarray) -> torch.Tensor:
    sd = smoothing_sd(np.linalg.inv(affine) @ native.affine)
    if not sd.any():
        return probabilities
    smooth = np.empty(probabilities.shape, np.float32)
    for one, part in zip(smooth, probabilities.numpy(), strict=True):
        ndimage.gaussian_filter(part, sd, mode="nearest", truncate=TRUNCATE, output=one)
    return torch.from_numpy(smooth)


def sample_at(
    probabilities: torch.Tensor, affine: np.ndarray, native: Grid, voxels: np.ndarray
) -> torch.Tensor:
    """Return probabilities at voxels (…, 3) of the native grid, linearly interpolated, (C, …)."""
    to_box = np.linalg.inv(affine) @ native.affine
    extent = np.array(probabilities.shape[1:]) - 1
    points = apply_affine(to_box, voxels) / extent * 2 - 1
    # grid_sample wants the last axis first
    where = torch.from_numpy(points[None, None, ..., ::-1].astype(np.float32).copy())
    return F.grid_sample(probabilities[None], where, align_corners=True)[0, :, 0]
