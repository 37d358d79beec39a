"""What determines a result, and nothing else: the workflow compares runs by it."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

RUNTIME_ONLY = {"workers", "compile", "checkpoint_minutes"}  # settings that leave the result alone
# How voxels of conformed scans are placed. 1: the cube's centre on the field of view's, so that
# they fell half-way between a scan's voxels where it has an odd number of them, and labels moved to
# one side. 2: on the scan's own voxels.
GRID_FORMAT = 2
LOOKS = {"abbreviation", "color"}  # columns of a label protocol that no label map depends on


def stable_path(path: str | Path) -> str:
    """The same words for a file, from wherever a sheet or a setting names it.

    Relative to the current folder for what lies in it, so that a whole project can move; absolute
    for all else, so that results can.
    """
    here = Path.cwd()
    there = Path(os.path.normpath(here / path))  # follows no link, as a name should
    return str(there.relative_to(here)) if there.is_relative_to(here) else str(there)


def weight_determining(settings: Mapping[str, Any]) -> str:
    """Return those of the training settings that determine the weights, as JSON."""
    kept = {key: value for key, value in settings.items() if key not in RUNTIME_ONLY}
    return json.dumps(kept, sort_keys=True)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a small file; "" where there is none."""
    path = Path(path)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def table_digest(path: str | Path, without: Collection[str] = ()) -> str:
    """SHA-256 of a TSV's name and cells, but for the columns named in `without`."""
    path = Path(path)
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    left_out = {place for row in rows[:1] for place, name in enumerate(row) if name in without}
    cells = [[cell for place, cell in enumerate(row) if place not in left_out] for row in rows]
    return hashlib.sha256(json.dumps([path.stem, cells]).encode()).hexdigest()
