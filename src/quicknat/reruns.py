"""Compute what determines a result, by which the workflow decides what to rerun."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

RUNTIME_ONLY = {"compile", "checkpoint_minutes"}  # settings that do not affect results
# settings that a later version added: the value with which results are as before it. Finished runs
# with that value do not run again after an upgrade, and interrupted trainings resume
ADDED: dict[str, Any] = {"max_minutes": None}
# Version of the conformed grid. 1: centred on the field of view; with an odd number of voxels they
# fell half-way between the scan's, which shifted labels to one side. 2: aligned with the scan's.
GRID_FORMAT = 2
# Version of what is made with a model. 2: scalp is removed, and the sides of a structure share the
# sagittal probability in the uncertainty. 3: slices are cut to the brain in groups.
SEGMENTATION_FORMAT = 3
# Version of the tables of scores: raise it with every new column of them, or new definition
SCORES_FORMAT = 1
LOOKS = {"abbreviation", "color"}  # protocol columns that do not affect label maps


def stable_path(path: str | Path) -> str:
    """Return a unique path of a file, however a sheet or setting writes it.

    Paths in the current folder are relative, so that a project can move; others are absolute, so
    that results can.
    """
    here = str(Path.cwd()).rstrip(os.sep) + os.sep
    # without following links; as text, since a sheet may have 50,000 paths
    there = os.path.normpath(str(path) if str(path).startswith(os.sep) else here + str(path))
    return there.removeprefix(here) if there + os.sep != here else os.curdir


def compared_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that affect results, including those in sections.

    Those that were :data:`ADDED` are left out unless they change something.
    """
    return {
        key: compared_settings(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key not in RUNTIME_ONLY and not (key in ADDED and value == ADDED[key])
    }


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a small file; "" if it does not exist."""
    path = Path(path)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def table_digest(path: str | Path, without: Collection[str] = ()) -> str:
    """Return the SHA-256 of a TSV's name and cells, except for the columns `without`."""
    path = Path(path)
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    left_out = {index for row in rows[:1] for index, name in enumerate(row) if name in without}
    cells = [[cell for index, cell in enumerate(row) if index not in left_out] for row in rows]
    return hashlib.sha256(json.dumps([path.stem, cells]).encode()).hexdigest()
