"""Read scans of any common format, check them, and conform them to one grid.

World coordinates are nibabel's RAS+ millimetres throughout. The conformed grid has RAS+ axes,
isotropic voxels and a cubic shape, as in the paper (section 3.1: FreeSurfer's conformed space).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from scipy import ndimage

from quicknat.errors import InputError

MIN_AXIS = 4  # fewer slices along any axis make no volume
HEAD_HEIGHT_MM = 150  # from the vertex down, a brain with cerebellum fits
BEHIND_MIDDLE_MM = 4  # the brain sits that far behind the middle of a head with a nose
MIN_HEAD_AREA_MM2 = 1000  # more than noise in air, less than a slice near the vertex
SCALING_PERCENTILES = (0.5, 99.8)


@dataclass(frozen=True)
class Volume:
    """A 3-D array and its voxel-to-world affine (RAS+ mm)."""

    data: np.ndarray
    affine: np.ndarray
    path: Path

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.data.shape


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, as hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_bytes(path: Path) -> None:
    """Reject files that are missing, empty, or not what their name says."""
    if not path.is_file():
        raise InputError(path, "no such file", "check the path in the sheet")
    if path.stat().st_size == 0:
        raise InputError(path, "the file is empty", "fetch it again")
    with path.open("rb") as stream:
        start = stream.read(64)
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise InputError(path, "is a web page, not an image", "fetch the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise InputError(path, "is a Git LFS pointer, not an image", "run 'git lfs pull'")
    zipped, named_zipped = start.startswith(b"\x1f\x8b"), path.suffix.lower() in (".gz", ".mgz")
    if zipped and not named_zipped:
        raise InputError(path, "is gzip-compressed but not named .gz", "rename or unzip it")
    if named_zipped and not zipped:
        raise InputError(path, "is named as gzip but is not compressed", "rename it")
    if zipped:  # nibabel stops reading before the checksum, so a damaged end would go unseen
        try:
            with gzip.open(path) as stream:
                while stream.read(1 << 22):
                    pass
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(
                path, f"the gzip data is damaged ({error})", "fetch it again"
            ) from error


def _stated_affine(shape: tuple[int, ...], zooms: np.ndarray, orientation: str) -> np.ndarray:
    """Affine of axes that point to `orientation` (such as LAS), centred on the world's origin."""
    ornt = nib.orientations.axcodes2ornt(tuple(orientation))
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (world, sign) in enumerate(ornt):
        affine[int(world), axis] = sign * zooms[axis]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def _affine(image: Any, shape: tuple[int, ...], orientation: str, path: Path) -> np.ndarray:
    """The affine that the header supports, or the stated one where it has none."""
    zooms = np.array(image.header.get_zooms()[:3], dtype=float)
    if np.any(~np.isfinite(zooms)) or np.any(zooms <= 0):
        raise InputError(path, f"voxel size {zooms.tolist()} is not positive", "repair the header")
    if isinstance(image, nib.Nifti1Pair):  # NIfTI-1 and -2, single files and pairs
        sform, s_code = image.get_sform(coded=True)
        qform, q_code = image.get_qform(coded=True)
        coded = bool(s_code or q_code)
        if s_code and q_code and nib.aff2axcodes(sform) != nib.aff2axcodes(qform):
            raise InputError(
                path,
                f"sform says {''.join(nib.aff2axcodes(sform))}, "
                f"qform says {''.join(nib.aff2axcodes(qform))}",
                "make the two header transforms agree",
            )
    else:
        coded = isinstance(image, nib.MGHImage)
    if not coded:
        if not orientation:
            raise InputError(
                path,
                "the header does not say how the axes are oriented",
                "state it in the sheet's 'orientation' column or with --orientation, such as LAS",
            )
        return _stated_affine(shape, zooms, orientation)
    affine = image.affine
    if not np.all(np.isfinite(affine)) or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise InputError(path, "the affine is singular", "repair the header")
    if not np.allclose(voxel_sizes(affine), zooms, rtol=0.02, atol=0.01):
        raise InputError(
            path,
            f"voxel sizes {zooms.round(3).tolist()} contradict the affine "
            f"({voxel_sizes(affine).round(3).tolist()})",
            "repair the header",
        )
    return affine


def read_volume(path: str | Path, orientation: str = "") -> Volume:
    """Read NIfTI-1/2 (.nii, .nii.gz), MGH/MGZ or an Analyze pair (.img + .hdr).

    Args:
        path: the file; for a pair, the .img.
        orientation: direction of the three array axes (such as ``LAS``) for files whose header
            has none; ignored when the header has a coded transform.

    Returns:
        The volume with scaling applied; trailing axes of length one are dropped.

    Raises:
        InputError: with the file, what is wrong with it, and what to do.
    """
    path = Path(path)
    _check_bytes(path)
    try:
        image = nib.load(path)
        data = np.asanyarray(image.dataobj)
    except FileNotFoundError as error:
        raise InputError(path, f"a part of the image is missing ({error})") from error
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError) as error:
        raise InputError(path, f"cannot be read as an image ({error})") from error
    if data.dtype.names or np.iscomplexobj(data):
        raise InputError(path, f"voxels are {data.dtype}", "give one real value per voxel")
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        raise InputError(path, f"the shape is {data.shape}", "give one 3-D volume")
    if min(data.shape) < MIN_AXIS:
        raise InputError(path, f"the shape is {data.shape}", f"needs {MIN_AXIS} slices or more")
    if not np.all(np.isfinite(data)):
        count = int(np.size(data) - np.isfinite(data).sum())
        raise InputError(path, f"{count} voxels are NaN or infinite", "repair the image")
    return Volume(data, _affine(image, data.shape, orientation, path), path)


@dataclass(frozen=True)
class Grid:
    """A voxel grid: array shape and voxel-to-world affine (RAS+ mm)."""

    shape: tuple[int, int, int]
    affine: np.ndarray


def _foreground(data: np.ndarray) -> np.ndarray:
    """Voxels brighter than a tenth of the robust range: head against air."""
    low, high = np.percentile(data, SCALING_PERCENTILES)
    return data > low + 0.1 * (high - low)


def conformed_grid(volume: Volume, spacing_mm: float, size: int) -> Grid:
    """The RAS+ isotropic cube of `size` voxels that holds the scan.

    It is centred on the scan's field of view when that fits, else on the head, so that a large
    field of view loses air first.
    """
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in volume.shape], indexing="ij"))
    world = apply_affine(volume.affine, corners.reshape(3, -1).T)
    low, high = world.min(axis=0), world.max(axis=0)
    if np.any(high - low > spacing_mm * size):
        voxels = np.argwhere(_foreground(volume.data[::2, ::2, ::2])) * 2
        if len(voxels):
            world = apply_affine(volume.affine, voxels)
            low, high = np.percentile(world, (0.5, 99.5), axis=0)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = (low + high) / 2 - spacing_mm * (size - 1) / 2
    return Grid((size, size, size), affine)


def resample(volume: Volume, grid: Grid, order: int) -> np.ndarray:
    """Values of `volume` at the voxels of `grid`; 0 outside. Order 0 is nearest, 1 linear.

    With linear interpolation onto coarser voxels the volume is smoothed first (the Gaussian that
    takes its resolution to the new one), so that no detail aliases.
    """
    data = volume.data
    if order > 0:
        sizes, target = voxel_sizes(volume.affine), voxel_sizes(grid.affine).max()
        fwhm_voxels = np.sqrt(np.maximum(target**2 - sizes**2, 0)) / sizes
        data = data.astype(np.float32, copy=False)
        data = ndimage.gaussian_filter(data, fwhm_voxels / np.sqrt(8 * np.log(2)), mode="nearest")
    matrix = np.linalg.inv(volume.affine) @ grid.affine
    return ndimage.affine_transform(data, matrix, output_shape=grid.shape, order=order)


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
    vertex: half of those are brain, so it sits at 0.89–0.99 of white matter on the five scans
    that we compared (two scanners, with and without skull), where the usual 99.8th percentile of
    the volume, which follows fat and eyes, ranges over 1.1–2.2. Hot voxels saturate.

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
    return tuple(int(np.clip(first, 0, total - size)) for first in start)


def conform(volume: Volume, spacing_mm: float, size: int) -> tuple[np.ndarray, Grid, dict]:
    """Conform a T1w scan.

    Returns:
        uint8 image (size, size, size) in RAS+ order, its grid, and a record of how to go back.
    """
    if volume.data.min() == volume.data.max():
        fix = "this is not a scan of a head"
        raise InputError(volume.path, f"every voxel is {volume.data.flat[0]:g}", fix)
    grid = conformed_grid(volume, spacing_mm, size)
    image, scaling = to_uint8(resample(volume, grid, order=1), spacing_mm, volume.path)
    head = np.argwhere(_foreground(volume.data[::2, ::2, ::2])) * 2
    inside = apply_affine(np.linalg.inv(grid.affine) @ volume.affine, head)
    lost = float(np.mean(np.any((inside < -0.5) | (inside > size - 0.5), axis=1)))
    record = {
        "source_shape": list(volume.shape),
        "source_affine": volume.affine.tolist(),
        "source_orientation": "".join(nib.aff2axcodes(volume.affine)),
        "source_voxel_mm": voxel_sizes(volume.affine).round(4).tolist(),
        "spacing_mm": spacing_mm,
        "size": size,
        "affine": grid.affine.tolist(),
        "intensity_at_0_and_255": scaling,
        "head_outside_fraction": round(lost, 4),
    }
    return image, grid, record


def conform_file(
    path: Path, orientation: str, spacing_mm: float, size: int
) -> tuple[np.ndarray, Grid, dict]:
    """Read and conform a T1w scan; the record also says which file it was, and its SHA-256."""
    image, grid, record = conform(read_volume(path, orientation), spacing_mm, size)
    return image, grid, {"source": str(path), "source_sha256": sha256(path), **record}


def save_nifti(path: str | Path, data: np.ndarray, affine: np.ndarray) -> None:
    """Write a NIfTI-1 file whose qform and sform both hold `affine` (scanner coordinates)."""
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nib.save(image, path)


def record_grid(record: dict) -> Grid:
    """The native grid that a conform record describes."""
    return Grid(tuple(record["source_shape"]), np.array(record["source_affine"]))


def load_conformed(path: str | Path) -> tuple[np.ndarray, np.ndarray, dict]:
    """A conformed scan (uint8), its affine and its sidecar record."""
    path = Path(path)
    sidecar = path.with_name(path.name.removesuffix(".nii.gz") + ".json")
    try:
        record = json.loads(sidecar.read_text())
    except (OSError, ValueError) as error:
        raise InputError(sidecar, f"is not a conform record ({error})", "convert again") from error
    volume = read_volume(path)
    return np.asarray(volume.data, dtype=np.uint8), volume.affine, record
