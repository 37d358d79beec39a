"""How much room the results of a cohort will take."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from quicknat.cohort.paths import Places
from quicknat.cohort.sheet import Scan

# measured on the demo: bytes of a scan's files by voxel of the conformed cube, and of its slices by
# voxel of the window; both a little more than what came out
PER_CUBE_VOXEL, PER_WINDOW_VOXEL = 0.6, 5


def needed_bytes(
    scans: Sequence[Scan], places: Places, results: Path, size: int, window: int
) -> int:
    """Bytes that a run will add, by rule of thumb; what is there already is not counted.

    Args:
        scans: the cohort.
        places: where its files are; ``raw`` lies in the results folder.
        size: voxels along a side of the conformed cube.
        window: voxels along a side of the slices.
    """
    total = 0.0
    for scan in scans:
        if scan.image and not (results / "scans" / scan.id).exists():
            total += PER_CUBE_VOXEL * size**3
        if scan.use in ("test", "segment"):
            if not (results / "segmentations" / scan.id).exists():
                total += PER_CUBE_VOXEL * size**3
        elif not any((results / "slices").glob(f"{scan.id}*.json")):
            total += PER_WINDOW_VOXEL * window**3
    named = {source for scan in scans for source in (scan.source, scan.labels_source)}
    for source in sorted(named & set(places.sources)):
        if not places.fetched(source):
            # the archive, and about as much again out of it
            total += 2e6 * float(places.sources[source].get("size_mb") or 0)
    return int(total)


def space_line(needed: int, folder: str | Path = ".") -> str:
    """Needed and free space in one line, which says so when it is not enough."""
    free = shutil.disk_usage(folder).free
    short = "" if free > needed else "; NOT ENOUGH: make room, or run elsewhere"
    about = f"about {needed / 1e9:.1f} GB" if needed > 1e8 else "less than 0.1 GB"
    return f"disk: {about} needed, {free / 1e9:.1f} GB free{short}"
