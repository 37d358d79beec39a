"""Read the sheet: one row per scan, each participant in one split."""

from __future__ import annotations

import csv
import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from io import StringIO
from pathlib import Path

import pandas as pd

from quicknat.errors import InputError, notice
from quicknat.schema import all_problems, fits, load_schema

LOCAL = "local"  # the source of files that are named by their paths
AUTO_SPLIT = ("train",) * 8 + ("val", "test")
# column names of earlier versions, and their current names
RENAMED = {"use": "split", "person": "participant", "protocol": "label_convention"}


@dataclass(frozen=True)
class Scan:
    """One row of the sheet; the schema describes the columns."""

    subject: str
    image: str
    split: str
    session: str = ""
    entities: str = ""
    source: str = LOCAL
    labels: str = ""
    labels_source: str = ""
    label_convention: str = ""
    participant: str = ""
    orientation: str = ""

    @property
    def id(self) -> str:
        """BIDS name: ``sub-X[_ses-Y][_acq-…][_run-…]``."""
        session = f"_ses-{self.session}" if self.session else ""
        return f"sub-{self.subject}{session}" + (f"_{self.entities}" if self.entities else "")


def side(split: str) -> str:
    """Return ``train``, ``val`` or ``test``, which must not share participants; else "".

    Pre-training counts as training: its participants must not be tested on.
    """
    return {"pretrain": "train", "train": "train", "val": "val", "test": "test"}.get(split, "")


def auto_split(participant: str) -> str:
    """Return ``train``, ``val`` or ``test`` (80/10/10) by a hash of the participant's name.

    The split depends on the name alone, so adding participants never moves others.
    """
    digest = hashlib.sha256(participant.encode()).digest()
    return AUTO_SPLIT[int.from_bytes(digest[:8], "big") % len(AUTO_SPLIT)]


@dataclass(frozen=True)
class Fault:
    """An error in a table: in the row of one scan, or (None) in the table as a whole."""

    error: InputError
    scan: Scan | None = None


def _as_scan(row: Mapping[str, str]) -> Scan:
    """Return a row as a scan; missing cells stay empty."""
    known = {field.name for field in fields(Scan)}
    given = {key: value for key, value in row.items() if key in known and value}
    return Scan(**{"subject": "", "image": "", "split": ""} | given)


def read_cells(path: Path) -> pd.DataFrame:
    """Read the cells of a TSV as text, skipping lines that begin with ``#``.

    Raises:
        InputError: the file cannot be read as a table.
    """
    try:
        text = re.sub(r"^#.*\n?", "", path.read_text("utf-8-sig"), flags=re.MULTILINE)
        if not text.isascii() and (encoding := sys.getfilesystemencoding()) != "utf-8":
            problem = f"has names that the locale would look for in {encoding}"
            raise InputError(path, problem, "export PYTHONUTF8=1")
        table = pd.read_csv(
            StringIO(text), sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE
        )
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "check the path") from error
    except (OSError, ValueError) as error:  # EmptyDataError and ParserError are ValueErrors
        problem = f"cannot be read as a tab-separated table ({error})"
        raise InputError(path, problem, "save it as tab-separated text in UTF-8") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas would use the first cell as an index
        raise InputError(path, "has rows with more cells than its header", "remove the extra cells")
    table.columns = [str(column).strip() for column in table.columns]
    return table[table.map(str.strip).ne("").any(axis=1)]  # spreadsheets save empty rows


def current_names(columns: Sequence[str], path: str | Path) -> list[str]:
    """Return a sheet's columns with old names replaced, and log a notice.

    Raises:
        InputError: a column is present under both names.
    """
    old = [name for name in columns if name in RENAMED]
    for name in old:
        if RENAMED[name] in columns:
            problem = f"has the column '{RENAMED[name]}' and also '{name}', its old name"
            raise InputError(path, problem, f"remove '{name}'")
    if old:
        now = ", ".join(f"'{name}' is now '{RENAMED[name]}'" for name in old)
        notice(f"{path}: columns were renamed: {now}; the old names are still read")
    return [RENAMED.get(name, name) for name in columns]


def examine_table(
    path: str | Path, kind: str
) -> tuple[list[dict[str, str]], list[tuple[InputError, dict[str, str]]]]:
    """Read a TSV as text, skipping lines that begin with ``#``, and check every row.

    Args:
        path: the table.
        kind: its schema, ``sheet`` or ``sources``.

    Returns:
        The rows that match the schema (without unknown columns), and all errors, each with its row
        (empty for errors in the header).

    Raises:
        InputError: the file is not a table, or has a column under its old and new names.
    """
    path, schema = Path(path), load_schema(kind)
    table = read_cells(path)
    if kind == "sheet":
        table.columns = current_names(list(table.columns), path)
    names = {"properties": {key: {} for key in schema["properties"]}, "additionalProperties": False}
    header = [e for column in table.columns for e in all_problems({column: ""}, names, path)]
    absent = [key for key in schema["required"] if key not in table.columns]
    header += [e for key in absent for e in all_problems({}, {"required": [key]}, path)]
    rows: list[dict[str, str]] = []
    faults: list[tuple[InputError, dict[str, str]]] = [(error, {}) for error in header]
    table = table[[column for column in table.columns if column in schema["properties"]]]
    for index, cells in table.to_dict("index").items() if not absent else ():
        number = index + 1
        row = {key: str(value).strip() for key, value in cells.items()}
        name = row.get("subject") or row.get("source") or str(number)
        wrong = (
            [] if fits(row, schema) else all_problems(row, schema, f"{path} row {number} ({name})")
        )
        faults += [(error, row) for error in wrong]
        rows += [] if wrong else [row]
    return rows, faults


def read_sources(path: str | Path) -> dict[str, dict[str, str]]:
    """Return the rows of a table of sources by their names.

    Raises:
        InputError: the file is unreadable, a column is unknown or missing, a cell does not match
            the schema, or two rows have one name.
    """
    rows, faults = examine_table(path, "sources")
    if faults:
        raise faults[0][0]
    return by_source(rows, path)


def by_source(rows: Sequence[dict[str, str]], path: str | Path) -> dict[str, dict[str, str]]:
    """Return the rows of a table of sources by their names.

    Raises:
        InputError: two rows have one name.
    """
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        if found.setdefault(row["source"], row) is not row:
            raise InputError(path, f"has two rows for '{row['source']}'", "rename or remove one")
    return found


def examine_sheet(path: str | Path, auto: str = "") -> tuple[list[Scan], list[Fault]]:
    """Read a sheet, replace ``split: auto``, and collect all its faults.

    Args:
        path: the sheet.
        auto: what ``auto`` stands for; "" for a split by :func:`auto_split`.

    Returns:
        The scans of all valid rows, sorted by name, without ``split: exclude``; and the errors in
        the order in which they were found.

    Raises:
        InputError: as :func:`examine_table` raises it.
    """
    rows, wrong = examine_table(path, "sheet")
    faults = [Fault(error, _as_scan(row) if row else None) for error, row in wrong]
    scans: list[Scan] = []
    names: set[str] = set()
    split_of: dict[str, Scan] = {}
    for scan in map(_as_scan, rows):
        who = scan.participant or scan.subject
        split = scan.split if scan.split != "auto" else auto or auto_split(who)
        source = scan.labels_source or scan.source
        scan = replace(scan, split=split, participant=who, labels_source=source)
        if split == "exclude":
            continue
        problems = []
        if scan.id in names:
            problems.append(
                (f"{scan.id} is in two rows", "remove one, or give each a session or entities")
            )
        if split in ("train", "val", "test") and not scan.labels:
            fix = "name them, or use pretrain/segment"
            problems.append((f"{scan.id} has split={split} but no labels", fix))
        if not scan.image and not (split == "pretrain" and scan.labels):
            fix = "name it; only label maps with split=pretrain need no image"
            problems.append((f"{scan.id} has no image", fix))
        if scan.labels and not scan.label_convention:
            fix = "state it, e.g. freesurfer"
            problems.append((f"{scan.id} has labels but no label_convention", fix))
        if set(scan.image + scan.labels) & set("{}"):
            what = f"{scan.id} has a path with a brace, which Snakemake would treat as a wildcard"
            problems.append((what, "rename the file or folder, or link to it"))
        if side(split):
            other = split_of.setdefault(who, scan)
            if side(split) != side(other.split):
                what = f"participant '{who}' is in {other.split} ({other.id}) and in {split}"
                fix = "keep all scans of a participant in one split"
                problems.append((f"{what} ({scan.id})", fix))
        faults += [Fault(InputError(path, *problem), scan) for problem in problems]
        names.add(scan.id)
        scans.append(scan)
    if not scans and not faults:
        faults.append(Fault(InputError(path, "lists no scan", "add rows, or remove split=exclude")))
    return sorted(scans, key=lambda scan: scan.id), faults


def read_sheet(path: str | Path, auto: str = "") -> list[Scan]:
    """Read a sheet, replace ``split: auto``, and guard against leakage.

    Args:
        path, auto: as :func:`examine_sheet` takes them.

    Returns:
        Scans sorted by name, without ``split: exclude``. Row order and commented rows therefore
        change nothing downstream.

    Raises:
        InputError: a row is invalid, a scan is listed twice, or a participant is in two splits.
    """
    scans, faults = examine_sheet(path, auto)
    if faults:
        raise faults[0].error
    return scans
