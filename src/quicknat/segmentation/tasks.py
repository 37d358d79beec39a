"""The scans to segment, how they are segmented, and the outcome for each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

from quicknat.cohort.examine import examine_image
from quicknat.cohort.naming import Selection
from quicknat.cohort.paths import find_all
from quicknat.cohort.survey import find_images
from quicknat.errors import InputError
from quicknat.files import read_records, write_records
from quicknat.images.volumes import read_scan

ALL = Selection()
SCANS = "scans.tsv"
FAILED = "failed"


@dataclass(frozen=True)
class Task:
    """One scan to segment: its file, the name that its results get, its orientation if known."""

    path: Path
    name: str
    orientation: str = ""


@dataclass(frozen=True)
class Options:
    """How scans are segmented.

    ``conformed``: the files are outputs of the convert stage. ``orientation``: of the array axes,
    for headers that state none. ``samples``: of Monte-Carlo dropout, 0 for none. ``batch_size``:
    slices per forward pass. ``views``: write each view's own label map too. ``any_precision``:
    results of other hardware, which computes in another precision, count as done.
    ``label_convention``: numbers in the label maps, "" for class indices. ``mgz``: write the label
    map as MGZ too. ``folder_per_scan``: as rules need it, results lie in ``{name}/anat/`` instead
    of ``sub-X/[ses-Y/]anat/``, without tables of all scans.
    """

    conformed: bool = False
    orientation: str = ""
    samples: int = 0
    batch_size: int = 1
    views: bool = False
    any_precision: bool = False
    label_convention: str = ""
    mgz: bool = False
    folder_per_scan: bool = False

    def of(self, task: Task) -> Options:
        """Return the options of one scan, whose own orientation goes first."""
        return replace(self, orientation=task.orientation or self.orientation)


def find_scans(paths: Sequence[Path], name: str = "", selection: Selection = ALL) -> list[Task]:
    """Return the scans of paths: files, and those of folders, see :func:`find_images`.

    Their results have the names of the files, or of a single file the given `name`.

    Raises:
        InputError: a folder without scans, two scans with one name, or none is selected.
    """
    tasks: dict[str, Task] = {}
    for own, path in selection.of(find_images(paths), itemgetter(0), paths[0]):
        task = Task(path, name or own)
        if task.name in tasks:
            raise InputError(
                path, f"would get the same name as {tasks[task.name].path}, {task.name}",
                "segment them one by one, each with a --name of its own",
            )  # fmt: skip
        tasks[task.name] = task
    return list(tasks.values())


def read_tasks(path: Path) -> list[Task]:
    """Return the scans of a list: name, file (may be a glob) and orientation, between tabs.

    Raises:
        InputError: a line has other cells, or two have one name.
    """
    tasks: dict[str, Task] = {}
    for line in path.read_text("utf-8").splitlines():
        if len(cells := line.split("\t")) != 3:
            raise InputError(path, f"has the line {line!r}", "write name, file and orientation")
        name, pattern, orientation = cells
        found = find_all(pattern)  # a missing file fails alone, when it is read
        if name in tasks:
            raise InputError(path, f"has the name {name} twice", "give each scan a name of its own")
        tasks[name] = Task(found[0] if len(found) == 1 else Path(pattern), name, orientation)
    return list(tasks.values())


@dataclass(frozen=True)
class Outcome:
    """The outcome for a scan: ``done``, ``skipped`` or ``failed``, why, and its quality flags."""

    name: str
    image: str
    status: str
    reason: str
    seconds: float
    flags: str = ""


def write_outcomes(
    outcomes: Sequence[Outcome],
    files: Mapping[str, Mapping[str, Path]],
    folder: Path,
    keep_others: bool = False,
) -> None:
    """Write ``scans.tsv`` to a folder, with the quality flags of scans that did not fail.

    `files` are :func:`quicknat.segmentation.outputs.output_files` by scan. With `keep_others` the
    table keeps its rows of other scans.
    """
    rows = [
        each if each.status == FAILED else replace(each, flags=_flags(files[each.name]["qc"]))
        for each in outcomes
    ]
    found = {}
    if keep_others:
        with suppress(OSError, ValueError):  # none, or of an earlier version
            found = {each.name: each for each in read_records(folder / SCANS, Outcome)}
    write_records(folder / SCANS, Outcome, (found | {row.name: row for row in rows}).values())


def is_bad(outcome: Outcome, orientation: str) -> bool:
    """Return whether a scan failed because its file is bad, as the cohort's check defines it.

    A file that is absent, or that a disk cannot read, may be there the next time.
    """
    if outcome.status != FAILED or not Path(outcome.image).is_file():
        return False
    try:
        read_scan(Path(outcome.image), orientation)
    except InputError:
        return True
    except OSError:
        return False
    return bool(examine_image(Path(outcome.image), orientation).problem)


def _flags(path: Path) -> str:
    return "; ".join(flag["reason"] for flag in json.loads(path.read_text("utf-8"))["flags"])
