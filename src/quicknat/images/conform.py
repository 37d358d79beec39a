"""Bring every scan onto one grid: RAS+ axes, isotropic voxels, a cube, 8 bits.

This is FreeSurfer's conformed space (paper, section 3.1) with RAS+ axes. A scan that has such axes
and voxels already keeps them: it is only flipped, cropped and padded. A record beside each
conformed scan says how to return to the grid that it came on.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec, voxel_sizes

from quicknat.errors import InputError
from quicknat.files import sha256
from quicknat.images.labels import Protocol
from quicknat.images.placement import usable_affine
from quicknat.images.resampling import canonical, moved, resample, resample_labels
from quicknat.images.volumes import MAX_VOXELS, Grid, Volume, as_bytes, read_volume
from quicknat.reruns import GRID_FORMAT
from quicknat.schema import check

HEAD_HEIGHT_MM = 150  # from the vertex down, a brain with cerebellum fits
BEHIND_MIDDLE_MM = 4  # the brain sits that far behind the middle of a head with a nose
MIN_HEAD_AREA_MM2 = 1000  # more than noise in air, less than a slice near the vertex
SCALING_PERCENTILES = (0.5, 99.8)
SAME_SIZE, SAME_DIRECTION_DEGREES = 0.001, 0.1  # voxels and axes that are as wanted; fraction

_NUMBERS = {"type": "array", "items": {"type": "number"}}
_ROW = {**_NUMBERS, "minItems": 4, "maxItems": 4}
_MATRIX = {"type": "array", "minItems": 4, "maxItems": 4, "items": _ROW}
_TRANSFORM = {
    "type": "array",
    "prefixItems": [{"anyOf": [_MATRIX, {"type": "null"}]}, {"type": "integer"}],
    "minItems": 2,
    "maxItems": 2,
}
_KEYS = {
    "source": {"type": "string"},
    "source_sha256": {"type": "string"},
    "source_shape": {
        "type": "array",
        "minItems": 3,
        "maxItems": 3,
        "items": {"type": "integer", "minimum": 1},
    },
    "source_affine": _MATRIX,
    "source_transforms": {
        "type": ["object", "null"],
        "required": ["qform", "sform"],
        "additionalProperties": False,
        "properties": {"qform": _TRANSFORM, "sform": _TRANSFORM},
    },
    "orientation": {"type": "string"},
    "source_orientation": {"type": "string"},
    "source_voxel_mm": {**_NUMBERS, "minItems": 3, "maxItems": 3},
    "spacing_mm": {"type": "number", "exclusiveMinimum": 0},
    "size": {"type": "integer", "minimum": 1},
    "intensity_at_0_and_255": {**_NUMBERS, "minItems": 2, "maxItems": 2},
    "head_outside_fraction": {"type": "number"},
    "grid_format": {"const": GRID_FORMAT, "description": f"must be {GRID_FORMAT}"},
}
# of the sidecar, what later stages need; one of another version of this package may lack some
RECORD = {"type": "object", "required": list(_KEYS), "properties": _KEYS}
CONVERT_AGAIN = "delete it and the image beside it, and convert the scan again"


def _foreground(data: np.ndarray) -> np.ndarray:
    """Voxels brighter than a tenth of the robust range: head against air."""
    low, high = np.percentile(data, SCALING_PERCENTILES)
    return data > low + 0.1 * (high - low)


def darkest(volume: Volume) -> float:
    """What stands for air in a scan: 0 only where nobody has normalised it.

    Single voxels that are far darker, as interpolation leaves them, do not count.
    """
    return float(np.percentile(volume.data, SCALING_PERCENTILES[0]))


def _nearest_below(number: np.ndarray) -> np.ndarray:
    """Round to the nearest integer; halves go down, also where rounding put them just above."""
    return np.ceil(number - 0.5 - 1e-6).astype(int)


def conformed_grid(volume: Volume, spacing_mm: float, size: int) -> Grid:
    """Return the RAS+ isotropic cube of `size` voxels that holds the scan.

    It is centred on the scan's field of view when that fits, else on the head, so that a large
    field of view loses air first. From there it moves by half a voxel at most, so that the scan's
    voxel in the middle is one of its own (or is divided evenly, where the scan's are larger):
    half-way between voxels, labels would have to choose a side. A scan with voxels of `spacing_mm`
    (within 0.1 %) along the world's axes (within 0.1°) lends the cube its axes, and all voxels
    coincide.
    """
    volume = canonical(volume)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in volume.shape], indexing="ij"))
    world = apply_affine(volume.affine, corners.reshape(3, -1).T)
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
    # where an even number of the cube's voxels fits into one of the scan's, none is at its centre:
    # they lie on either side of it
    within = np.rint(zooms / spacing_mm)
    about = (within > 0) & (within % 2 == 0)
    anchor = apply_affine(volume.affine, middle) + about * spacing_mm / 2
    start = anchor - spacing_mm * _nearest_below((anchor - start) / spacing_mm)
    return Grid((size, size, size), from_matvec(np.diag([float(spacing_mm)] * 3), start))


def _below_vertex(image: np.ndarray, spacing_mm: float) -> tuple[np.ndarray, int]:
    """Foreground of a RAS+ head within 150 mm below its vertex, and the vertex's slice index."""
    head = _foreground(image)
    area = head.sum(axis=(0, 1)) * spacing_mm**2
    rows = np.flatnonzero(area > MIN_HEAD_AREA_MM2)
    top = int(rows.max()) if len(rows) else image.shape[2] - 1
    head[:, :, : max(0, top - round(HEAD_HEIGHT_MM / spacing_mm))] = False
    return head, top


def to_uint8(
    image: np.ndarray, spacing_mm: float, path: str | Path
) -> tuple[np.ndarray, list[float]]:
    """Scale a conformed image (RAS+ axes) to 0 … 255 so that white matter comes out near 170.

    The reference is the 75th percentile of the voxels brighter than air within 150 mm below the
    vertex: half of those are brain, so it sits just below white matter with and without a skull,
    where a high percentile of the volume follows fat and eyes. Hot voxels saturate.

    Returns:
        The uint8 array and the two input values that became 0 and 255.

    Raises:
        InputError: the image is constant.
    """
    low = float(np.percentile(image, SCALING_PERCENTILES[0]))
    head, _ = _below_vertex(image, spacing_mm)
    reference = float(np.percentile(image[head], 75)) if head.any() else float(image.max())
    if not reference > low:
        raise InputError(path, f"nearly every voxel is {low:g}", "this is not a scan of a head")
    high = low + 1.6 * (reference - low)
    scaled = np.clip((image.astype(np.float32) - low) * (255 / (high - low)), 0, 255)
    return np.rint(scaled).astype(np.uint8), [low, high]


def head_window(image: np.ndarray, spacing_mm: float, size: int) -> tuple[int, int, int]:
    """First voxel of the cube of `size` voxels that holds the brain of a conformed image.

    The brain lies in the upper part of the head, so the cube hangs from the vertex and is centred
    left–right and back–front on what lies within 150 mm below it: neck and face fall outside
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
        uint8 image (size, size, size) in RAS+ order, its grid, and a record of how to go back.

    Raises:
        InputError: all voxels have one value.
    """
    if volume.data.min() == volume.data.max():
        fix = "this is not a scan of a head"
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
        "grid_format": GRID_FORMAT,
    }
    return image, grid, record


def conform_file(
    path: Path, orientation: str, spacing_mm: float, size: int
) -> tuple[np.ndarray, Grid, dict]:
    """Read and conform a T1w scan; the record also says which file it was, and how it was read.

    Args:
        path: the scan.
        orientation: see :func:`quicknat.images.volumes.read_volume`; empty where the header says.
        spacing_mm, size: of the conformed grid.

    Raises:
        InputError: see :func:`quicknat.images.volumes.read_volume` and :func:`conform`.
    """
    image, grid, record = conform(read_volume(path, orientation), spacing_mm, size)
    source = {"source": str(path), "source_sha256": source_digest(path), "orientation": orientation}
    return image, grid, {**source, **record}


def source_digest(path: Path) -> str:
    """SHA-256 of a scan; of an Analyze pair, of the image's and the header's together."""
    header = path.with_suffix(".hdr")
    if path.suffix.lower() != ".img" or not header.exists():
        return sha256(path)
    return hashlib.sha256((sha256(path) + sha256(header)).encode()).hexdigest()


def record_grid(record: dict) -> Grid:
    """The native grid that a conform record describes."""
    affine = np.array(record["source_affine"])
    return Grid(tuple(record["source_shape"]), affine, record["source_transforms"])


def load_conformed(path: str | Path) -> tuple[np.ndarray, np.ndarray, dict]:
    """A conformed scan (uint8), its affine and its sidecar record.

    Raises:
        InputError: the sidecar is absent or no such record, or the image is not what it describes.
    """
    path = Path(path)
    sidecar = path.with_name(path.name.removesuffix(".nii.gz") + ".json")
    try:
        record = json.loads(sidecar.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(sidecar, f"is not a conform record ({error})", CONVERT_AGAIN) from error
    try:
        check(record, RECORD, sidecar)
    except InputError as error:  # nobody should mend it by hand
        raise InputError(sidecar, error.problem, CONVERT_AGAIN) from error
    if math.prod(record["source_shape"]) > MAX_VOXELS:
        raise InputError(sidecar, f"'source_shape' is {record['source_shape']}", CONVERT_AGAIN)
    stated = [matrix for matrix, _ in (record["source_transforms"] or {}).values() if matrix]
    if not all(usable_affine(np.array(matrix)) for matrix in [record["source_affine"], *stated]):
        raise InputError(sidecar, "its affine cannot be used", CONVERT_AGAIN)
    volume = read_volume(path)
    return as_bytes(volume, 255), volume.affine, record


def conform_labels(
    labels: Volume, convention: str, protocol: Protocol, grid: Grid
) -> tuple[np.ndarray, np.ndarray]:
    """Turn a label map into the protocol's classes.

    Args:
        labels: label values on any grid in the scan's world space.
        convention: of these values, see :meth:`Protocol.remap`.
        grid: the conformed grid.

    Returns:
        Classes on the label map's own grid and on the conformed one, both uint8.

    Raises:
        InputError: see :meth:`Protocol.remap`.
    """
    classes = protocol.remap(labels.data, convention, labels.path)
    return classes, resample_labels(Volume(classes, labels.affine, labels.path), grid)
