"""Recognise files that only bear an image's name, or images in formats that are not read."""

from __future__ import annotations

import os
import shlex
from itertools import islice
from pathlib import Path

from quicknat.errors import InputError

START = 512  # bytes to look at
ANNEX = "annex/objects/"
DICOM_ENDINGS = (".dcm", ".ima", ".dicom")
TO_NIFTI = "convert it to NIfTI with dcm2niix (dcm2niix -z y -o OUTPUT FOLDER)"
# first bytes -> what they are, what to do
FORMATS = {
    b"version https://git-lfs": ("is a Git LFS pointer, not an image", "run 'git lfs pull'"),
    b"PK\x03\x04": ("is a zip archive", "unpack it"),
    b"BZh": ("is bzip2-compressed", "unpack it with bunzip2"),
    b"\xfd7zXZ": ("is xz-compressed", "unpack it with unxz"),
    b"NRRD": ("is an NRRD image", "convert it to NIfTI, e.g. with 3D Slicer or SimpleITK"),
    b"ObjectType": ("is a MetaImage", "convert it to NIfTI, e.g. with 3D Slicer or SimpleITK"),
    b"CDF": ("is a MINC image", "convert it to NIfTI with mnc2nii"),
    b"\x89HDF": ("is a MINC-2 or other HDF5 file", "convert it to NIfTI with mnc2nii"),
}


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM: by its bytes, or by its name if these are binary."""
    with path.open("rb") as stream:
        start = stream.read(START)
    named = path.name.lower().endswith(DICOM_ENDINGS)
    return start[128:132] == b"DICM" or (named and b"\0" in start)


def require_not_dicom(folder: Path) -> None:
    """Raise an error if there is a DICOM file among the first files of a folder without scans.

    Raises:
        InputError: says how to convert it.
    """
    for path in islice(folder.rglob("*"), 200):
        if path.is_file() and os.access(path, os.R_OK) and is_dicom(path):
            raise InputError(folder, f"holds DICOM files ({path.name})", TO_NIFTI)


def _fetch(path: Path) -> str:
    """Return the commands that fetch a file's content."""
    name = shlex.quote(str(path))
    return f"run datalad get {name} or git annex get {name}"


def why_absent(path: Path) -> tuple[str, str]:
    """Return why a path is not a file, and what to do about it."""
    try:
        target = str(path.readlink())
    except (OSError, ValueError):  # no link
        return "no such file", "check the path"
    if ANNEX in target:
        return "is a git-annex link whose content was not fetched", _fetch(path)
    return f"is a link to a missing file ({target})", "fetch that file, or repair the link"


def require_image(path: Path) -> bytes:
    """Return the first bytes of a file, unless it is known to be something else.

    Raises:
        InputError: there is no such file, or it is empty, a pointer or a link to content that was
            not fetched, a web page or another text, DICOM, or in a format that is not read.
    """
    if not path.is_file():
        raise InputError(path, *why_absent(path))
    if path.stat().st_size == 0:
        raise InputError(path, "the file is empty", "fetch it again")
    with path.open("rb") as stream:
        start = stream.read(START)
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(path, "is a web page, not an image", "fetch the file itself")
    if ANNEX.encode() in start and b"\0" not in start:
        raise InputError(path, "is a git-annex pointer, not an image", _fetch(path))
    for magic, (problem, fix) in FORMATS.items():
        if start.startswith(magic):
            raise InputError(path, problem, fix)
    if is_dicom(path):
        raise InputError(path, "is a DICOM file", TO_NIFTI)
    text = start.decode("latin-1")
    headerless = path.suffix.lower() == ".img"  # begins with voxels, which may look like text
    if not headerless and text.isascii() and all(c.isprintable() or c.isspace() for c in text):
        raise InputError(path, f"holds text ('{text[:40].strip()}')", "fetch the image itself")
    return start
