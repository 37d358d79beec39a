"""Conform scans: RAS+ axes, isotropic voxels, a cube, 8 bits.

This is FreeSurfer's conformed space (paper, section 3.1) with RAS+ axes. A scan that already has
such axes and voxels is only flipped, cropped and padded. A sidecar of each conformed scan records
how to return to the native grid.
"""

from __future__ import annotations

import hashlib
import json
import math
from itertools import product
from pathlib import Path
from typing import Annotated

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec, voxel_sizes
from pydantic import ConfigDict, Field

from quicknat.errors import InputError
from quicknat.files import sha256
from quicknat.images.intensities import (
    AIR,
    PERCENTILES,
    has_noisy_background,
    looks_like_labels,
)
from quicknat.images.labels import Protocol
from quicknat.images.placement import usable_affine
from quicknat.images.resampling import canonical, moved, resample, resample_labels
from quicknat.images.volumes import MAX_VOXELS, Grid, Volume, as_bytes, read_scan, read_volume
from quicknat.reruns import GRID_FORMAT
from quicknat.validation import Checked, checked

HEAD_HEIGHT_MM = 150  # below the vertex; holds brain and cerebellum
BEHIND_MIDDLE_MM = 4  # of the brain's centre behind the middle of a head with a nose
MIN_HEAD_AREA_MM2 = 1000  # above noise in air, below a slice near the vertex
SAME_SIZE, SAME_DIRECTION_DEGREES = 0.001, 0.1  # tolerance for voxels (fraction) and axes


Four = Annotated[list[float], Field(min_length=4, max_length=4)]
Matrix = Annotated[list[Four], Field(min_length=4, max_length=4)]
Count = Annotated[int, Field(ge=1)]
Coded = Annotated[tuple[Matrix | None, int], Field(strict=False)]  # a transform, its code


class Transforms(Checked):
    model_config = ConfigDict(extra="forbid")
    qform: Coded
    sform: Coded


class Record(Checked):
    """What later stages need from a sidecar; those of other versions may lack some of it."""

    source: str
    source_sha256: str
    source_shape: list[Count] = Field(min_length=3, max_length=3)
    source_affine: Matrix
    source_transforms: Transforms | None
    orientation: str
    source_orientation: str
    source_voxel_mm: list[float] = Field(min_length=3, max_length=3)
    spacing_mm: float = Field(gt=0)
    size: Count
    intensity_at_0_and_255: list[float] = Field(min_length=2, max_length=2)
    head_outside_fraction: float
    grid_format: int = Field(ge=GRID_FORMAT, le=GRID_FORMAT)


CONVERT_AGAIN = "delete it and the image beside it, and convert the scan again"


def _foreground(data: np.ndarray) -> np.ndarray:
    """Return voxels brighter than a tenth of the robust range: head rather than air."""
    low, high = np.percentile(data, PERCENTILES)
    return data > low + AIR * (high - low)


def darkest(volume: Volume) -> float:
    """Return the intensity of air in a scan, which is not 0 if the scan was normalised.

    Single far darker voxels, as left by interpolation, are ignored.
    """
    return float(np.percentile(volume.data, PERCENTILES[0]))


def _nearest_below(number: np.ndarray) -> np.ndarray:
    """Round to the nearest integer; halves, also with rounding errors, go down."""
    return np.ceil(number - 0.5 - 1e-6).astype(int)


def conformed_grid(volume: Volume, spacing_mm: float, size: int) -> Grid:
    """Return the RAS+ isotropic cube of `size` voxels per side that holds the scan.

    It is centred on the scan's field of view if that fits, else on the head, so that a large field
    of view loses air first. It is then shifted by at most half a voxel, so that the scan's middle
    voxel coincides with one of the cube's (or, if larger, is divided evenly): half-way between
    voxels, labels would be biased to one side. If the scan's voxels are `spacing_mm` (within 0.1 %)
    and its axes are the world's (within 0.1°), the cube adopts them, and all voxels coincide.
    """
    volume = canonical(volume)
    corners = list(product(*((0, side - 1) for side in volume.shape)))
    world = apply_affine(volume.affine, corners)
    low, high = world.min(axis=0), world.max(axis=0)
    if np.any(high - low > spacing_mm * (size - 1 + SAME_SIZE * size)):
        voxels = np.argwhere(_foreground(volume.data[::2, ::2, ::2])) * 2
        if len(voxels):
            world = apply_affine(volume.affine, voxels)
            low, high = np.percentile(world, (0.5, 99.5), axis=0)
    centre = (low + high) / 2
    position = apply_affine(np.linalg.inv(volume.affine), centre)
    middle = np.clip(_nearest_below(position), 0, np.array(volume.shape) - 1)
    zooms = voxel_sizes(volume.affine)
    same = np.diagonal(volume.affine[:3, :3]) > zooms * np.cos(np.radians(SAME_DIRECTION_DEGREES))
    if np.all(same & (np.abs(zooms / spacing_mm - 1) <= SAME_SIZE)):
        first = middle - _nearest_below((size - 1) / 2 + middle - position)
        return Grid((size, size, size), moved(volume.affine, first))
    start = centre - spacing_mm * (size - 1) / 2
    # if an even number of the cube's voxels fits into one of the scan's, they lie on either side of
    # its centre
    within = np.rint(zooms / spacing_mm)
    about = (within > 0) & (within % 2 == 0)
    anchor = apply_affine(volume.affine, middle) + about * spacing_mm / 2
    start = anchor - spacing_mm * _nearest_below((anchor - start) / spacing_mm)
    return Grid((size, size, size), from_matvec(np.diag([float(spacing_mm)] * 3), start))


def _below_vertex(image: np.ndarray, spacing_mm: float) -> tuple[np.ndarray, int]:
    """Return a RAS+ head's foreground within 150 mm below the vertex, and the vertex's slice."""
    head = _foreground(image)
    area = head.sum(axis=(0, 1)) * spacing_mm**2
    rows = np.flatnonzero(area > MIN_HEAD_AREA_MM2)
    top = int(rows.max()) if len(rows) else image.shape[2] - 1
    head[:, :, : max(0, top - round(HEAD_HEIGHT_MM / spacing_mm))] = False
    return head, top


def to_uint8(
    image: np.ndarray, spacing_mm: float, path: str | Path
) -> tuple[np.ndarray, list[float]]:
    """Scale a conformed image (RAS+ axes) to 0 … 255, with white matter near 170.

    The reference is the 75th percentile of the voxels brighter than air within 150 mm below the
    vertex. Half of those are brain, so it lies just below white matter with and without a skull,
    whereas a high percentile of the volume depends on fat and eyes. Brighter voxels saturate.

    Returns:
        The uint8 array and the two intensities that became 0 and 255.

    Raises:
        InputError: the image is constant.
    """
    low = float(np.percentile(image, PERCENTILES[0]))
    head, _ = _below_vertex(image, spacing_mm)
    reference = float(np.percentile(image[head], 75)) if head.any() else float(image.max())
    if not reference > low:
        raise InputError(path, f"nearly every voxel is {low:g}", "this is not a head scan")
    high = low + 1.6 * (reference - low)
    scaled = np.clip((image.astype(np.float32) - low) * (255 / (high - low)), 0, 255)
    return np.rint(scaled).astype(np.uint8), [low, high]


def head_window(image: np.ndarray, spacing_mm: float, size: int) -> tuple[int, int, int]:
    """Return the first voxel of a cube of `size` voxels around the brain of a conformed image.

    The brain is in the upper part of the head, so the cube starts at the vertex and is centred
    left–right and posterior–anterior on the head within 150 mm below it: neck and face are cut off
    first. Axes are RAS+.
    """
    total = image.shape[0]
    if size >= total:
        return (0, 0, 0)
    below, top = _below_vertex(image, spacing_mm)
    start = []
    for axes in ((1, 2), (0, 2)):
        rows = np.flatnonzero(below.sum(axis=axes) * spacing_mm**2 > MIN_HEAD_AREA_MM2)
        low, high = (rows.min(), rows.max()) if len(rows) else (0, total - 1)
        start.append(round((low + high + 1 - size) / 2))
    start[1] -= round(BEHIND_MIDDLE_MM / spacing_mm)
    start.append(top + 1 + round(6 / spacing_mm) - size)
    x, y, z = (int(np.clip(first, 0, total - size)) for first in start)
    return x, y, z


def conform(volume: Volume, spacing_mm: float, size: int) -> tuple[np.ndarray, Grid, dict]:
    """Conform a T1w scan.

    Returns:
        uint8 image (size, size, size) in RAS+ order, its grid, and the record for its sidecar.

    Raises:
        InputError: all voxels have one value.
    """
    if volume.data.min() == volume.data.max():
        fix = "this is not a head scan"
        raise InputError(volume.path, f"every voxel is {volume.data.flat[0]:g}", fix)
    grid = conformed_grid(volume, spacing_mm, size)
    resampled = resample(volume, grid, outside=darkest(volume))
    image, scaling = to_uint8(resampled, spacing_mm, volume.path)
    head = np.argwhere(_foreground(volume.data[::2, ::2, ::2])) * 2
    inside = apply_affine(np.linalg.inv(grid.affine) @ volume.affine, head)
    lost = float(np.mean(np.any((inside < -0.5) | (inside > size - 0.5), axis=1)))
    record = {
        "source_shape": list(volume.shape),
        "source_affine": volume.affine.tolist(),
        "source_transforms": volume.transforms,
        "source_orientation": "".join(nib.aff2axcodes(volume.affine)),
        "source_voxel_mm": voxel_sizes(volume.affine).round(4).tolist(),
        "spacing_mm": spacing_mm,
        "size": size,
        "affine": grid.affine.tolist(),
        "intensity_at_0_and_255": scaling,
        "head_outside_fraction": round(lost, 4),
        "noisy_background": has_noisy_background(volume.data),
        "looks_like_labels": looks_like_labels(volume.data),
        "filled_with": [str(value) for value in volume.filled],
        "grid_format": GRID_FORMAT,
    }
    return image, grid, record


def conform_file(
    path: Path, orientation: str, spacing_mm: float, size: int
) -> tuple[np.ndarray, Grid, dict]:
    """Read and conform a T1w scan; also record which file it was and how it was read.

    Raises:
        InputError: see :func:`quicknat.images.volumes.read_scan` and :func:`conform`.
    """
    image, grid, record = conform(read_scan(path, orientation), spacing_mm, size)
    source = {"source": str(path), "source_sha256": source_digest(path), "orientation": orientation}
    return image, grid, {**source, **record}


def source_digest(path: Path) -> str:
    """Return the SHA-256 of a scan; for an Analyze pair, of image and header together."""
    header = path.with_suffix(".hdr")
    if path.suffix.lower() != ".img" or not header.exists():
        return sha256(path)
    return hashlib.sha256((sha256(path) + sha256(header)).encode()).hexdigest()


def record_grid(record: dict) -> Grid:
    """Return the native grid that a conform record describes."""
    affine = np.array(record["source_affine"])
    return Grid(tuple(record["source_shape"]), affine, record["source_transforms"])


def load_conformed(path: str | Path) -> tuple[np.ndarray, Grid, dict]:
    """Return a conformed scan (uint8), its grid and its sidecar record, as :func:`conform_file`.

    Raises:
        InputError: the sidecar is missing or invalid, or the image does not match it.
    """
    path = Path(path)
    sidecar = path.with_name(path.name.removesuffix(".nii.gz") + ".json")
    try:
        record = json.loads(sidecar.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(sidecar, f"is not a conform record ({error})", CONVERT_AGAIN) from error
    try:
        checked(Record, record, sidecar)
    except InputError as error:  # not to be repaired by hand
        raise InputError(sidecar, error.problem, CONVERT_AGAIN) from error
    if math.prod(record["source_shape"]) > MAX_VOXELS:
        raise InputError(sidecar, f"'source_shape' is {record['source_shape']}", CONVERT_AGAIN)
    stated = [matrix for matrix, _ in (record["source_transforms"] or {}).values() if matrix]
    if not all(usable_affine(np.array(matrix)) for matrix in [record["source_affine"], *stated]):
        raise InputError(sidecar, "its affine cannot be used", CONVERT_AGAIN)
    volume = read_volume(path)
    if volume.shape != (record["size"],) * 3:
        problem = f"has shape {volume.shape}, its record says {record['size']} voxels a side"
        raise InputError(path, problem, CONVERT_AGAIN)
    return as_bytes(volume, 255), Grid(volume.shape, volume.affine), record


def conform_labels(
    labels: Volume, convention: str, protocol: Protocol, grid: Grid
) -> tuple[np.ndarray, np.ndarray]:
    """Map a label map to the protocol's classes.

    Args:
        labels: label values on any grid in the scan's world space.
        convention: their label convention, see :meth:`Protocol.remap`.
        grid: the conformed grid.

    Returns:
        Classes on the label map's own grid and on the conformed one, both uint8.

    Raises:
        InputError: see :meth:`Protocol.remap`.
    """
    classes = protocol.remap(labels.data, convention, labels.path)
    return classes, resample_labels(Volume(classes, labels.affine, labels.path), grid)
