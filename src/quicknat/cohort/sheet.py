"""Read the sheet, one row per scan, and the sources table; what each of their columns means."""

from __future__ import annotations

import csv
import hashlib
import re
import sys
from collections import Counter
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from quicknat.cohort.naming import KEPT, scan_name
from quicknat.errors import InputError, notice
from quicknat.validation import shown, unknown_key

LOCAL = "local"  # the source of files that are named by their paths
AUTO_SPLIT = ("train",) * 8 + ("val", "test")
# column names of earlier versions, and their current names
RENAMED = {"use": "split", "person": "participant", "protocol": "label_convention"}


def _one_of(words: str) -> Any:
    return Field(
        pattern=f"^({words.replace(' ', '|')})$", json_schema_extra={"enum": [*words.split()]}
    )


ENTITY = f"({KEPT})-[A-Za-z0-9]+"
Alphanumeric = Annotated[str, Field(pattern="^[A-Za-z0-9]*$")]
Entities = Annotated[str, Field(pattern=f"^({ENTITY}(_{ENTITY})*)?$")]
SourceName = Annotated[str, Field(pattern="^[A-Za-z0-9._-]*$")]
Orientation = Annotated[str, Field(pattern="^([LRAPSI]{3}|[qs]form)?$")]


# text below a column is what messages and the reference say of it
@with_config(ConfigDict(use_attribute_docstrings=True))
@dataclass(frozen=True, kw_only=True)
class Scan:
    """One row per scan; a tab-separated table. Lines that begin with # are comments."""

    subject: Annotated[str, Field(pattern="^[A-Za-z0-9]+$")]
    """letters and digits only"""
    session: Alphanumeric = ""
    """letters and digits only; empty if there is only one session"""
    entities: Entities = ""
    """other BIDS entities of the scan, e.g. acq-mprage_run-1; empty if it has none"""
    source: SourceName = LOCAL
    """a row of the sources table; empty or 'local' for files beside the sheet"""
    image: str
    """path of the T1w scan inside its source, or relative to the sheet; may be a glob; empty for
    label maps to synthesize images from (split pretrain, see pretrain.source in the
    configuration)"""
    labels: str = ""
    """path of its label map, likewise; empty if it has none"""
    labels_source: SourceName = ""
    """source of the label map, if it differs from that of the image"""
    label_convention: Annotated[str, Field(pattern="^[A-Za-z0-9_-]*$")] = ""
    """label convention of the label map: freesurfer, neuromorphometrics, or the name of the
    configured label protocol if the file holds its class indices"""
    split: Annotated[str, _one_of("pretrain train val test segment auto exclude")]
    """pretrain: trained on first, labels optional; train: trained on; val: to choose the epoch;
    test: segmented and scored; segment: segmented; exclude: left out; auto: train, val or test by
    a hash of the participant, or segment if `model` is set"""
    participant: str = ""
    """who was scanned, if one participant has several rows; defaults to the subject"""
    orientation: Orientation = ""
    """directions of the array axes in three letters, e.g. LAS, for files without orientation; or
    qform or sform, the transform to trust if the two disagree"""

    @property
    def id(self) -> str:
        """BIDS name: ``sub-X[_ses-Y][_acq-…][_run-…]``."""
        return scan_name(self.subject, self.session, self.entities)


@with_config(ConfigDict(use_attribute_docstrings=True))
@dataclass(frozen=True, kw_only=True)
class Source:
    """What the workflow can fetch or read; a tab-separated table."""

    source: Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """letters, digits, dots, dashes, underscores; begins with a letter or digit"""
    kind: Annotated[str, _one_of("https http file pypi git local demo")]
    """https, http, file: an archive at a URL; pypi: a package file (url NAME==VERSION); git: the
    files of a commit (url git+https://...); local: a folder read in place (url is its path,
    relative to the workflow's folder); demo: made by the workflow itself"""
    url: str
    """URL, requirement or folder"""
    mirrors: str = ""
    """further URLs of the same file, separated by commas (a comma in a URL is %2C) and tried in
    turn if url fails; adding one reruns nothing"""
    checksum: Annotated[
        str,
        Field(
            pattern="^(sha256:[0-9a-fA-F]{64}|md5:[0-9a-fA-F]{32}|git:[0-9a-f]{40}|unpublished)?$"
        ),
    ] = ""
    """sha256:... or md5:... of the archive; git:... and the commit; unpublished if there is none"""
    members: str = ""
    """what to extract from an archive: globs over member paths, separated by commas; stated here
    and not derived from the sheet, so that a new row never extracts the rest again"""
    size_mb: Annotated[str, Field(pattern="^([0-9]+([.][0-9]+)?)?$")] = ""
    """size of the archive in MB"""
    orientation: Orientation = ""
    """three letters, e.g. LAS, for files without orientation; or qform or sform, the transform to
    trust"""
    licence: str = ""
    citation: str = ""


SCANS, SOURCES = TypeAdapter(Scan), TypeAdapter(Source)


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
    for mark in ";,":
        if len(table.columns) == 1 and mark in table.columns[0]:
            problem = f"has columns that '{mark}' separates"
            raise InputError(path, problem, "save it as tab-separated text")
    if table.columns.has_duplicates:
        twice = table.columns[table.columns.duplicated()][0]
        raise InputError(path, f"has two columns named '{twice}'", "remove one")
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


def read_rows(path: str | Path) -> pd.DataFrame:
    """Read a sheet as text, see :func:`read_cells`; columns get their current names.

    Log a notice of old names. Raises :class:`InputError`, also for a column under both names.
    """
    table = read_cells(path)
    old = [name for name in table.columns if name in RENAMED]
    for name in old:
        if RENAMED[name] in table.columns:
            problem = f"has the column '{RENAMED[name]}' and also '{name}', its old name"
            raise InputError(path, problem, f"remove '{name}'")
    if old:
        now = ", ".join(f"'{name}' is now '{RENAMED[name]}'" for name in old)
        notice(f"{path}: columns were renamed: {now}; the old names are still read")
    return table.rename(columns=RENAMED)


def _examine_rows(
    table: pd.DataFrame, kind: TypeAdapter[Any], path: str | Path
) -> tuple[list[Any], list[tuple[InputError, dict[str, str]]]]:
    """Check every row of a table of text: `kind` is :data:`SCANS` or :data:`SOURCES`.

    Returns:
        The valid rows (without unknown columns), and all errors, each with its row (empty for
        errors in the header).
    """
    schema = kind.json_schema()
    rules, rows = schema["properties"], []
    known = [column for column in table.columns if column in rules]
    absent = [key for key in schema["required"] if key not in known]
    header = [
        InputError(path, *unknown_key([column], list(rules)))
        for column in table.columns if column not in rules
    ]  # fmt: skip
    header += [InputError(path, f"'{key}' is missing", "add it") for key in absent]
    faults: list[tuple[InputError, dict[str, str]]] = [(error, {}) for error in header]
    if absent:
        return [], faults
    for index, *cells in table[known].itertuples(name=None):
        row = dict(zip(known, cells, strict=True))
        try:
            rows.append(kind.validate_python(row))
        except ValidationError as invalid:
            name = row.get("subject") or row.get("source") or index + 1
            where = f"{path} row {index + 1} ({name})"
            for error in invalid.errors(include_url=False):
                rule = rules[column := error["loc"][0]]
                fix = " ".join(rule.get("description", "has the wrong format").split())
                fix = f"allowed: {', '.join(rule['enum'])}" if "enum" in rule else fix
                problem = f"'{column}' is {shown(error['input'])}"
                faults.append((InputError(where, problem, fix), row))
    return rows, faults


def read_sources(path: str | Path) -> dict[str, Source]:
    """Return the rows of a table of sources by their names.

    Raises:
        InputError: a row is invalid, or two rows have one name.
    """
    rows, faults = _examine_rows(read_cells(path), SOURCES, path)
    if faults:
        raise faults[0][0]
    found: dict[str, Source] = {}
    for row in rows:
        if found.setdefault(row.source, row) is not row:
            raise InputError(path, f"has two rows for '{row.source}'", "rename or remove one")
        for key in ("checksum", "members"):
            if row.kind not in (LOCAL, "demo") and not getattr(row, key):
                raise InputError(f"{path} ({row.source})", f"'{key}' is missing", "add it")
    return found


def examine_sheet(path: str | Path, auto: str = "") -> tuple[list[Scan], list[Fault]]:
    """Read a sheet, replace ``split: auto``, and collect all its faults.

    `auto` is what ``auto`` stands for; "" for a split by :func:`auto_split`. Raises
    :class:`InputError` as :func:`read_rows` does.

    Returns:
        The scans of all valid rows, sorted by name, without ``split: exclude``; and the errors in
        the order in which they were found.
    """
    rows, wrong = _examine_rows(read_rows(path), SCANS, path)
    faults = [Fault(error, Scan(**row) if row else None) for error, row in wrong]
    scans: list[Scan] = []
    names = Counter(row.id for row in rows if row.split != "exclude")
    first_of: dict[str, Scan] = {}  # by participant, of those on a side
    for row in rows:
        who, source = row.participant or row.subject, row.source or LOCAL
        split = row.split if row.split != "auto" else auto or auto_split(who)
        labels_source = row.labels_source or source
        scan = replace(
            row, split=split, participant=who, source=source, labels_source=labels_source
        )
        if split == "exclude":
            continue
        first = first_of.setdefault(who, scan) if side(split) else scan
        for is_wrong, problem, fix in (
            (names[scan.id] > 1, "is in two rows",
             "remove one, or give each a session or entities"),
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
