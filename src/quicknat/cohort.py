"""The sheet: one row per scan, and who may be in which split."""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import re
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd

from quicknat.errors import InputError
from quicknat.schema import check

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


def auto_use(person: str) -> str:
    """``train``, ``val`` or ``test`` (80/10/10) by a hash of the person.

    The answer depends on nothing but the name, so adding people never moves the others.
    """
    digest = hashlib.sha256(person.encode()).digest()
    return AUTO_SPLIT[int.from_bytes(digest[:8], "big") % len(AUTO_SPLIT)]


def read_table(path: str | Path, schema: dict) -> list[dict[str, str]]:
    """Read a TSV of text cells, lines that begin with ``#`` left out, and check every row.

    Raises:
        InputError: unreadable, an unknown or missing column, or a cell that the schema refuses.
    """
    path = Path(path)
    try:
        table = pd.read_csv(
            path, sep="\t", dtype=str, keep_default_na=False, comment="#", quoting=csv.QUOTE_NONE
        )
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "check 'sheet' in the configuration") from error
    except (OSError, ValueError) as error:  # EmptyDataError and ParserError are ValueErrors
        raise InputError(path, f"cannot be read as a tab-separated table ({error})") from error
    rows = [
        {str(key).strip(): str(value).strip() for key, value in row.items()}
        for row in table.to_dict("records")
    ]
    columns = dict.fromkeys((str(column).strip() for column in table.columns), "")
    shape = {"properties": schema["properties"], "additionalProperties": False}
    check(columns, shape | {"properties": {key: {} for key in schema["properties"]}}, path)
    for number, row in enumerate(rows, start=1):
        name = row.get("subject") or row.get("source") or str(number)
        check(row, schema, f"{path} row {number} ({name})")
    return rows


def read_sheet(path: str | Path, schema: dict) -> list[Scan]:
    """Read a sheet, settle ``use: auto``, and guard against leakage.

    Returns:
        Scans sorted by name, without those of ``use: exclude``, so that the order of rows and
        commented rows change nothing downstream.

    Raises:
        InputError: an invalid row, a scan listed twice, or a person in two splits.
    """
    scans: dict[str, Scan] = {}
    split_of: dict[str, Scan] = {}
    known = {field.name for field in fields(Scan)}
    for row in read_table(path, schema):
        values = {key: value for key, value in row.items() if key in known and value}
        scan = Scan(**values)
        person = scan.person or scan.subject
        use = auto_use(person) if scan.use == "auto" else scan.use
        scan = Scan(
            **{**values, "use": use, "person": person,
               "labels_source": scan.labels_source or scan.source},
        )  # fmt: skip
        if use == "exclude":
            continue
        if scan.id in scans:
            raise InputError(path, f"{scan.id} stands in two rows", "give each scan a session")
        if use in ("train", "val", "test") and not scan.labels:
            raise InputError(
                path, f"{scan.id} has use={use} but no labels", "name them, or use pretrain/segment"
            )
        if scan.labels and not scan.protocol:
            raise InputError(path, f"{scan.id} has labels but no protocol", "say their numbering")
        if use != "segment":
            # a person learnt from must not be judged on; pre-training is learning too
            other = split_of.setdefault(person, scan)
            side, other_side = ("train" if u == "pretrain" else u for u in (use, other.use))
            if side != other_side:
                raise InputError(
                    path,
                    f"person '{person}' is in {other.use} ({other.id}) and in {use} ({scan.id})",
                    "keep all scans of a person in one split",
                )
        scans[scan.id] = scan
    if not scans:
        raise InputError(path, "lists no scan", "add rows, or remove use=exclude")
    return [scans[key] for key in sorted(scans)]


def find_one(path: str | Path) -> Path:
    """The one file that `path` names; its last parts may be a glob, matched without regard to case.

    Raises:
        InputError: no file matches, or more than one.
    """
    path = Path(path)
    matches = [Path(path.anchor)]
    for part in path.relative_to(path.anchor).parts:
        matches = [found for folder in matches for found in _children(folder, part)]
    files = [match for match in matches if match.is_file()]
    if not files:
        raise InputError(path, "no such file", "check the path in the sheet")
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
