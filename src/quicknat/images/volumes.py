"""Read scans of all common formats, and reject those that cannot be trusted.

World coordinates are nibabel's RAS+ millimetres throughout.
"""

from __future__ import annotations

import gzip
import logging
import math
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from quicknat.errors import InputError
from quicknat.images.intensities import has_overflowed, without_fill
from quicknat.images.placement import Transforms, farthest_mm, placement
from quicknat.images.recognition import require_image

MIN_AXIS = 4  # fewer slices along an axis are not a volume
MAX_VOXELS = 1 << 30  # a head at 0.25 mm; no memory is allocated for headers that claim more
MAX_BYTES = 8 * MAX_VOXELS + (1 << 20)  # of an uncompressed file
ROUNDING = 1e-3  # of label values, by which they may be off whole numbers
MAX_EXACT = 1 << 53  # larger floats are not exact integers
MAX_VALUE = 1e30  # so that sums and differences stay finite in float32

# nibabel's own messages about headers would repeat our one-line error
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Volume:
    """A 3-D array with its voxel-to-world affine (RAS+ mm) and its NIfTI header's transforms.

    ``filled``: constants around the field of view that were replaced by the intensity of air.
    """

    data: np.ndarray
    affine: np.ndarray
    path: Path
    transforms: Transforms = None
    filled: Sequence[float] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.data.shape


def whole_numbers(data: np.ndarray, where: str | Path) -> np.ndarray:
    """Return label values as integers (as floats if they are huge), same shape.

    With a scale factor in the header, rounding may turn 2 into 1.99999996.

    Raises:
        InputError: a value is not finite, or is off a whole number by more than 0.001.
    """
    if data.dtype.kind in "iub":
        return data
    whole = np.rint(data)
    odd = ~(np.abs(data - whole) <= ROUNDING)  # NaN, too
    if odd.any():
        raise InputError(
            where,
            f"label value {data[odd].flat[0]:.6g} is not a whole number ({odd.sum()} voxels)",
            "give the original label map, as integers without a scale factor, "
            "not probabilities or an interpolated map",
        )
    exact = np.abs(whole).max(initial=0) < MAX_EXACT
    return whole.astype(np.int64) if exact else whole


def as_bytes(volume: Volume, highest: int) -> np.ndarray:
    """Return the values of a volume as uint8, e.g. class indices.

    Raises:
        InputError: a value is not a whole number from 0 to `highest`.
    """
    data = volume.data
    if data.dtype == np.uint8 and data.max(initial=0) <= highest:
        return data
    whole = np.rint(data)
    odd = data[(whole < 0) | (whole > highest) | ~(np.abs(data - whole) <= ROUNDING)]
    if odd.size:
        problem = f"holds {odd.flat[0]:g}, but only whole numbers from 0 to {highest} are valid"
        fix = "convert scan and labels again, or name the table or convention of these numbers"
        raise InputError(volume.path, problem, fix)
    return whole.astype(np.uint8)


def _check_bytes(path: Path) -> int:
    """Reject files that are not images, damaged or misnamed; return the uncompressed size."""
    start = require_image(path)
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


def _voxels(image: Any, path: Path, held: int) -> np.ndarray:
    """Return the scaled voxels of an image that nibabel loaded, any number of axes.

    Raises:
        InputError: the header promises more data than the uncompressed file of `held` bytes has. No
            memory is allocated then.
    """
    shape = [int(side) for side in image.shape]
    if min(shape, default=0) < 1:
        raise InputError(path, f"the shape is {tuple(shape)}", "give one 3-D volume")
    voxels = math.prod(shape)
    if voxels > MAX_VOXELS:
        raise InputError(
            path, f"its header claims {' × '.join(map(str, shape))} voxels", "fetch it again"
        )
    proxy, header = image.dataobj, image.header
    size, start = voxels * proxy.dtype.itemsize, int(proxy.offset)
    if type(image) in (nib.Nifti1Image, nib.Nifti2Image) and start < header.single_vox_offset:
        # some writers leave vox_offset at 0; nibabel would return the header as voxels
        start = header.single_vox_offset
        if held != start + size:
            raise InputError(
                path, f"its vox_offset is {proxy.offset}, within the header", "repair the header"
            )
        spec = proxy.shape, proxy.dtype, start, proxy.slope, proxy.inter
        proxy = nib.arrayproxy.ArrayProxy(proxy.file_like, spec)
    if held < start + size:
        problem = f"is truncated: {held} bytes, but its header promises {start + size}"
        raise InputError(path, problem, "fetch it again")
    return np.asanyarray(proxy)


@np.errstate(all="ignore")  # odd values are checked below
def _read(path: Path, orientation: str, scan: bool) -> Volume:
    """Read a file; see :func:`read_volume` and, if it is a `scan`, :func:`read_scan`."""
    warnings.filterwarnings("ignore", module=r"nibabel\.")  # the same messages, as warnings
    held = _check_bytes(path)
    try:
        image: Any = nib.load(path)
        data = _voxels(image, path, held)
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
    filled: list[float] = []
    if scan:
        if has_overflowed(data):
            fix = "convert it again, with a newer dcm2niix, or store it as uint16"
            raise InputError(path, "its brightest voxels are negative (16-bit overflow)", fix)
        data, filled = without_fill(data)
    if not np.all(np.isfinite(data)):
        count = int(np.size(data) - np.isfinite(data).sum())
        raise InputError(path, f"{count} voxels are NaN or infinite", "repair the image")
    top = max(abs(float(data.min())), abs(float(data.max())))
    if top > MAX_VALUE:
        raise InputError(path, f"voxels reach {top:.3g}", "repair the header's scaling")
    affine, transforms = placement(image, data.shape, orientation, path)
    return Volume(data, affine, path, transforms, filled)


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
    return _read(Path(path), orientation, scan=False)


def read_scan(path: str | Path, orientation: str = "") -> Volume:
    """Read an image as :func:`read_volume` does, without the padding of its field of view.

    Constants that stand for missing data, NaN among them, become the intensity of air; see
    :func:`quicknat.images.intensities.without_fill`.

    Raises:
        InputError: the file cannot be read or trusted.
    """
    return _read(Path(path), orientation, scan=True)


@dataclass(frozen=True)
class Grid:
    """A voxel grid: shape, voxel-to-world affine (RAS+ mm), its NIfTI header's transforms."""

    shape: tuple[int, int, int]
    affine: np.ndarray
    transforms: Transforms = None


def require_same_grid(path: str | Path, labels: Grid | Volume, image: Grid | Volume) -> None:
    """Raise an error if a volume is not on an image's grid: no voxel half a voxel off or more.

    Raises:
        InputError: shape or affine differ; the message names `path`.
    """
    if labels.shape != image.shape:
        raise InputError(
            path, f"has shape {labels.shape}, its image {image.shape}", "give labels on its grid"
        )
    apart = farthest_mm(image.shape, labels.affine, image.affine)
    if not apart < voxel_sizes(image.affine).min() / 2:
        raise InputError(
            path, f"is not aligned with its image (voxels up to {apart:.2g} mm off)",
            "give labels on its grid",
        )  # fmt: skip


def on_grid(volume: Volume, image: Grid | Volume) -> Volume:
    """Return a volume with the affine of the image that it belongs to; see `require_same_grid`.

    Headers differ by rounding, or because tools store one transform of two.

    Raises:
        InputError: it is not on the image's grid.
    """
    require_same_grid(volume.path, volume, image)
    return replace(volume, affine=image.affine, transforms=image.transforms)


def save_nifti(path: str | Path, data: np.ndarray, grid: Grid, slope: float = 1.0) -> None:
    """Write a NIfTI-1 file on a grid.

    The header gets the grid's transforms, so that every viewer overlays it on the image that the
    grid came from; without transforms, qform and sform get its affine (scanner coordinates).
    Readers multiply the stored values by `slope`.
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
