"""Write a cohort's sheet, and the table of its participants."""

from __future__ import annotations

import csv
import fnmatch
import logging
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from quicknat.cohort.naming import name_parts
from quicknat.cohort.sheet import LOCAL, Scan, current_names, read_cells, read_sheet
from quicknat.errors import InputError, notice
from quicknat.files import written_whole
from quicknat.schema import load_schema

log = logging.getLogger(__name__)

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
    table = _decimal_points(table[table["ID"] != "n/a"])
    table.insert(0, "participant_id", [f"sub-{name_parts(name)[0]}" for name in table.pop("ID")])
    return table.drop_duplicates("participant_id")


def read_participants(path: str | Path, subjects: Sequence[str] = ()) -> pd.DataFrame:
    """Read a BIDS ``participants.tsv`` as text, indexed by ``participant_id``; empty is "n/a".

    Decimal commas become points. Of several rows of a participant, one for each session, the first
    counts. Ids may lack ``sub-``, and be written unlike the subjects that they are joined with:
    ``002_S_0413``, or without leading zeros.

    Args:
        path: the table.
        subjects: of the sheet, whose spelling the ids get.

    Raises:
        InputError: the file is not a table, has no such column, or has an id in two rows.
    """
    try:
        table = pd.read_csv(path, sep="\t", dtype=str)
    except (OSError, ValueError) as error:  # EmptyDataError and ParserError are ValueErrors
        problem = f"cannot be read as a tab-separated table ({error})"
        raise InputError(path, problem, "save it as tab-separated text in UTF-8") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas would use the first cell as an index
        problem = "has rows with more cells than its header"
        raise InputError(path, problem, "remove the extra cells")
    if "participant_id" not in table:
        fix = "give the column of 'sub-…' this name, as in BIDS"
        raise InputError(path, "has no column 'participant_id'", fix)
    table = _decimal_points(table.dropna(how="all").fillna("n/a"))
    names = [name_parts(name.strip())[0] for name in table["participant_id"]]
    ids = zip(table["participant_id"], spelled_as(names, subjects), strict=True)
    table["participant_id"] = ["n/a" if given == "n/a" else f"sub-{name}" for given, name in ids]
    twice = table["participant_id"][table["participant_id"].duplicated()]
    if len(twice) and "session_id" in table:
        notice(f"{path}: has rows for several sessions; the first of each participant is used")
        table = table.drop_duplicates("participant_id")
    elif len(twice):
        problem = f"has participant_id '{twice.iloc[0]}' in two rows"
        raise InputError(path, problem, "keep one row per participant")
    return table.set_index("participant_id")


def spelled_as(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return names as `wanted` has them, where only case and leading zeros differ."""
    spelt, known = _by_spelling(wanted), _by_spelling(names)
    return [
        next(iter(same))
        if len(same := spelt.get(_spelling(name), set())) == len(known[_spelling(name)]) == 1
        else name
        for name in names
    ]


def _spelling(subject: str) -> str:
    """Return a subject's name without case and leading zeros."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", subject.lower())


def _by_spelling(subjects: Sequence[str]) -> dict[str, set[str]]:
    groups: dict[str, set[str]] = defaultdict(set)
    for subject in subjects:
        groups[_spelling(subject)].add(subject)
    return groups


def _decimal_points(table: pd.DataFrame) -> pd.DataFrame:
    """Replace decimal commas in columns of numbers, and log a notice."""
    for name in table:
        cells = table[name][table[name] != "n/a"]
        if cells.str.contains(",").any() and cells.str.fullmatch(r"-?\d+(,\d+)?").all():
            notice(f"column '{name}': decimal commas are read as points")
            table[name] = table[name].str.replace(",", ".")
    return table


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


def _mentioned(text: str, columns: Sequence[str]) -> dict[tuple[str, ...], str]:
    """Return the images of a sheet by scan name, those of commented rows too."""
    indices = [columns.index(name) if name in columns else None for name in (*NAME, "image")]
    found = {}
    for line in text.split("\n"):
        cells = [cell.strip() for cell in line.lstrip("# ").split("\t")]
        cells += [""] * len(columns)  # editors strip trailing tabs
        *name, image = ("" if index is None else cells[index] for index in indices)
        found[tuple(name)] = image
    return found


def add_to_sheet(
    scans: Sequence[Scan],
    sheet: str | Path,
    demographics: pd.DataFrame | None = None,
) -> tuple[list[Scan], int]:
    """Append rows for scans that a sheet lacks; leave everything else in it unchanged.

    A scan is there if its image is, or its subject, session and entities, also in rows that are
    commented out. With `demographics`, missing participants are added to `participants.tsv`.

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
    images = set(there.values())
    everything = _cells(scans, sheet)
    is_new, others = [], []
    for scan, image in zip(scans, everything["image"], strict=True):
        same_name = there.get((scan.subject, scan.session, scan.entities))
        is_new.append(same_name is None and image not in images)
        if same_name is not None and not fnmatch.fnmatchcase(image, same_name):
            others.append(f"{scan.id}, {image}")
    if others:
        what = "scans are not added, since the sheet has their names with other images"
        log.warning("%s: %d %s: %s …", sheet, len(others), what, others[0])
    new, everything = (
        [s for s, wanted in zip(scans, is_new, strict=True) if wanted],
        everything[is_new],
    )
    implied = {"source": LOCAL, "participant": everything["subject"]}  # without such columns
    for name in everything:
        if name not in columns and (everything[name] != implied.get(name, "")).any():
            fix = "add it to the header, and a tab to every other line"
            raise InputError(sheet, f"has no column '{name}', which new scans need", fix)
    people = None
    if demographics is not None:
        people, file = _people_of(new, demographics), sheet.with_name(PARTICIPANTS)
        if file.exists():
            known = read_participants(file, [scan.subject for scan in scans])
            people = pd.concat([known, people.drop(known.index, errors="ignore")])
    text += "" if text.endswith("\n") else line_end
    rows = everything.reindex(columns=columns, fill_value="")  # unknown columns are invalid
    text += _as_tsv(rows, header=False).replace("\n", line_end)
    return _write(sheet, text, people), len(new)
