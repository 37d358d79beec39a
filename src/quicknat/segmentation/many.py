"""List what became of many scans, and tell bad files from other failures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from quicknat.cohort.examine import examine_image
from quicknat.errors import InputError
from quicknat.files import read_records, write_records
from quicknat.images.volumes import read_scan

SCANS = "scans.tsv"
FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """What became of a scan: ``done``, ``skipped`` or ``failed``, why, and its quality flags."""

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

    Args:
        outcomes: of all scans.
        files: of :func:`quicknat.segmentation.outputs.output_files`, by scan.
        folder: where the table goes.
        keep_others: keep the rows of other scans that the table has already.
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
