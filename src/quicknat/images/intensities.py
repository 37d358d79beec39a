"""Find voxels without signal: constants that pad a field of view, and MP2RAGE's noise."""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy import ndimage

PERCENTILES = (0.5, 99.8)  # the robust range of a scan's intensities
AIR = 0.1  # of the robust range above its lower end: air, or as dark
HEAD = 0.3  # of the robust range above its lower end: not air
MIN_AIR, MIN_HEAD = 0.3, 0.1  # fractions of a head's scan that are darker and brighter than these
CT_AIR, CT_SOFT_TISSUE = (-1100, -900), 50  # Hounsfield units
MOST = 0.9  # of the voxels with a number, connected to the outside: all of them are missing
MIN_FILLED = 0.01  # fraction of all voxels; fewer hardly affect percentiles
QUARTER, MIN_OVERFLOWED = 1 << 13, 0.001  # of the largest int16; fraction of voxels
NOISY_BACKGROUND = "full-range noise where there is no signal, as in MP2RAGE UNI images"
DENOISE = "use the denoised image (UNI-DEN), or denoise it, e.g. with LayNii's LN_MP2RAGE_DNOISE"
# fraction of equal neighbours: 0.88 to 0.94 in six label maps, 0.72 in a scan with tripled voxels
ALIKE = 0.8
NOISY = 0.1  # of the robust range: median difference of neighbours in noise of full range


def robust_range(data: np.ndarray) -> tuple[float, float]:
    """Return the 0.5th and the 99.8th percentile."""
    low, high = np.percentile(data, PERCENTILES)
    return float(low), float(high)


def _from_outside(mask: np.ndarray) -> np.ndarray:
    """Return those parts of a mask that reach the faces of the volume."""
    faces = mask.copy()
    faces[1:-1, 1:-1, 1:-1] = False
    return ndimage.binary_propagation(faces, mask=mask)


def _lies_in_air(data: np.ndarray, region: np.ndarray, rest: np.ndarray) -> bool:
    """Return whether the rest of a scan is a head in air of its own, and air adjoins the region."""
    low, high = robust_range(rest)
    dark, bright = low + AIR * (high - low), low + HEAD * (high - low)
    if np.mean(rest < dark) < MIN_AIR or np.mean(rest > bright) < MIN_HEAD:
        return False
    beside = data[ndimage.binary_dilation(region) & ~region]
    return bool(np.mean(beside < dark) > MIN_AIR)


def _is_missing(data: np.ndarray, value: float, region: np.ndarray, rest: np.ndarray) -> bool:
    """Return whether a number below all usual ones stands for missing data, and not for air.

    A little below a scan's darkest voxels lies the background of skull-stripped scans.
    """
    low, high = robust_range(rest)
    if (value < 0 or low - value > (high - low) / 2) and _lies_in_air(data, region, rest):
        return True
    soft_tissue = np.percentile(rest, 25) < CT_SOFT_TISSUE
    if value >= 0 or (CT_AIR[0] < value < CT_AIR[1] and soft_tissue):
        return False
    return bool(rest.min() >= 0 or low - value > high - low)  # magnitudes are not negative


def _air(rest: np.ndarray) -> float:
    """Return the intensity of air: 0 in magnitudes without any, as in skull-stripped scans."""
    low, high = robust_range(rest)
    has_air = np.mean(rest < low + AIR * (high - low)) > MIN_AIR
    return low if has_air or rest.min() < 0 else 0.0


def without_fill(data: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Replace constants that pad a scan's field of view by the intensity of air.

    Tools pad rotated, cropped or unwarped scans with numbers that are not air, e.g. -32768 or NaN.
    Such a number reaches the outside, makes up more than 1 % of all voxels, and is brighter than
    air or far below it. Usual intensities are replaced only where connected to the outside.

    Returns:
        The same array if nothing was replaced, else a copy; and the constants found.
    """
    places = product(*((0, side // 2, -1) for side in data.shape))
    outermost = {float(data[place]) for place in places}
    found, lower = [], np.zeros(0)
    for value in (np.nan, *sorted(value for value in outermost if np.isfinite(value))):
        some = data[::2, ::2, ::2]
        same = np.isnan(some) if np.isnan(value) else some == value
        rest = some[np.isfinite(some) & ~same]
        if np.mean(same) < MIN_FILLED or not len(rest):
            continue
        # whatever constants lie below, this one is no air if it is brighter than dark voxels
        low, high = robust_range(rest)
        above = rest[~np.isin(rest, lower)]
        darkest, brightest = robust_range(above) if len(above) else (low, high)
        usual = max(low + AIR * (high - low), darkest + AIR * (brightest - darkest))
        lower = np.append(lower, value)
        if low - AIR * (high - low) <= value <= usual:
            continue
        every = np.isnan(data) if np.isnan(value) else data == value
        region = _from_outside(every)
        if np.mean(region) < MIN_FILLED:
            continue
        if value < low and not _is_missing(data, value, region, rest):
            continue
        if not low <= value <= high and np.sum(region) > MOST * np.sum(every):
            region = every  # also enclosed ones, e.g. in the nose
        air = np.rint(_air(rest)) if data.dtype.kind in "iu" else _air(rest)
        data = np.where(region, data.dtype.type(air), data)
        found.append(value)
    return data, found


def has_overflowed(data: np.ndarray) -> bool:
    """Return whether bright voxels became negative: unsigned 16-bit numbers stored as signed."""
    if data.dtype.kind != "i" or data.dtype.itemsize != 2 or data.min() > -3 * QUARTER:
        return False
    edges = [-(1 << 15), -3 * QUARTER, -QUARTER, 0, 3 * QUARTER, 1 << 15]
    lowest, _, below_zero, _, highest = np.histogram(data, edges)[0]
    # the brightest go on at the lower end; true negative numbers are mostly small
    if min(lowest, highest) < MIN_OVERFLOWED * data.size or lowest < below_zero:
        return False
    _, counts = np.unique(data[data < -3 * QUARTER], return_counts=True)
    return bool(counts.max() < lowest / 2)  # else it is a fill value


def has_noisy_background(data: np.ndarray) -> bool:
    """Return whether there is full-range noise where a head has air, as in MP2RAGE UNI images."""
    low, high = robust_range(data[::2, ::2, ::2])
    if not high > low:
        return False

    def roughness(block: np.ndarray) -> float:
        return float(np.median(np.abs(np.diff(block.astype(np.float32), axis=0)))) / (high - low)

    sides = [max(side // 10, 2) for side in data.shape]
    ends = [(slice(0, side), slice(-side, None)) for side in sides]
    middle = tuple(
        slice(n // 2 - side, n // 2 + side) for n, side in zip(data.shape, sides, strict=True)
    )
    corners = sorted(roughness(data[corner]) for corner in product(*ends))
    return corners[-2] > NOISY and roughness(data[middle]) < NOISY


def looks_like_labels(data: np.ndarray) -> bool:
    """Return whether most bright voxels equal their neighbours along every axis."""
    mean = data.mean()
    for axis in range(3):
        here, there = np.moveaxis(data, axis, 0)[:-1], np.moveaxis(data, axis, 0)[1:]
        bright = (here > mean) & (there > mean)
        if np.count_nonzero(bright & (here == there)) <= ALIKE * np.count_nonzero(bright):
            return False
    return True
