"""Read scans of any common format and refuse those that cannot be trusted.

World coordinates are nibabel's RAS+ millimetres throughout.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import math
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import HeaderDataError

from quicknat.errors import InputError

# a NIfTI header's own qform and sform: each a matrix as nested lists (None where its code is 0) and
# its code; None for other formats and for headers that have neither
Transforms = dict[str, tuple[list | None, int]] | None

MIN_AXIS = 4  # fewer slices along any axis make no volume
MAX_VOXELS = 1 << 30  # a head at 0.25 mm; what a header claims beyond that, no memory is taken for
MAX_BYTES = 8 * MAX_VOXELS + (1 << 20)  # of a file, unpacked
MAX_VALUE = 1e30  # so that sums and differences stay finite in float32
VOXEL_MM = (0.01, 100)  # a side outside these limits is in wrong units, and costs hours to resample
MAX_OFFSET_MM = 1e6

# what nibabel says of a header by itself would stand beside our one line, and twice
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Volume:
    """A 3-D array, its voxel-to-world affine (RAS+ mm), and its NIfTI header's transforms."""

    data: np.ndarray
    affine: np.ndarray
    path: Path
    transforms: Transforms = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.data.shape


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, as hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_bytes(path: Path) -> int:
    """Reject files that are missing, empty, or not what their name says; the bytes they hold."""
    if not path.is_file():
        raise InputError(path, "no such file", "check the path in the sheet")
    if path.suffix.lower() == ".img" and not any(
        path.with_suffix(end).exists() for end in (".hdr", ".HDR")
    ):
        raise InputError(path, "a part of the image is missing: its .hdr", "put it beside the .img")
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
    if not zipped:
        return path.stat().st_size
    held = 0
    try:  # nibabel stops reading before the checksum, so a damaged end would go unseen
        with gzip.open(path) as stream:
            while (block := stream.read(1 << 22)) and held <= MAX_BYTES:
                held += len(block)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(path, f"the gzip data is damaged ({error})", "fetch it again") from error
    if held > MAX_BYTES:
        raise InputError(path, f"unpacks to more than {MAX_BYTES >> 30} GiB", "do not use it")
    return held


def _check_extent(image: Any, path: Path, held: int) -> None:
    """Reject a header that promises more than its file holds, before memory is taken for it."""
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
        problem = f"is cut short: {held} bytes, where its header promises {promised}"
        raise InputError(path, problem, "fetch it again")


def usable_affine(affine: np.ndarray) -> bool:
    """Whether a matrix (4, 4) gives voxels a place: no number out of reach, no axis without length.

    With others, LAPACK may never come back.
    """
    reachable = bool(np.all(np.abs(affine) <= MAX_OFFSET_MM))
    return reachable and abs(np.linalg.det(affine[:3, :3])) >= 1e-6


def _stated_affine(
    shape: tuple[int, ...], zooms: np.ndarray, orientation: str, path: Path
) -> np.ndarray:
    """Affine of axes that point to `orientation` (such as LAS), centred on the world's origin."""
    if sorted(map("LAS".find, orientation.translate(str.maketrans("RPI", "LAS")))) != [0, 1, 2]:
        fix = "name one of L or R, one of A or P, one of S or I, such as LAS"
        raise InputError(path, f"its stated orientation '{orientation}' names no three axes", fix)
    ornt = nib.orientations.axcodes2ornt(tuple(orientation))
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (world, sign) in enumerate(ornt):
        affine[int(world), axis] = sign * zooms[axis]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def _transforms(image: Any, path: Path) -> Transforms:
    """The header's transforms, as :class:`Volume` keeps them."""
    if not isinstance(image, nib.Nifti1Pair):  # NIfTI-1 and -2, single files and pairs
        return None
    try:
        found = {"qform": image.get_qform(coded=True), "sform": image.get_sform(coded=True)}
    except (HeaderDataError, ValueError, np.linalg.LinAlgError) as error:
        raise InputError(
            path, f"the qform is no rotation ({error})", "repair the header"
        ) from error
    for name, (matrix, _) in found.items():
        if matrix is not None and not np.all(np.abs(matrix) <= MAX_OFFSET_MM):
            raise InputError(path, f"the {name} holds no usable numbers", "repair the header")
    return {
        name: (None if matrix is None else matrix.tolist(), int(code))
        for name, (matrix, code) in found.items()
    }


def _placement(
    image: Any, shape: tuple[int, ...], orientation: str, path: Path
) -> tuple[np.ndarray, Transforms]:
    """The affine that the header supports and its transforms, or the stated one where none is."""
    zooms = np.array(image.header.get_zooms()[:3], dtype=float)
    transforms = _transforms(image, path)
    if np.any(~np.isfinite(zooms)) or np.any(zooms <= 0):
        raise InputError(path, f"voxel size {zooms.tolist()} is not positive", "repair the header")
    if zooms.min() < VOXEL_MM[0] or zooms.max() > VOXEL_MM[1]:
        sides = " × ".join(f"{zoom:.3g}" for zoom in zooms)
        raise InputError(path, f"voxels are {sides} mm", "repair the header; are its units mm?")
    if transforms:
        says = {
            # an axis without length points nowhere
            name: "".join(letter or "?" for letter in nib.aff2axcodes(np.array(matrix)))
            for name, (matrix, code) in transforms.items()
            if code
        }
        coded = bool(says)
        if len(set(says.values())) > 1:
            raise InputError(
                path,
                f"sform says {says['sform']}, qform says {says['qform']}",
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
        return _stated_affine(shape, zooms, orientation, path), None
    affine = image.affine
    if not usable_affine(affine):
        raise InputError(path, "the affine is singular or not finite", "repair the header")
    if not np.allclose(voxel_sizes(affine), zooms, rtol=0.02, atol=0.01):
        raise InputError(
            path,
            f"voxel sizes {zooms.round(3).tolist()} contradict the affine "
            f"({voxel_sizes(affine).round(3).tolist()})",
            "repair the header",
        )
    return affine, transforms


@np.errstate(all="ignore")  # what comes of odd values is looked at below
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
    warnings.filterwarnings("ignore", module=r"nibabel\.")  # the same, by another way
    path = Path(path)
    held = _check_bytes(path)
    try:
        image = nib.load(path)
        _check_extent(image, path, held)
        data = np.asanyarray(image.dataobj)
    except InputError:
        raise
    except FileNotFoundError as error:
        problem = f"a part of the image is missing ({error})"
        raise InputError(path, problem, "put it beside this one") from error
    except Exception as error:  # nibabel raises many kinds over damaged headers
        fix = "fetch it again, or convert it to NIfTI"
        raise InputError(path, f"cannot be read as an image ({error})", fix) from error
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
    affine, transforms = _placement(image, data.shape, orientation, path)
    return Volume(data, affine, path, transforms)


@dataclass(frozen=True)
class Grid:
    """A voxel grid: shape, voxel-to-world affine (RAS+ mm), its NIfTI header's transforms."""

    shape: tuple[int, int, int]
    affine: np.ndarray
    transforms: Transforms = None


def require_same_grid(path: str | Path, labels: Grid | Volume, image: Grid) -> None:
    """Refuse a label map that is not on its image's own grid.

    Raises:
        InputError: naming `path`, where shape or affine differ.
    """
    if labels.shape != image.shape:
        raise InputError(
            path, f"has shape {labels.shape}, its image {image.shape}", "give labels on its grid"
        )
    if not np.allclose(labels.affine, image.affine, atol=0.01):
        raise InputError(path, "lies elsewhere in space than its image (affines differ)")


def save_nifti(path: str | Path, data: np.ndarray, grid: Grid, slope: float = 1.0) -> None:
    """Write a NIfTI-1 file on a grid.

    Its header has the grid's own transforms, so that every viewer lays it over the image that the
    grid came from; a grid without gives qform and sform its affine (scanner coordinates).

    Args:
        path: where to.
        data: values as they are stored.
        grid: where they lie.
        slope: what readers multiply them by.
    """
    image = nib.Nifti1Image(data, grid.affine)
    if slope != 1:
        image.header.set_slope_inter(slope, 0)
    image.header.set_xyzt_units("mm", "sec")
    own = grid.transforms or {"qform": (grid.affine, 1), "sform": (grid.affine, 1)}
    image.set_qform(*own["qform"])
    image.set_sform(*own["sform"])
    nib.save(image, path)
