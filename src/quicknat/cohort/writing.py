"""Write a cohort's sheet, and the table of its participants."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from quicknat.cohort.layouts import name_parts
from quicknat.cohort.sheet import LOCAL, Scan, current_names, read_cells, read_sheet
from quicknat.errors import InputError
from quicknat.files import written_whole
from quicknat.schema import load_schema

PARTICIPANTS = "participants.tsv"
NAME = ("subject", "session", "entities")  # the columns that form a scan's name
BIDS_COLUMNS = {"M/F": "sex", "Hand": "handedness", "Age": "age"}  # OASIS name: BIDS name


def resolve(scans: Sequence[Scan], split: str = "", convention: str = "") -> list[Scan]:
    """Return scans with the split and the label convention that the user chose.

    Args:
        scans: of :func:`quicknat.cohort.survey.survey`.
        split: for all scans that can have it; without labels only pretrain or segment.
        convention: of label maps whose layout does not imply it.

    Raises:
        InputError: the label convention of a label map is unknown.
    """
    resolved = []
    for scan in scans:
        if split and (scan.labels or split in ("pretrain", "segment")):
            scan = replace(scan, split=split)
        if scan.labels and not scan.label_convention:
            if not convention:
                raise InputError(
                    scan.labels, "is a label map of unknown label convention",
                    "state it with --label-convention, e.g. freesurfer or neuromorphometrics",
                )  # fmt: skip
            scan = replace(scan, label_convention=convention)
        resolved.append(scan)
    return resolved


def read_demographics(path: str | Path) -> pd.DataFrame:
    """Read OASIS-1's ``oasis_cross-sectional.csv`` as BIDS participants, one row each.

    Sex, handedness and age get BIDS names; other columns keep theirs. The first session of a
    participant counts.

    Raises:
        InputError: the file is not such a table.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        problem = f"cannot be read as a CSV table ({error})"
        raise InputError(path, problem, "save it as CSV, UTF-8") from error
    if "ID" not in table:
        raise InputError(path, "has no column 'ID'", "give OASIS-1's oasis_cross-sectional.csv")
    table = table.sort_values("ID").rename(columns=BIDS_COLUMNS).replace(["", "N/A"], "n/a")
    table.insert(0, "participant_id", [f"sub-{name_parts(name)[0]}" for name in table.pop("ID")])
    return table.drop_duplicates("participant_id")


def read_participants(path: str | Path) -> pd.DataFrame:
    """Read a BIDS ``participants.tsv`` as text, indexed by ``participant_id``; empty is "n/a".

    Raises:
        InputError: the file is not a table, has no such column, or has an id in two rows.
    """
    try:
        table = pd.read_csv(path, sep="\t", dtype=str).fillna("n/a")
    except (OSError, ValueError) as error:  # EmptyDataError and ParserError are ValueErrors
        problem = f"cannot be read as a tab-separated table ({error})"
        raise InputError(path, problem, "save it as tab-separated text in UTF-8") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas would use the first cell as an index
        problem = "has rows with more cells than its header"
        raise InputError(path, problem, "remove the extra cells")
    if "participant_id" not in table:
        fix = "give the column of 'sub-…' this name, as in BIDS"
        raise InputError(path, "has no column 'participant_id'", fix)
    twice = table["participant_id"][table["participant_id"].duplicated()]
    if len(twice):
        problem = f"has participant_id '{twice.iloc[0]}' in two rows"
        raise InputError(path, problem, "keep one row per participant")
    return table.set_index("participant_id")


def _cells(scans: Sequence[Scan], sheet: Path) -> pd.DataFrame:
    """Return rows of a sheet as text; paths below its folder become relative."""
    columns = list(load_schema("sheet")["properties"])
    if not any(scan.entities for scan in scans):  # most data sets have none
        columns.remove("entities")
    table = pd.DataFrame(map(asdict, scans), columns=columns)
    start = f"{sheet.parent.resolve()}{os.sep}"
    for key in ("image", "labels"):
        table[key] = table[key].str.removeprefix(start)
    return table


def _as_tsv(table: pd.DataFrame, header: bool = True) -> str:
    return table.to_csv(sep="\t", index=False, header=header, quoting=csv.QUOTE_NONE)


def _write(sheet: Path, text: str, people: pd.DataFrame | None) -> list[Scan]:
    """Write a sheet and its participants.tsv, if the sheet is valid."""
    files = [sheet] if people is None else [sheet, sheet.with_name(PARTICIPANTS)]
    with written_whole(*files) as temporaries:
        temporaries[0].write_bytes(text.encode())
        if people is not None:
            people.reset_index().to_csv(temporaries[1], sep="\t", index=False, na_rep="n/a")
        try:
            return read_sheet(temporaries[0])
        except InputError as error:
            where = error.where.replace(str(temporaries[0]), str(sheet))
            raise InputError(where, error.problem, error.fix) from error


def _people_of(scans: Sequence[Scan], demographics: pd.DataFrame) -> pd.DataFrame:
    people = dict.fromkeys(f"sub-{scan.subject}" for scan in scans)
    return demographics.set_index("participant_id").reindex(people)


def write_sheet(
    scans: Sequence[Scan],
    output: str | Path,
    demographics: pd.DataFrame | None = None,
    overwrite: bool = False,
) -> list[Scan]:
    """Write a sheet, but only if :func:`quicknat.cohort.sheet.read_sheet` accepts it.

    Paths below the sheet's folder become relative. With `demographics`, `participants.tsv` is
    written beside the sheet, for the participants of these scans.

    Returns:
        The scans as they will be read, with ``auto`` replaced.

    Raises:
        InputError: a file already exists, or the sheet would be invalid.
    """
    output = Path(output)
    files = [output] if demographics is None else [output, output.with_name(PARTICIPANTS)]
    for file in files:
        if file.exists() and not overwrite:
            fix = "choose another name, --add new scans to it, or --overwrite it"
            raise InputError(file, "already exists", fix)
    people = None if demographics is None else _people_of(scans, demographics)
    return _write(output, _as_tsv(_cells(scans, output)), people)


def _mentioned(text: str, columns: Sequence[str]) -> set[tuple[str, ...]]:
    """Return the scan names in all rows of a sheet, including commented ones."""
    indices = [columns.index(name) if name in columns else None for name in NAME]
    found = set()
    for line in text.split("\n"):
        cells = [cell.strip() for cell in line.lstrip("# ").split("\t")]
        cells += [""] * len(columns)  # editors strip trailing tabs
        found.add(tuple("" if index is None else cells[index] for index in indices))
    return found


def add_to_sheet(
    scans: Sequence[Scan],
    sheet: str | Path,
    demographics: pd.DataFrame | None = None,
) -> tuple[list[Scan], int]:
    """Append rows for scans that a sheet lacks; leave everything else in it unchanged.

    Scans are compared by subject, session and entities; one whose row is commented out is not added
    again. With `demographics`, missing participants are added to `participants.tsv`.

    Returns:
        All scans as they will be read, and the number of new ones.

    Raises:
        InputError: the sheet does not exist, lacks a column that a new scan needs, or would become
            invalid.
    """
    sheet = Path(sheet)
    columns = current_names(list(read_cells(sheet).columns), sheet)
    text = sheet.read_bytes().decode()  # keep line ends and byte order mark
    line_end = "\r\n" if "\r\n" in text else "\n"
    there = _mentioned(text, columns)
    new = [scan for scan in scans if (scan.subject, scan.session, scan.entities) not in there]
    everything = _cells(new, sheet)
    implied = {"source": LOCAL, "participant": everything["subject"]}  # without such columns
    for name in everything:
        if name not in columns and (everything[name] != implied.get(name, "")).any():
            fix = "add it to the header, and a tab to every other line"
            raise InputError(sheet, f"has no column '{name}', which new scans need", fix)
    people = None
    if demographics is not None:
        people, file = _people_of(new, demographics), sheet.with_name(PARTICIPANTS)
        if file.exists():
            known = read_participants(file)
            people = pd.concat([known, people.drop(known.index, errors="ignore")])
    text += "" if text.endswith("\n") else line_end
    rows = everything.reindex(columns=columns, fill_value="")  # unknown columns are invalid
    text += _as_tsv(rows, header=False).replace("\n", line_end)
    return _write(sheet, text, people), len(new)
