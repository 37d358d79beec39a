"""Resample from one voxel grid to another: images linearly, labels to the most probable class.

Where the voxels of two grids coincide, values are copied without interpolation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage

from quicknat.images.volumes import Grid, Volume

COINCIDENT_VOXELS = 0.01  # voxels closer than this are the same
ROUGHER = 1.01  # squared ratio of voxel sizes up to which a grid is not coarser
FWHM_PER_SD = np.sqrt(8 * np.log(2))  # of a Gaussian
TRUNCATE = 4  # standard deviations at which a Gaussian is truncated
TIE = 1e-4  # probabilities closer than this are equal up to rounding errors


def _turned(volume: Volume, turn: np.ndarray) -> Volume:
    """Return the same voxels with axes flipped and swapped as nibabel's orientation array says."""
    affine = volume.affine @ nib.orientations.inv_ornt_aff(turn, volume.shape)
    data = nib.orientations.apply_orientation(volume.data, turn)
    return replace(volume, data=data, affine=affine)


def canonical(volume: Volume) -> Volume:
    """Return the same voxels with axes flipped and swapped to be closest to RAS+."""
    return _turned(volume, nib.orientations.io_orientation(volume.affine))


def moved(affine: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the voxel-to-world matrix of a grid that begins at voxel `start` of another."""
    return from_matvec(affine[:3, :3], apply_affine(affine, start))


def _aligned(volume: Volume, grid: Grid) -> tuple[Volume, np.ndarray]:
    """Return the volume with axes along the grid's, and the matrix grid voxels → its voxels."""
    to_grid = np.linalg.inv(grid.affine) @ volume.affine
    volume = _turned(volume, nib.orientations.io_orientation(to_grid))
    return volume, np.linalg.inv(volume.affine) @ grid.affine


def lattice_offset(matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the offset of a grid in whole voxels, int (3,), if all voxels coincide, else None.

    The matrix maps voxels of the grid to those of a volume with axes along the grid's; both
    coincide if they are closer than :data:`COINCIDENT_VOXELS`.
    """
    offset = np.rint(matrix[:3, 3])
    corners = np.array(list(product(*((0, side - 1) for side in shape))))
    away = apply_affine(matrix, corners) - (corners + offset)
    return offset.astype(int) if np.abs(away).max() < COINCIDENT_VOXELS else None


def _cut(
    data: np.ndarray, offset: np.ndarray, shape: tuple[int, ...], outside: float
) -> np.ndarray:
    """Crop and pad `data` to the box of `shape` that begins at `offset`."""
    result = np.full(shape, outside, data.dtype)
    first, last = np.maximum(offset, 0), np.minimum(offset + shape, data.shape)
    if np.all(last > first):
        here = tuple(map(slice, first, last))
        result[tuple(map(slice, first - offset, last - offset))] = data[here]
    return result


def coincides(volume: Volume, grid: Grid) -> bool:
    """Return whether all voxels of `grid` coincide with the volume's, so that none is resampled."""
    return lattice_offset(_aligned(volume, grid)[1], grid.shape) is not None


def smoothing_sd(matrix: np.ndarray) -> np.ndarray:
    """Return the SD (3,), in source voxels, of the anti-aliasing Gaussian for a coarser grid.

    It is 0 along axes on which the grid is not coarser. The matrix maps grid to source voxels.
    """
    steps = np.square(matrix[:3, :3]).sum(axis=1)  # of the grid, in source voxels squared
    return np.sqrt(np.where(steps > ROUGHER, steps - 1, 0)) / FWHM_PER_SD


def _interpolated(
    data: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...], outside: float
) -> np.ndarray:
    linear = matrix[:3, :3]
    diagonal = np.diagonal(linear)
    separable = np.abs(linear - np.diag(diagonal)).max() * max(shape) < COINCIDENT_VOXELS
    return ndimage.affine_transform(
        data, diagonal if separable else linear, matrix[:3, 3], output_shape=shape, order=1,
        mode="grid-constant", cval=outside,
    )  # fmt: skip


def resample(volume: Volume, grid: Grid, outside: float = 0) -> np.ndarray:
    """Return the image at the voxels of `grid`, by linear interpolation without aliasing.

    Voxels outside get the value `outside`. Values and dtype are the original ones if the voxels
    coincide, else float32.
    """
    volume, matrix = _aligned(volume, grid)
    offset = lattice_offset(matrix, grid.shape)
    if offset is not None:
        return _cut(volume.data, offset, grid.shape, outside)
    data = volume.data.astype(np.float32, copy=False)
    data = ndimage.gaussian_filter(data, smoothing_sd(matrix), mode="nearest", truncate=TRUNCATE)
    return _interpolated(data, matrix, grid.shape, outside)


def _probabilities(
    data: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]
) -> Iterator[tuple[int, tuple[slice, ...], np.ndarray]]:
    """Yield each label but 0, its bounding box on the target grid, and its probability there."""
    values = np.unique(data).astype(int)  # not its inverse, which takes 8 bytes per voxel
    numbers = np.zeros(values.max() + 1, np.uint16)
    numbers[values] = np.arange(len(values)) + (values[0] != 0)  # number 0 is the background
    numbers = numbers[data.astype(np.intp) if data.dtype.kind == "f" else data]
    values = values[values != 0]
    sd, to_target = smoothing_sd(matrix), np.linalg.inv(matrix)
    margin = np.ceil(TRUNCATE * sd).astype(int) + 1
    for number, box in enumerate(ndimage.find_objects(numbers), start=1):
        low, high = (np.array([getattr(part, end) for part in box]) for end in ("start", "stop"))
        first = low - margin
        inside = np.pad(numbers[box] == number, margin[:, None]).astype(np.float32)
        inside = ndimage.gaussian_filter(inside, sd, mode="constant", truncate=TRUNCATE)
        corners = list(product(*zip(first, high + margin, strict=True)))
        reach = apply_affine(to_target, corners)
        start = np.clip(np.floor(reach.min(axis=0)), 0, shape).astype(int)
        stop = np.clip(np.ceil(reach.max(axis=0)) + 1, 0, shape).astype(int)
        if np.any(stop <= start):
            continue
        local = matrix.copy()
        local[:3, 3] = apply_affine(matrix, start) - first
        where = tuple(map(slice, start, stop))
        yield int(values[number - 1]), where, _interpolated(inside, local, tuple(stop - start), 0)


def resample_labels(labels: Volume, grid: Grid) -> np.ndarray:
    """Return the most probable label at each voxel of `grid`; 0 outside the map.

    The probability of a label is its indicator, smoothed and interpolated as :func:`resample` does
    with images. Ties, half-way between voxels, are broken alternately, so that no side is preferred
    and structures keep their position and volume.

    Labels are non-negative whole numbers of any integer type, which is kept.
    """
    labels, matrix = _aligned(labels, grid)
    offset = lattice_offset(matrix, grid.shape)
    if offset is not None:
        return _cut(labels.data, offset, grid.shape, 0)
    found = np.zeros(grid.shape, labels.data.dtype)
    best, total = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    # alternates from voxel to voxel, symmetrically about the middle
    x, y, z = (np.abs(2 * np.arange(n) - (n - 1)) // 2 % 2 == 1 for n in grid.shape)
    earlier = x[:, None, None] ^ y[:, None] ^ z  # whether the earlier of two equal labels wins
    tie = np.array([-TIE, TIE], np.float32)
    for label, where, probability in _probabilities(labels.data, matrix, grid.shape):
        total[where] += probability
        larger = probability > best[where] + tie[earlier[where].astype(np.uint8)]
        best[where][larger], found[where][larger] = probability[larger], label
    total += best
    found[total < 1 + tie[earlier.astype(np.uint8)]] = 0  # background: 1 minus all others
    return found
