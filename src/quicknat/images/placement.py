"""Determine a scan's position in world space, from its header or as the user states it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import HeaderDataError

from quicknat.errors import InputError

# qform and sform of a NIfTI header: a matrix as nested lists (None if its code is 0), and its code;
# None for other formats and for headers that have neither
Transforms = dict[str, tuple[list | None, int]] | None

VOXEL_MM = (0.01, 100)  # sizes outside these limits have wrong units, and take hours to resample
MAX_OFFSET_MM = 1e6

FORMS = ("qform", "sform")
CHOOSE = "state the correct transform, qform or sform, with --orientation (or that column)"


def usable_affine(affine: np.ndarray) -> bool:
    """Return whether a matrix (4, 4) is a valid affine: no huge numbers, no axis of length zero.

    With others, LAPACK may hang.
    """
    reachable = bool(np.all(np.abs(affine) <= MAX_OFFSET_MM))
    return reachable and abs(np.linalg.det(affine[:3, :3])) >= 1e-6


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

    Args:
        image: as nibabel loaded it.
        shape: of its three axes.
        orientation: see :func:`quicknat.images.volumes.read_volume`.
        path: file named in error messages.

    Raises:
        InputError: the orientation is unknown, the transforms disagree with each other or with
            the voxel sizes, or the affine is singular.
    """
    zooms = np.array(image.header.get_zooms()[:3], dtype=float)
    transforms = _transforms(image, orientation, path)
    if np.any(~np.isfinite(zooms)) or np.any(zooms <= 0):
        raise InputError(path, f"voxel size {zooms.tolist()} is not positive", "repair the header")
    if zooms.min() < VOXEL_MM[0] or zooms.max() > VOXEL_MM[1]:
        sides = " × ".join(f"{zoom:.3g}" for zoom in zooms)
        raise InputError(path, f"voxels are {sides} mm", "repair the header; are its units mm?")
    if transforms:
        says = {
            # an axis of length zero has no direction
            name: "".join(letter or "?" for letter in nib.aff2axcodes(np.array(matrix)))
            for name, (matrix, code) in transforms.items()
            if code
        }
        coded = bool(says)
        if len(set(says.values())) > 1:
            raise InputError(
                path,
                f"sform says {says['sform']}, qform says {says['qform']}",
                f"repair the header, or {CHOOSE}",
            )
    else:
        coded = isinstance(image, nib.MGHImage)
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
    if not np.allclose(voxel_sizes(affine), zooms, rtol=0.02, atol=0.01):
        raise InputError(
            path,
            f"voxel sizes {zooms.round(3).tolist()} contradict the affine "
            f"({voxel_sizes(affine).round(3).tolist()})",
            f"repair the header, or {CHOOSE}",
        )
    return affine, transforms
