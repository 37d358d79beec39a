"""Read scans of all common formats, and reject those that cannot be trusted.

World coordinates are nibabel's RAS+ millimetres throughout.
"""

from __future__ import annotations

import gzip
import logging
import math
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from quicknat.errors import InputError
from quicknat.images.placement import Transforms, placement

MIN_AXIS = 4  # fewer slices along an axis are not a volume
MAX_VOXELS = 1 << 30  # a head at 0.25 mm; no memory is allocated for headers that claim more
MAX_BYTES = 8 * MAX_VOXELS + (1 << 20)  # of an uncompressed file
MAX_VALUE = 1e30  # so that sums and differences stay finite in float32

# nibabel's own messages about headers would repeat our one-line error
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Volume:
    """A 3-D array with its voxel-to-world affine (RAS+ mm) and its NIfTI header's transforms."""

    data: np.ndarray
    affine: np.ndarray
    path: Path
    transforms: Transforms = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.data.shape


def as_bytes(volume: Volume, highest: int) -> np.ndarray:
    """Return the values of a volume as uint8, e.g. class indices.

    Raises:
        InputError: a value is not a whole number from 0 to `highest`.
    """
    data = volume.data
    if data.dtype == np.uint8 and data.max(initial=0) <= highest:
        return data
    odd = data[(data < 0) | (data > highest) | (data != np.rint(data))]
    if odd.size:
        problem = f"holds {odd.flat[0]:g}, but only whole numbers from 0 to {highest} are valid"
        fix = "convert scan and labels again, or choose the label table they were made with"
        raise InputError(volume.path, problem, fix)
    return data.astype(np.uint8)


def _check_bytes(path: Path) -> int:
    """Reject files that are missing, empty or misnamed; return the uncompressed size in bytes."""
    if not path.is_file():
        raise InputError(path, "no such file", "check the path")
    if path.stat().st_size == 0:
        raise InputError(path, "the file is empty", "fetch it again")
    with path.open("rb") as stream:
        start = stream.read(64)
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise InputError(path, "is a web page, not an image", "fetch the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise InputError(path, "is a Git LFS pointer, not an image", "run 'git lfs pull'")
    if path.suffix.lower() == ".img" and not any(
        path.with_suffix(end).is_file() for end in (".hdr", ".HDR")
    ):
        raise InputError(path, "its header (.hdr) is missing", "put it beside the .img")
    zipped, named_zipped = start.startswith(b"\x1f\x8b"), path.suffix.lower() in (".gz", ".mgz")
    if zipped and not named_zipped:
        raise InputError(path, "is gzip-compressed but not named .gz", "rename or unzip it")
    if named_zipped and not zipped:
        raise InputError(path, "is named like a gzip file but is not compressed", "rename it")
    if not zipped:
        return path.stat().st_size
    held = 0
    try:  # nibabel stops reading before the checksum, so it would miss a damaged end
        with gzip.open(path) as stream:
            while (block := stream.read(1 << 22)) and held <= MAX_BYTES:
                held += len(block)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(path, f"the gzip data is damaged ({error})", "fetch it again") from error
    if held > MAX_BYTES:
        raise InputError(path, f"unpacks to more than {MAX_BYTES >> 30} GiB", "do not use it")
    return held


def _check_extent(image: Any, path: Path, held: int) -> None:
    """Reject a header that promises more data than the file holds, before allocating memory."""
    shape = [int(side) for side in image.shape]
    if min(shape, default=0) < 1:
        raise InputError(path, f"the shape is {tuple(shape)}", "give one 3-D volume")
    voxels = math.prod(shape)
    if voxels > MAX_VOXELS:
        raise InputError(
            path, f"its header claims {' × '.join(map(str, shape))} voxels", "fetch it again"
        )
    promised = int(image.dataobj.offset) + voxels * image.dataobj.dtype.itemsize
    if held < promised:
        problem = f"is truncated: {held} bytes, but its header promises {promised}"
        raise InputError(path, problem, "fetch it again")


@np.errstate(all="ignore")  # odd values are checked below
def read_volume(path: str | Path, orientation: str = "") -> Volume:
    """Read NIfTI-1/2 (.nii, .nii.gz), MGH/MGZ or an Analyze pair (.img + .hdr).

    Args:
        path: the file; for a pair, the .img.
        orientation: directions of the three array axes (e.g. ``LAS``) for files whose header has
            none, ignored if it has a coded transform; or ``qform`` or ``sform``, the one to trust
            if a NIfTI header has both.

    Returns:
        The volume, scaled, without trailing axes of length 1.

    Raises:
        InputError: the file cannot be read or trusted.
    """
    warnings.filterwarnings("ignore", module=r"nibabel\.")  # the same messages, as warnings
    path = Path(path)
    held = _check_bytes(path)
    try:
        image: Any = nib.load(path)
        _check_extent(image, path, held)
        data = np.asanyarray(image.dataobj)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(
            path, f"a part of the image is missing ({error})", "put it beside the other"
        ) from error
    except Exception as error:  # nibabel raises many kinds for damaged headers
        reason = " ".join(str(error).split())
        raise InputError(
            path, f"cannot be read as an image ({reason})", "fetch or convert it again"
        ) from error
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
    top = max(abs(float(data.min())), abs(float(data.max())))
    if top > MAX_VALUE:
        raise InputError(path, f"voxels reach {top:.3g}", "repair the header's scaling")
    affine, transforms = placement(image, data.shape, orientation, path)
    return Volume(data, affine, path, transforms)


@dataclass(frozen=True)
class Grid:
    """A voxel grid: shape, voxel-to-world affine (RAS+ mm), its NIfTI header's transforms."""

    shape: tuple[int, int, int]
    affine: np.ndarray
    transforms: Transforms = None


def require_same_grid(path: str | Path, labels: Grid | Volume, image: Grid) -> None:
    """Raise an error if a label map is not on its image's grid.

    Raises:
        InputError: shape or affine differ; the message names `path`.
    """
    if labels.shape != image.shape:
        raise InputError(
            path, f"has shape {labels.shape}, its image {image.shape}", "give labels on its grid"
        )
    if not np.allclose(labels.affine, image.affine, atol=0.01):
        raise InputError(
            path, "is not aligned with its image (affines differ)",
            "give labels on its grid",
        )  # fmt: skip


def save_nifti(path: str | Path, data: np.ndarray, grid: Grid, slope: float = 1.0) -> None:
    """Write a NIfTI-1 file on a grid.

    The header gets the grid's transforms, so that every viewer overlays it on the image that the
    grid came from; without transforms, qform and sform get its affine (scanner coordinates).

    Args:
        path: file to write.
        data: stored values.
        grid: their grid.
        slope: factor that readers multiply them by.
    """
    image = nib.Nifti1Image(data, grid.affine)
    if slope != 1:
        image.header.set_slope_inter(slope, 0)
    image.header.set_xyzt_units("mm", "sec")
    affine = grid.affine.tolist()
    own = grid.transforms or {"qform": (affine, 1), "sform": (affine, 1)}
    image.set_qform(*own["qform"])
    image.set_sform(*own["sform"])
    nib.save(image, path)
