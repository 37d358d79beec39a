"""Write a cohort's sheet, and who its people are."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from quicknat.cohort.layouts import name_parts
from quicknat.cohort.sheet import Scan, read_sheet
from quicknat.errors import InputError
from quicknat.files import written_whole

PARTICIPANTS = "participants.tsv"
BIDS_COLUMNS = {"M/F": "sex", "Hand": "handedness", "Age": "age"}  # OASIS's name: BIDS's name


def settle(scans: Sequence[Scan], use: str = "", protocol: str = "") -> list[Scan]:
    """Scans with the use and the numbering of labels that the user states.

    Args:
        scans: of :func:`quicknat.cohort.survey.survey`.
        use: for all scans that can have it: those without labels serve to pretrain or segment only.
        protocol: numbering of the label maps whose layout does not tell it.

    Raises:
        InputError: label maps of unknown numbering.
    """
    settled = []
    for scan in scans:
        if use and (scan.labels or use in ("pretrain", "segment")):
            scan = replace(scan, use=use)
        if scan.labels and not scan.protocol:
            if not protocol:
                raise InputError(
                    scan.labels, "is a label map whose numbering nothing tells",
                    "state it with --protocol, such as freesurfer or neuromorphometrics",
                )  # fmt: skip
            scan = replace(scan, protocol=protocol)
        settled.append(scan)
    return settled


def read_demographics(path: str | Path) -> pd.DataFrame:
    """OASIS-1's ``oasis_cross-sectional.csv`` as BIDS participants: one row per person.

    Sex, handedness and age get BIDS's names, the other columns keep theirs. Of a person with two
    sessions it is the first that counts.

    Raises:
        InputError: not such a table.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(
            path, f"cannot be read as a CSV table ({error})", "save it as CSV, UTF-8"
        ) from error
    if "ID" not in table:
        raise InputError(path, "has no column 'ID'", "give OASIS-1's oasis_cross-sectional.csv")
    table = table.sort_values("ID").rename(columns=BIDS_COLUMNS).replace(["", "N/A"], "n/a")
    table.insert(0, "participant_id", [f"sub-{name_parts(name)[0]}" for name in table.pop("ID")])
    return table.drop_duplicates("participant_id")


def read_participants(path: str | Path) -> pd.DataFrame:
    """A BIDS ``participants.tsv``: text by ``participant_id``, "n/a" where nothing is said.

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
        raise InputError(path, problem, "keep one row per person")
    return table.set_index("participant_id")


def write_sheet(
    scans: Sequence[Scan],
    output: str | Path,
    schema: dict,
    demographics: pd.DataFrame | None = None,
    overwrite: bool = False,
) -> list[Scan]:
    """Write a sheet that :func:`quicknat.cohort.sheet.read_sheet` accepts, or none.

    Paths below the sheet's folder become relative to it. With `demographics`, `participants.tsv`
    goes beside the sheet, with those of the scans' people.

    Returns:
        The scans as the sheet's readers will have them, ``auto`` settled.

    Raises:
        InputError: a file is there already, or the sheet would not be valid.
    """
    output = Path(output)
    files = [output] if demographics is None else [output, output.with_name(PARTICIPANTS)]
    for file in files:
        if file.exists() and not overwrite:
            raise InputError(file, "exists", "give another name, or --overwrite")
    folder = output.parent.resolve()
    rows = []
    for scan in scans:
        row = asdict(scan)
        for key in ("image", "labels"):
            if row[key] and Path(row[key]).is_relative_to(folder):
                row[key] = str(Path(row[key]).relative_to(folder))
        rows.append(row)
    with written_whole(*files) as temporaries:
        sheet = pd.DataFrame(rows, columns=list(schema["properties"]))
        sheet.to_csv(temporaries[0], sep="\t", index=False, quoting=csv.QUOTE_NONE)
        if demographics is not None:
            people = dict.fromkeys(f"sub-{scan.subject}" for scan in scans)
            table = demographics.set_index("participant_id").reindex(people).reset_index()
            table.to_csv(temporaries[1], sep="\t", index=False, na_rep="n/a")
        try:
            return read_sheet(temporaries[0], schema)
        except InputError as error:
            where = error.where.replace(str(temporaries[0]), str(output))
            raise InputError(where, error.problem, error.fix) from error
