"""Read the sheet: one row per scan, each participant in one split."""

from __future__ import annotations

import csv
import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from quicknat.errors import InputError, notice
from quicknat.schema import all_problems, fits, load_schema, unknown_key

LOCAL = "local"  # the source of files that are named by their paths
AUTO_SPLIT = ("train",) * 8 + ("val", "test")
# column names of earlier versions, and their current names
RENAMED = {"use": "split", "person": "participant", "protocol": "label_convention"}


@dataclass(frozen=True)
class Scan:
    """One row of the sheet; the schema describes the columns."""

    subject: str
    image: str = ""
    split: str = ""
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

    @classmethod
    def of_row(cls, row: Mapping[str, str]) -> Scan:
        """Return the scan of a row of the sheet's columns; empty cells are defaults."""
        return cls(**{"subject": ""} | {key: value for key, value in row.items() if value})


@dataclass(frozen=True)
class Fault:
    """An error in a sheet: in the row of one scan, or (None) in its header or as a whole."""

    error: InputError
    scan: Scan | None = None


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


def read_table(path: str | Path, comments: bool = False, **options: Any) -> pd.DataFrame:
    """Read a TSV as text; `options` are those of pandas.

    With `comments`, lines that begin with ``#`` are skipped.

    Raises:
        InputError: the file cannot be read as a table.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
        text = re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE) if comments else text
        table = pd.read_csv(StringIO(text), sep="\t", dtype=str, **options)
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "check the path") from error
    except (OSError, ValueError) as error:  # EmptyDataError and ParserError are ValueErrors
        problem = f"cannot be read as a tab-separated table ({error})"
        raise InputError(path, problem, "save it as tab-separated text in UTF-8") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas would use the first cell as an index
        raise InputError(path, "has rows with more cells than its header", "remove the extra cells")
    table.columns = [str(column).strip() for column in table.columns]
    return table


def read_cells(path: str | Path) -> pd.DataFrame:
    """Read a TSV with comments, see :func:`read_table`; no empty rows; empty cells are "".

    Cells lose outer spaces. Raises :class:`InputError`, also where the locale would look for other
    files than those that are named.
    """
    table = read_table(path, comments=True, keep_default_na=False, quoting=csv.QUOTE_NONE).map(
        str.strip
    )
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8" and not table.map(str.isascii).all(axis=None):
        problem = f"has names that the locale would look for in {encoding}"
        raise InputError(path, problem, "export PYTHONUTF8=1")
    return table[table.ne("").any(axis=1)]  # spreadsheets save empty rows


def current_names(columns: Sequence[str], path: str | Path) -> list[str]:
    """Replace old names of a sheet's columns, with a notice; refuse a column under both names."""
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
    """Read a TSV and check every row by its schema: `kind` is ``sheet`` or ``sources``.

    Returns:
        The rows that match the schema (without unknown columns), and all errors, each with its row
        (empty for errors in the header).

    Raises:
        InputError: the file is not a table, or has a column under its old and new names.
    """
    table, schema = read_cells(path), load_schema(kind)
    if kind == "sheet":
        table.columns = current_names(list(table.columns), path)
    known = list(schema["properties"])
    unknown = [column for column in table.columns if column not in known]
    absent = [key for key in schema["required"] if key not in table.columns]
    header = [InputError(path, *unknown_key([column], known)) for column in unknown]
    header += [InputError(path, f"'{key}' is missing", "add it") for key in absent]
    rows: list[dict[str, str]] = []
    faults: list[tuple[InputError, dict[str, str]]] = [(error, {}) for error in header]
    for index, row in table.drop(columns=unknown).to_dict("index").items() if not absent else ():
        name = row.get("subject") or row.get("source") or str(index + 1)
        where = f"{path} row {index + 1} ({name})"
        wrong = [] if fits(row, schema) else all_problems(row, schema, where)
        faults += [(error, row) for error in wrong]
        rows += [] if wrong else [row]
    return rows, faults


def read_sources(path: str | Path) -> dict[str, dict[str, str]]:
    """Return the rows of a table of sources by their names.

    Raises:
        InputError: the table does not match its schema, or two rows have one name.
    """
    rows, faults = examine_table(path, "sources")
    if faults:
        raise faults[0][0]
    return by_source(rows, path)


def by_source(rows: Sequence[dict[str, str]], path: str | Path) -> dict[str, dict[str, str]]:
    """Return the rows of a table of sources by their names, which must differ."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        if found.setdefault(row["source"], row) is not row:
            raise InputError(path, f"has two rows for '{row['source']}'", "rename or remove one")
    return found


def examine_sheet(path: str | Path, auto: str = "") -> tuple[list[Scan], list[Fault]]:
    """Read a sheet, replace ``split: auto``, and collect all its faults.

    `auto` is what ``auto`` stands for; "" for a split by :func:`auto_split`. Raises
    :class:`InputError` as :func:`examine_table` does.

    Returns:
        The scans of all valid rows, sorted by name, without ``split: exclude``; and the errors in
        the order in which they were found.
    """
    rows, wrong = examine_table(path, "sheet")
    faults = [Fault(error, Scan.of_row(row) if row else None) for error, row in wrong]
    scans: list[Scan] = []
    names: set[str] = set()
    first_of: dict[str, Scan] = {}  # by participant, of those on a side
    for scan in map(Scan.of_row, rows):
        who = scan.participant or scan.subject
        split = scan.split if scan.split != "auto" else auto or auto_split(who)
        source = scan.labels_source or scan.source
        scan = replace(scan, split=split, participant=who, labels_source=source)
        if split == "exclude":
            continue
        first = first_of.setdefault(who, scan) if side(split) else scan
        for is_wrong, problem, fix in (
            (scan.id in names, "is in two rows", "remove one, or give each a session or entities"),
            (split in ("train", "val", "test") and not scan.labels,
             f"has split={split} but no labels", "name them, or use pretrain/segment"),
            (not scan.image and not (split == "pretrain" and scan.labels),
             "has no image", "name it; only label maps with split=pretrain need no image"),
            (scan.labels and not scan.label_convention,
             "has labels but no label_convention", "state it, e.g. freesurfer"),
            (set(scan.image + scan.labels) & set("{}"),
             "has a path with a brace, which Snakemake would treat as a wildcard",
             "rename the file or folder, or link to it"),
        ):  # fmt: skip
            if is_wrong:
                faults.append(Fault(InputError(path, f"{scan.id} {problem}", fix), scan))
        if side(split) != side(first.split):
            what = f"participant '{who}' is in {first.split} ({first.id}) and in {split}"
            fix = "keep all scans of a participant in one split"
            faults.append(Fault(InputError(path, f"{what} ({scan.id})", fix), scan))
        names.add(scan.id)
        scans.append(scan)
    if not scans and not faults:
        faults.append(Fault(InputError(path, "lists no scan", "add rows, or remove split=exclude")))
    return sorted(scans, key=lambda scan: scan.id), faults


def read_sheet(path: str | Path, auto: str = "") -> list[Scan]:
    """Return the scans of a sheet as :func:`examine_sheet` does; refuse any fault.

    Row order and commented rows change nothing downstream.

    Raises:
        InputError: a row is invalid, a scan is listed twice, or a participant is in two splits.
    """
    scans, faults = examine_sheet(path, auto)
    if faults:
        raise faults[0].error
    return scans
