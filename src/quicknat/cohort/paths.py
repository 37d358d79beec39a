"""Locate the files of a cohort, also those still to be downloaded."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quicknat.cohort.sheet import LOCAL, Scan, Source
from quicknat.errors import InputError
from quicknat.images.recognition import why_absent
from quicknat.reruns import stable_path


def find_all(path: str | Path) -> list[Path]:
    """Return the files that `path` names; its parts may be globs, matched case-insensitively."""
    path = Path(path)
    matches = [Path(path.anchor)]
    try:
        if path.is_file():
            return [path]
        for part in path.relative_to(path.anchor).parts:
            matches = [found for folder in matches for found in _children(folder, part)]
        return [match for match in matches if match.is_file()]
    except OSError:  # e.g. a name that is too long
        return []


def find_one(path: str | Path) -> Path:
    """Return the one file that `path` names, as :func:`find_all` finds it.

    Raises:
        InputError: no file matches, or more than one.
    """
    files = find_all(path)
    if not files:
        raise InputError(path, *why_absent(Path(path)))
    if len(files) > 1:
        raise InputError(
            path, f"matches {len(files)} files ({files[0].name}, {files[1].name})", "name one"
        )
    return files[0]


def _children(folder: Path, name: str) -> list[Path]:
    """Return the file `name` of a folder, or else all that match it case-insensitively.

    As in a shell, ``*`` does not match a dot at the beginning (``._scan.nii.gz`` of macOS).
    """
    if (folder / name).exists():
        return [folder / name]
    if not folder.is_dir():
        return []
    names = (c.name for c in folder.iterdir() if name.startswith(".") or c.name[0] != ".")
    return sorted(folder / c for c in names if fnmatch.fnmatchcase(c.lower(), name.lower()))


def with_header(path: Path) -> list[Path]:
    """Return a file, and the header that an Analyze pair has beside it."""
    headers = [path.with_suffix(end) for end in (".hdr", ".HDR")]
    return [path, *filter(Path.exists, headers)] if path.suffix.lower() == ".img" else [path]


@dataclass(frozen=True)
class CohortPaths:
    """A sheet, its sources by name, and the folders of their files.

    ``raw`` is where archives are unpacked, each into a folder named after its source; ``base`` is
    what the folder of a source of kind ``local`` is relative to ("" for the current folder);
    ``auto`` what that split stands for ("" for one by the participant's name).
    """

    sheet: str
    sources: Mapping[str, Source]
    raw: str
    base: str = ""
    auto: str = ""

    def path(self, source: str, path: str) -> str:
        """Return the path of a source's file; it may contain a glob."""
        if source == LOCAL:
            return stable_path(Path(self.sheet).parent / path)
        if self.sources[source].kind == LOCAL:
            return stable_path(Path(self.base, self.sources[source].url, path))
        return f"{self.raw}/{source}/{path}"

    def fetched(self, source: str) -> bool:
        """Return whether all files of a source are present and complete."""
        if self.in_place(source):
            return True
        return Path(f"{self.raw}/{source}.members.txt").exists()  # written last

    def in_place(self, source: str) -> bool:
        """Return whether a source's files are the user's own, which no job will download."""
        return source == LOCAL or self.sources[source].kind == LOCAL

    def inputs(self, source: str, path: str) -> list[str]:
        """Return the inputs of a job that reads this file.

        A local file that went missing after the check is left out: its own job reports it, and
        other scans continue. Of an archive it is the list of members, since a name may be a glob.
        """
        if not self.in_place(source):
            return [f"{self.raw}/{source}.members.txt"]
        found = find_all(self.path(source, path))
        return [str(part) for file in found for part in with_header(file)]

    def image_inputs(self, scan: Scan) -> list[str]:
        """Return the inputs of a job that reads a scan's image."""
        return self.inputs(scan.source, scan.image)

    def label_inputs(self, scan: Scan) -> list[str]:
        """Return the inputs of a job that reads a scan's raw labels."""
        return self.inputs(scan.labels_source, scan.labels)

    def image_stamps(self, scan: Scan) -> list[str]:
        """Return size and modification time of the user's own files of an image, if it is one."""
        found = [Path(p).stat() for p in self.image_inputs(scan) if self.in_place(scan.source)]
        return [f"{stat.st_size} {stat.st_mtime:.0f}" for stat in found]

    def row(self, scan: Scan) -> dict[str, str]:
        """Return path and orientation of a scan's image and labels, "" for missing ones."""
        return {
            "image": self.path(scan.source, scan.image) if scan.image else "",
            "orientation": self.orientation(scan, scan.source),
            "labels": self.path(scan.labels_source, scan.labels) if scan.labels else "",
            "labels_orientation": self.orientation(scan, scan.labels_source),
            "label_convention": scan.label_convention,
        }

    def orientation(self, scan: Scan, source: str) -> str:
        """Return the axis directions stated by the row, or else by its source."""
        stated = self.sources[source].orientation if source in self.sources else ""
        return scan.orientation or stated
