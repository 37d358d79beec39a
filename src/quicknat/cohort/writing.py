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
NAME = ("subject", "session", "entities")  # what makes a scan's name
BIDS_COLUMNS = {"M/F": "sex", "Hand": "handedness", "Age": "age"}  # OASIS's name: BIDS's name


def resolve(scans: Sequence[Scan], split: str = "", convention: str = "") -> list[Scan]:
    """Return scans with the split and the label convention that the user states.

    Args:
        scans: of :func:`quicknat.cohort.survey.survey`.
        split: for all scans that can have it: those without labels only pretrain or segment.
        convention: of the label maps whose layout does not state it.

    Raises:
        InputError: label maps of unknown convention.
    """
    resolved = []
    for scan in scans:
        if split and (scan.labels or split in ("pretrain", "segment")):
            scan = replace(scan, split=split)
        if scan.labels and not scan.label_convention:
            if not convention:
                raise InputError(
                    scan.labels, "is a label map of unknown label convention",
                    "state it with --label-convention, such as freesurfer or neuromorphometrics",
                )  # fmt: skip
            scan = replace(scan, label_convention=convention)
        resolved.append(scan)
    return resolved


def read_demographics(path: str | Path) -> pd.DataFrame:
    """Read OASIS-1's ``oasis_cross-sectional.csv`` as BIDS participants, one row each.

    Sex, handedness and age get BIDS's names, the other columns keep theirs. Of a participant with
    two sessions the first counts.

    Raises:
        InputError: not such a table.
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
    """Read a BIDS ``participants.tsv``: text by ``participant_id``, "n/a" where it is empty.

    Raises:
        InputError: cannot be read as a table, has no such column, or has one id in two rows.
    """
    try:
        table = pd.read_csv(path, sep="\t", dtype=str).fillna("n/a")
    except (OSError, ValueError) as error:  # EmptyDataError and ParserError are ValueErrors
        problem = f"cannot be read as a tab-separated table ({error})"
        raise InputError(path, problem, "save it as tab-separated text in UTF-8") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas would take the first cell for a name
        problem = "has rows with more cells than its header"
        raise InputError(path, problem, "remove what is too much")
    if "participant_id" not in table:
        fix = "name the column of 'sub-…' so, as BIDS does"
        raise InputError(path, "has no column 'participant_id'", fix)
    twice = table["participant_id"][table["participant_id"].duplicated()]
    if len(twice):
        problem = f"has participant_id '{twice.iloc[0]}' in two rows"
        raise InputError(path, problem, "keep one row per participant")
    return table.set_index("participant_id")


def _cells(scans: Sequence[Scan], sheet: Path) -> pd.DataFrame:
    """Return rows of a sheet as text; paths below its folder are relative to it."""
    columns = list(load_schema("sheet")["properties"])
    if not any(scan.entities for scan in scans):  # few data sets have them
        columns.remove("entities")
    table = pd.DataFrame(map(asdict, scans), columns=columns)
    start = f"{sheet.parent.resolve()}{os.sep}"
    for key in ("image", "labels"):
        table[key] = table[key].str.removeprefix(start)
    return table


def _as_tsv(table: pd.DataFrame, header: bool = True) -> str:
    return table.to_csv(sep="\t", index=False, header=header, quoting=csv.QUOTE_NONE)


def _write(sheet: Path, text: str, people: pd.DataFrame | None) -> list[Scan]:
    """Write a sheet and the table of its participants, if the sheet's reader accepts it."""
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
    """Write a sheet that :func:`quicknat.cohort.sheet.read_sheet` accepts, or none.

    Paths below the sheet's folder become relative to it. With `demographics`, `participants.tsv`
    goes beside the sheet, with those of the scans' participants.

    Returns:
        The scans as the sheet's readers will have them, ``auto`` replaced.

    Raises:
        InputError: a file is there already, or the sheet would not be valid.
    """
    output = Path(output)
    files = [output] if demographics is None else [output, output.with_name(PARTICIPANTS)]
    for file in files:
        if file.exists() and not overwrite:
            fix = "give another name, --add what is new to it, or --overwrite it"
            raise InputError(file, "exists", fix)
    people = None if demographics is None else _people_of(scans, demographics)
    return _write(output, _as_tsv(_cells(scans, output)), people)


def _mentioned(text: str, columns: Sequence[str]) -> set[tuple[str, ...]]:
    """Return the names in every row of a sheet, also of rows that are commented out."""
    places = [columns.index(name) if name in columns else None for name in NAME]
    found = set()
    for line in text.split("\n"):
        cells = [cell.strip() for cell in line.lstrip("# ").split("\t")]
        cells += [""] * len(columns)  # editors drop tabs at the end of a line
        found.add(tuple("" if place is None else cells[place] for place in places))
    return found


def add_to_sheet(
    scans: Sequence[Scan],
    sheet: str | Path,
    demographics: pd.DataFrame | None = None,
) -> tuple[list[Scan], int]:
    """Add rows for those of the scans that a sheet lacks; leave everything else in it unchanged.

    A scan is the same if subject, session and entities are. One whose row is commented out is not
    added again. With `demographics`, `participants.tsv` gets the participants that it lacks.

    Returns:
        All scans as the sheet's readers will have them, and the number of new ones.

    Raises:
        InputError: there is no such sheet, it lacks a column that a new scan needs, or it would not
            be valid.
    """
    sheet = Path(sheet)
    columns = current_names(list(read_cells(sheet).columns), sheet)
    text = sheet.read_bytes().decode()  # line ends and byte order mark stay as they are
    line_end = "\r\n" if "\r\n" in text else "\n"
    there = _mentioned(text, columns)
    new = [scan for scan in scans if (scan.subject, scan.session, scan.entities) not in there]
    everything = _cells(new, sheet)
    implied = {"source": LOCAL, "participant": everything["subject"]}  # where a sheet has no column
    for name in everything:
        if name not in columns and (everything[name] != implied.get(name, "")).any():
            fix = "add it to the first line, and a tab to each other line"
            raise InputError(sheet, f"has no column '{name}', which new scans need", fix)
    people = None
    if demographics is not None:
        people, file = _people_of(new, demographics), sheet.with_name(PARTICIPANTS)
        if file.exists():
            known = read_participants(file)
            people = pd.concat([known, people.drop(known.index, errors="ignore")])
    text += "" if text.endswith("\n") else line_end
    rows = everything.reindex(columns=columns, fill_value="")  # its reader refuses other columns
    text += _as_tsv(rows, header=False).replace("\n", line_end)
    return _write(sheet, text, people), len(new)
