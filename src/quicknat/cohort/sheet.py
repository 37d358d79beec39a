"""The sheet: one row per scan, and who may be in which split."""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from io import StringIO
from pathlib import Path

import pandas as pd

from quicknat.errors import InputError
from quicknat.schema import all_problems, load_schema

LOCAL = "local"  # the source of files that lie where the sheet says
AUTO_SPLIT = ("train",) * 8 + ("val", "test")


@dataclass(frozen=True)
class Scan:
    """One row of the sheet; the schema describes the columns."""

    subject: str
    image: str
    use: str
    session: str = ""
    source: str = LOCAL
    labels: str = ""
    labels_source: str = ""
    protocol: str = ""
    person: str = ""
    orientation: str = ""

    @property
    def id(self) -> str:
        """BIDS-style name, ``sub-X`` or ``sub-X_ses-Y``."""
        return f"sub-{self.subject}" + (f"_ses-{self.session}" if self.session else "")


def side(use: str) -> str:
    """The split that a use belongs to, among which nobody may be shared; "" for ``segment``.

    A person learnt from must not be judged on, and pre-training is learning too.
    """
    return {"pretrain": "train", "train": "train", "val": "val", "test": "test"}.get(use, "")


def auto_use(person: str) -> str:
    """``train``, ``val`` or ``test`` (80/10/10) by a hash of the person.

    The answer depends on nothing but the name, so adding people never moves the others.
    """
    digest = hashlib.sha256(person.encode()).digest()
    return AUTO_SPLIT[int.from_bytes(digest[:8], "big") % len(AUTO_SPLIT)]


@dataclass(frozen=True)
class Fault:
    """Something wrong with a table: with one scan of a sheet, or else (None) with the table."""

    error: InputError
    scan: Scan | None = None


def _as_scan(row: Mapping[str, str]) -> Scan:
    """A row as it stands, with whatever it lacks left empty."""
    known = {field.name for field in fields(Scan)}
    given = {key: value for key, value in row.items() if key in known and value}
    return Scan(**{"subject": "", "image": "", "use": ""} | given)


def read_cells(path: Path) -> pd.DataFrame:
    """The cells of a TSV as text, without lines that begin with ``#``.

    Raises:
        InputError: cannot be read as a table.
    """
    try:
        text = re.sub(r"^#.*\n?", "", path.read_text("utf-8-sig"), flags=re.MULTILINE)
        table = pd.read_csv(
            StringIO(text), sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE
        )
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "check the path") from error
    except (OSError, ValueError) as error:  # EmptyDataError and ParserError are ValueErrors
        problem = f"cannot be read as a tab-separated table ({error})"
        raise InputError(path, problem, "save it as tab-separated text in UTF-8") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas would take the first cell for a name
        raise InputError(
            path, "has rows with more cells than its header", "remove what is too much"
        )
    table.columns = [str(column).strip() for column in table.columns]
    return table


def examine_table(
    path: str | Path, kind: str
) -> tuple[list[dict[str, str]], list[tuple[InputError, dict[str, str]]]]:
    """Read a TSV of text cells, lines that begin with ``#`` left out, and check every row.

    Args:
        path: the table.
        kind: its schema, ``sheet`` or ``sources``.

    Returns:
        The rows that the schema accepts (without columns that it does not know), and all that is
        wrong: each error with its row, an empty one where the header is at fault.

    Raises:
        InputError: cannot be read as a table.
    """
    path, schema = Path(path), load_schema(kind)
    table = read_cells(path)
    names = {"properties": {key: {} for key in schema["properties"]}, "additionalProperties": False}
    header = [e for column in table.columns for e in all_problems({column: ""}, names, path)]
    absent = [key for key in schema["required"] if key not in table.columns]
    header += [e for key in absent for e in all_problems({}, {"required": [key]}, path)]
    rows: list[dict[str, str]] = []
    faults: list[tuple[InputError, dict[str, str]]] = [(error, {}) for error in header]
    table = table[[column for column in table.columns if column in schema["properties"]]]
    for number, cells in enumerate(table.to_dict("records") if not absent else [], start=1):
        row = {key: str(value).strip() for key, value in cells.items()}
        name = row.get("subject") or row.get("source") or str(number)
        wrong = all_problems(row, schema, f"{path} row {number} ({name})")
        faults += [(error, row) for error in wrong]
        rows += [] if wrong else [row]
    return rows, faults


def read_sources(path: str | Path) -> dict[str, dict[str, str]]:
    """Return the rows of a table of sources by their names.

    Raises:
        InputError: unreadable, an unknown or missing column, a cell that the schema refuses, or one
            name in two rows.
    """
    rows, faults = examine_table(path, "sources")
    if faults:
        raise faults[0][0]
    return by_source(rows, path)


def by_source(rows: Sequence[dict[str, str]], path: str | Path) -> dict[str, dict[str, str]]:
    """The rows of a table of sources by their names.

    Raises:
        InputError: one name stands in two rows.
    """
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        if found.setdefault(row["source"], row) is not row:
            raise InputError(path, f"has two rows for '{row['source']}'", "rename or remove one")
    return found


def examine_sheet(path: str | Path) -> tuple[list[Scan], list[Fault]]:
    """Read a sheet, settle ``use: auto``, and collect all that is wrong with it.

    Returns:
        Every scan that its row describes, sorted by name, without those of ``use: exclude``; and
        the faults in the order in which they are met.

    Raises:
        InputError: cannot be read as a table.
    """
    rows, wrong = examine_table(path, "sheet")
    faults = [Fault(error, _as_scan(row) if row else None) for error, row in wrong]
    scans: list[Scan] = []
    names: set[str] = set()
    split_of: dict[str, Scan] = {}
    for scan in map(_as_scan, rows):
        person = scan.person or scan.subject
        use = auto_use(person) if scan.use == "auto" else scan.use
        source = scan.labels_source or scan.source
        scan = replace(scan, use=use, person=person, labels_source=source)
        if use == "exclude":
            continue
        problems = []
        if scan.id in names:
            problems.append((f"{scan.id} stands in two rows", "remove one, or give each a session"))
        if use in ("train", "val", "test") and not scan.labels:
            fix = "name them, or use pretrain/segment"
            problems.append((f"{scan.id} has use={use} but no labels", fix))
        if not scan.image and not (use == "pretrain" and scan.labels):
            fix = "name it; only a label map to pre-train on (use=pretrain) can do without"
            problems.append((f"{scan.id} has no image", fix))
        if scan.labels and not scan.protocol:
            problems.append((f"{scan.id} has labels but no protocol", "say their numbering"))
        if set(scan.image + scan.labels) & set("{}"):
            what = f"{scan.id} has a path with a brace, which Snakemake takes for a wildcard"
            problems.append((what, "rename that file or folder, or make a link to it"))
        if side(use):
            other = split_of.setdefault(person, scan)
            if side(use) != side(other.use):
                what = f"person '{person}' is in {other.use} ({other.id}) and in {use} ({scan.id})"
                problems.append((what, "keep all scans of a person in one split"))
        faults += [Fault(InputError(path, *problem), scan) for problem in problems]
        names.add(scan.id)
        scans.append(scan)
    if not scans and not faults:
        faults.append(Fault(InputError(path, "lists no scan", "add rows, or remove use=exclude")))
    return sorted(scans, key=lambda scan: scan.id), faults


def read_sheet(path: str | Path) -> list[Scan]:
    """Read a sheet, settle ``use: auto``, and guard against leakage.

    Returns:
        Scans sorted by name, without those of ``use: exclude``, so that the order of rows and
        commented rows change nothing downstream.

    Raises:
        InputError: an invalid row, a scan listed twice, or a person in two splits.
    """
    scans, faults = examine_sheet(path)
    if faults:
        raise faults[0].error
    return scans


def find_all(path: str | Path) -> list[Path]:
    """The files that `path` names; its parts may be globs, matched without regard to case."""
    path = Path(path)
    matches = [Path(path.anchor)]
    try:
        for part in path.relative_to(path.anchor).parts:
            matches = [found for folder in matches for found in _children(folder, part)]
        return [match for match in matches if match.is_file()]
    except OSError:  # such as a name that is longer than any can be
        return []


def find_one(path: str | Path) -> Path:
    """The one file that `path` names, as :func:`find_all` finds it.

    Raises:
        InputError: no file matches, or more than one.
    """
    files = find_all(path)
    if not files:
        raise InputError(path, "no such file", "check the path")
    if len(files) > 1:
        raise InputError(
            path, f"matches {len(files)} files ({files[0].name}, {files[1].name})", "name one"
        )
    return files[0]


def _children(folder: Path, name: str) -> list[Path]:
    """What `name` means in a folder: itself, or else all that match it without regard to case."""
    if (folder / name).exists():
        return [folder / name]
    if not folder.is_dir():
        return []
    return sorted(c for c in folder.iterdir() if fnmatch.fnmatchcase(c.name.lower(), name.lower()))


def default_name(path: Path) -> str:
    """``sub-…`` from a file name: its BIDS entities if it has them, else its letters and digits."""
    stem = re.sub(r"(\.nii)?(\.gz)?$|\.(mgz|mgh|img|hdr)$", "", path.name, flags=re.IGNORECASE)
    entities = re.match(r"(sub-[A-Za-z0-9]+(?:_ses-[A-Za-z0-9]+)?)", stem)
    return entities[1] if entities else "sub-" + re.sub(r"[^A-Za-z0-9]", "", stem)
