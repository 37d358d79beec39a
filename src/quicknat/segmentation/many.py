"""Write the tables of many scans: what became of each, and their volumes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quicknat.cohort.examine import examine_image
from quicknat.errors import InputError
from quicknat.files import written_whole
from quicknat.images.volumes import read_scan
from quicknat.records import write_records

SCANS, VOLUMES = "scans.tsv", "volumes.tsv"
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


def write_tables(
    outcomes: Sequence[Outcome], files: Mapping[str, Mapping[str, Path]], folder: Path
) -> None:
    """Write ``scans.tsv`` and ``volumes.tsv`` of segmented scans to a folder.

    Args:
        outcomes: of all scans; the volumes are of those that did not fail.
        files: of :func:`quicknat.segmentation.outputs.output_files`, by scan.
        folder: where the tables go.
    """
    finished = [outcome for outcome in outcomes if outcome.status != FAILED]
    flags = {outcome.name: _flags(files[outcome.name]["qc"]) for outcome in finished}
    rows = [replace(outcome, flags=flags.get(outcome.name, "")) for outcome in outcomes]
    write_records(folder / SCANS, Outcome, rows)
    header = "subject\n"
    with (
        written_whole(folder / VOLUMES) as (temporary,),
        temporary.open("w", encoding="utf-8") as stream,
    ):
        for outcome in finished:  # one after the other, since there may be thousands
            columns, *lines = files[outcome.name]["volumes"].read_text("utf-8").splitlines()
            stream.writelines([f"subject\t{columns}\n"] if header else [])
            stream.writelines(f"{outcome.name}\t{line}\n" for line in lines)
            header = ""
        stream.write(header)  # of no scan


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
