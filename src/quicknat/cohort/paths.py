"""Where the files of a cohort are, or will be once they are fetched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quicknat.cohort.sheet import LOCAL, Scan, find_all
from quicknat.errors import InputError
from quicknat.reruns import stable_path


@dataclass(frozen=True)
class Places:
    """A sheet, the table of sources by name, and the folders that their files are in.

    ``raw`` is where archives are unpacked, each into a folder named after its source; ``base`` is
    what the folder of a source of kind ``local`` is relative to ("" for the current folder).
    """

    sheet: str
    sources: Mapping[str, Mapping[str, str]]
    raw: str
    base: str = ""

    def path(self, source: str, path: str) -> str:
        """Path of a file of a source; its last parts may still be a glob."""
        if source == LOCAL:
            return stable_path(Path(self.sheet).parent / path)
        if self.sources[source]["kind"] == LOCAL:
            return stable_path(Path(self.base, self.sources[source]["url"], path))
        return f"{self.raw}/{source}/{path}"

    def fetched(self, source: str) -> bool:
        """Whether a source's files, as far as they exist, are all there and whole."""
        if self.in_place(source):
            return True
        return Path(f"{self.raw}/{source}.members.txt").exists()  # written last

    def in_place(self, source: str) -> bool:
        """Whether a source's files are the user's own, so that none can still arrive."""
        return source == LOCAL or self.sources[source]["kind"] == LOCAL

    def inputs(self, source: str, path: str) -> list[str]:
        """What a job that reads this file depends on.

        A local file that went missing after the check is no input: the job itself says so, and
        other scans go on. A member of an archive hangs on the list of members, since its name may
        be a glob.
        """
        if not self.in_place(source):
            return [f"{self.raw}/{source}.members.txt"]
        found = find_all(self.path(source, path))
        headers = [file.with_suffix(end) for file in found for end in (".hdr", ".HDR")
                   if file.suffix.lower() == ".img"]  # fmt: skip
        return [str(file) for file in [*found, *filter(Path.exists, headers)]]

    def image_inputs(self, scan: Scan) -> list[str]:
        """Return what a job depends on that reads a scan's image."""
        return self.inputs(scan.source, scan.image)

    def label_inputs(self, scan: Scan) -> list[str]:
        """Return what a job depends on that reads a scan's raw labels."""
        return self.inputs(scan.labels_source, scan.labels)

    def row(self, scan: Scan) -> dict[str, str]:
        """Return path and orientation of a scan's image and of its labels, "" for what it lacks."""
        return {
            "image": self.path(scan.source, scan.image) if scan.image else "",
            "orientation": self.orientation(scan, scan.source),
            "labels": self.path(scan.labels_source, scan.labels) if scan.labels else "",
            "labels_orientation": self.orientation(scan, scan.labels_source),
            "label_convention": scan.protocol,
        }

    def orientation(self, scan: Scan, source: str) -> str:
        """Stated direction of the axes, of the row or else of its source."""
        return scan.orientation or self.sources.get(source, {}).get("orientation", "")

    def require_sources(self, scan: Scan) -> None:
        """Refuse a scan that names a source which the table does not have.

        Raises:
            InputError: naming the scan, and the sources that there are.
        """
        allowed = [LOCAL, *self.sources]
        for source in (scan.source, scan.labels_source):
            if source not in allowed:
                problem = f"{scan.id} names the source '{source}'"
                raise InputError(self.sheet, problem, f"allowed: {', '.join(allowed)}")
