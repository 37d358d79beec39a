"""Find the scans to segment, and state how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

from quicknat.cohort.naming import Selection
from quicknat.cohort.paths import find_all
from quicknat.cohort.survey import find_images
from quicknat.errors import InputError

ALL = Selection()


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
    batch_size: int = 4
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

    Args:
        paths: files and folders.
        name: for the results of a single file; else names come from the files'.
        selection: which of them.

    Raises:
        InputError: a folder without scans, two scans with one name, or none is selected.
    """
    tasks: dict[str, Task] = {}
    for own, path in selection.of(find_images(paths), itemgetter(0), paths[0]):
        task = Task(path, name or own)
        if task.name in tasks:
            raise InputError(
                path, f"would get the name of {tasks[task.name].path}, {task.name}",
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
