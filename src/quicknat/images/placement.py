"""Determine a scan's position in world space, from its header or as the user states it."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec, voxel_sizes
from nibabel.spatialimages import HeaderDataError

from quicknat.errors import InputError

# qform and sform of a NIfTI header: a matrix as nested lists (None if its code is 0), and its code;
# None for other formats and for headers that have neither
Transforms = dict[str, tuple[list | None, int]] | None

VOXEL_MM = (0.01, 100)  # sizes outside these limits have wrong units, and take hours to resample
MAX_OFFSET_MM = 1e6

# how far apart qform and sform, or affine and voxel sizes, may put a voxel. Of two transforms, all
# programs read an sform of code 1, but some (ITK) a qform rather than an sform of another code
MAX_APART_MM = 3
MAX_APART_IF_SCANNER_MM = 30  # about 8° or less: SPM and others realign sforms by a few degrees
MGH_FLAG = 28  # where goodRASFlag is in an MGH header: 0 if it states no orientation
UNITS = {1: "metres", 3: "micrometres"}  # NIfTI's codes for others than mm
# nibabel's default of 4e-7 rejects quaternions that were rounded once more; other tools read them
MAX_EXCESS = 1e-3  # of the squared length of a quaternion
for _header in (nib.Nifti1Header, nib.Nifti2Header):
    _header.quaternion_threshold = np.float64(MAX_EXCESS)

FORMS = ("qform", "sform")
SCANNER = 1  # NIfTI's code of scanner coordinates
CHOOSE = "state the correct transform, qform or sform, with --orientation (or that column)"


def usable_affine(affine: np.ndarray) -> bool:
    """Return whether a matrix (4, 4) is a valid affine: no huge numbers, no axis of length zero.

    With others, LAPACK may hang.
    """
    reachable = bool(np.all(np.abs(affine) <= MAX_OFFSET_MM))
    return reachable and abs(np.linalg.det(affine[:3, :3])) >= 1e-6


def farthest_mm(shape: tuple[int, ...], one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest distance in mm between a voxel's positions by two affines (4, 4).

    It is that of a corner, since distances are convex.
    """
    corners = np.array(list(product(*((0, side - 1) for side in shape))))
    return float(np.linalg.norm(apply_affine(one - other, corners), axis=1).max())


def forms_apart_mm(shape: tuple[int, ...], transforms: Transforms) -> float:
    """Return how far apart (mm) qform and sform put a voxel; 0 unless a header has both."""
    matrices = [np.array(matrix) for matrix, code in (transforms or {}).values() if code]
    return farthest_mm(shape, *matrices) if len(matrices) == 2 else 0.0


def _stored(image: Any) -> bytes:
    """Return a header as it is stored; nibabel repairs what it loads."""
    holder = image.file_map.get("header", image.file_map["image"])
    with holder.get_prepare_fileobj("rb") as stream:
        return stream.read(image.header.template_dtype.itemsize)


def _ambiguities(image: Any) -> list[str]:
    """Return what in a NIfTI header makes programs place it differently.

    nibabel ignores these; ITK flips axes with a negative size, and uses transforms of any code.
    """
    header = type(image.header)(_stored(image), image.header.endianness, check=False)
    handedness, *sizes = header["pixdim"][:4]
    found = [f"a voxel size of {size:g}" for size in sizes if size < 0]
    found += [f"a pixdim[0] of {handedness:g}"] if handedness < 0 and handedness != -1 else []
    return found + [
        f"a {name}_code of {header[f'{name}_code']}" for name in FORMS if header[f"{name}_code"] > 5
    ]


def _stated_affine(
    shape: tuple[int, ...], zooms: np.ndarray, orientation: str, path: Path
) -> np.ndarray:
    """Return an affine with axes along `orientation` (e.g. LAS), centred on the world's origin."""
    if sorted(orientation.translate(str.maketrans("LPI", "RAS"))) != sorted("RAS"):
        raise InputError(
            path, f"'{orientation}' is not an orientation", "give three letters, e.g. LAS"
        )
    ornt = nib.orientations.axcodes2ornt(tuple(orientation))
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (world, sign) in enumerate(ornt):
        affine[int(world), axis] = sign * zooms[axis]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def _transforms(image: Any, orientation: str, path: Path) -> Transforms:
    """Return the header's transforms, without one that the user does not trust."""
    if not isinstance(image, nib.Nifti1Pair):  # NIfTI-1 and -2, single files and pairs
        return None
    chosen = orientation in FORMS and image.header[f"{orientation}_code"] > 0
    trusted = [orientation] if chosen else FORMS
    found: dict[str, tuple[Any, int]] = dict.fromkeys(FORMS, (None, 0))
    coded = any(image.header[f"{name}_code"] > 0 for name in FORMS)
    if coded and not chosen and (odd := _ambiguities(image)):
        raise InputError(
            path, f"the header has {' and '.join(odd)}, which programs interpret differently",
            f"repair the header, or {CHOOSE}",
        )  # fmt: skip
    try:
        found |= {name: getattr(image, f"get_{name}")(coded=True) for name in trusted}
    except (HeaderDataError, ValueError, np.linalg.LinAlgError) as error:
        raise InputError(
            path, f"the qform is not a rotation ({error})",
            "repair the header, or state --orientation sform if that is correct",
        ) from error  # fmt: skip
    for name, (matrix, _) in found.items():
        if matrix is not None and not np.all(np.abs(matrix) <= MAX_OFFSET_MM):
            raise InputError(
                path, f"the {name} holds no usable numbers", f"repair the header, or {CHOOSE}"
            )
    return {
        name: (None if matrix is None else matrix.tolist(), int(code))
        for name, (matrix, code) in found.items()
    }


def placement(
    image: Any, shape: tuple[int, ...], orientation: str, path: Path
) -> tuple[np.ndarray, Transforms]:
    """Return the header's affine and transforms, or the stated orientation's if it has none.

    `image` is as nibabel loaded it; for `orientation` see
    :func:`quicknat.images.volumes.read_volume`.

    Raises:
        InputError: the orientation is unknown, the transforms disagree with each other or with
            the voxel sizes, or the affine is singular.
    """
    zooms = np.array(image.header.get_zooms()[:3], dtype=float)
    transforms = _transforms(image, orientation, path)
    if np.any(~np.isfinite(zooms)) or np.any(zooms <= 0):
        raise InputError(path, f"voxel size {zooms.tolist()} is not positive", "repair the header")
    code = int(image.header["xyzt_units"]) & 7 if isinstance(image, nib.Nifti1Pair) else 0
    if code in UNITS or zooms.min() < VOXEL_MM[0] or zooms.max() > VOXEL_MM[1]:
        sides = " × ".join(f"{zoom:.3g}" for zoom in zooms)
        problem = f"voxels are {sides} {UNITS.get(code, 'mm')}"
        raise InputError(path, problem, "repair the header: sizes, positions and xyzt_units in mm")
    if transforms:
        says = {name: np.array(matrix) for name, (matrix, code) in transforms.items() if code}
        coded = bool(says)
    else:
        coded = (
            isinstance(image, nib.MGHImage) and _stored(image)[MGH_FLAG : MGH_FLAG + 2] != b"\0\0"
        )
    if not coded:
        if not orientation or orientation in FORMS:
            form = f"'s {orientation}" if orientation else ""
            raise InputError(
                path,
                f"the header{form} has no orientation of the axes",
                "state it in the sheet's 'orientation' column or with --orientation, e.g. LAS",
            )
        return _stated_affine(shape, zooms, orientation, path), None
    affine = image.affine
    if transforms and transforms.get(orientation, (None, 0))[1]:
        affine = np.array(transforms[orientation][0])
    if not usable_affine(affine):
        raise InputError(
            path, "the affine is singular or not finite", f"repair the header, or {CHOOSE}"
        )
    sizes = voxel_sizes(affine)
    by_sizes = from_matvec(affine[:3, :3] / sizes * zooms, affine[:3, 3])
    if (
        not np.allclose(sizes, zooms, rtol=0.02, atol=0.01)
        or farthest_mm(shape, affine, by_sizes) > MAX_APART_MM
    ):
        raise InputError(
            path,
            f"voxel sizes {zooms.round(3).tolist()} contradict the affine "
            f"({sizes.round(3).tolist()})",
            f"repair the header, or {CHOOSE}",
        )
    if (apart := forms_apart_mm(shape, transforms)) > MAX_APART_MM:
        of_qform, of_sform = ("".join(nib.aff2axcodes(says[name])) for name in FORMS)
        scanner = image.header["sform_code"] == SCANNER and of_qform == of_sform
        axes = affine[:3, :3] / sizes
        scanner &= np.allclose(axes.T @ axes, np.eye(3), atol=1e-5)  # ITK reads no sheared sform
        if not scanner or apart > MAX_APART_IF_SCANNER_MM:
            problem = f"sform says {of_sform}, qform says {of_qform}: they put voxels up to"
            fix = f"repair the header, or {CHOOSE}"
            raise InputError(path, f"{problem} {apart:.0f} mm apart", fix)
    return affine, transforms
