"""Write a cohort's sheet, add scans to it, and exclude scans from it."""

from __future__ import annotations

import csv
import fnmatch
import logging
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import pandas as pd

from quicknat.cohort.paths import find_all
from quicknat.cohort.sheet import LOCAL, Scan, read_cells, read_rows, read_sheet
from quicknat.errors import InputError, notice
from quicknat.files import written_whole

log = logging.getLogger(__name__)
NAMED = 3  # scans, in a message

RATINGS = ("pass", "doubtful", "fail")


def resolve(scans: Sequence[Scan], split: str = "", convention: str = "") -> list[Scan]:
    """Return scans with the split and the label convention that the user chose.

    Scans without labels can only be split into pretrain or segment; `convention` is that of label
    maps whose layout does not imply it. Raises :class:`InputError` if one is unknown.
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


def _cells(scans: Sequence[Scan], sheet: Path) -> pd.DataFrame:
    """Return rows of a sheet as text; paths below its folder become relative."""
    columns = [field.name for field in fields(Scan)]
    if not any(scan.entities for scan in scans):  # most data sets have none
        columns.remove("entities")
    table = pd.DataFrame(map(asdict, scans), columns=columns)
    start = f"{sheet.parent.resolve()}{os.sep}"
    for key in ("image", "labels"):
        table[key] = table[key].str.removeprefix(start)
    return table


def _as_tsv(table: pd.DataFrame, header: bool = True) -> str:
    return table.to_csv(sep="\t", index=False, header=header, quoting=csv.QUOTE_NONE)


def _write(sheet: Path, text: str) -> list[Scan]:
    """Write a sheet, but only if it is valid; return its scans."""
    with written_whole(sheet) as (temporary,):
        temporary.write_bytes(text.encode())
        try:
            return read_sheet(temporary)
        except InputError as error:
            where = error.where.replace(str(temporary), str(sheet))
            raise InputError(where, error.problem, error.fix) from error


def write_sheet(scans: Sequence[Scan], output: str | Path, overwrite: bool = False) -> list[Scan]:
    """Write a sheet, and return the scans as they will be read, with ``auto`` replaced.

    Paths below the sheet's folder become relative.

    Raises:
        InputError: the file already exists, or the sheet would be invalid.
    """
    output = Path(output)
    if output.exists() and not overwrite:
        fix = "choose another name, --add new scans to it, or --overwrite it"
        raise InputError(output, "already exists", fix)
    return _write(output, _as_tsv(_cells(scans, output)))


def _scan(line: str, columns: Sequence[str]) -> Scan:
    """Return name and image of the scan in a sheet's line, which may be commented out."""
    cells = [cell.strip() for cell in line.lstrip("# ").split("\t")]
    row = dict(zip(columns, cells, strict=False))  # editors strip trailing tabs
    known = {key: row.get(key, "") for key in ("subject", "session", "entities", "image")}
    return Scan(**known, split="")


def add_to_sheet(scans: Sequence[Scan], sheet: str | Path) -> tuple[list[Scan], set[str]]:
    """Append rows for scans that a sheet lacks; leave everything else in it unchanged.

    A scan is there if its image is, or its subject, session and entities, also in rows that are
    commented out. Return all scans as they will be read, and the names of the new ones. Log
    warnings about scans that have labels now, and about rows whose image is gone.

    Raises:
        InputError: the sheet does not exist, lacks a column that a new scan needs, or would become
            invalid.
    """
    sheet = Path(sheet)
    columns = list(read_rows(sheet).columns)
    text = sheet.read_bytes().decode()  # keep line ends and byte order mark
    line_end = "\r\n" if "\r\n" in text else "\n"
    there = [_scan(line, columns) for line in text.split("\n")]
    image_of = {scan.id: scan.image for scan in there}
    images = set(image_of.values())
    new, others = [], []
    for scan, image in zip(scans, _cells(scans, sheet)["image"], strict=True):
        same_name = image_of.get(scan.id)
        if same_name is None and image not in images:
            new.append(scan)
        elif same_name is not None and not fnmatch.fnmatchcase(image, same_name):
            others.append(f"{scan.id}, {image}")
    if others:
        what = "scans are not added, since the sheet has the same names with other images"
        log.warning("%s: %d %s: %s …", sheet, len(others), what, others[0])
    rows = _cells(new, sheet)
    implied = {"source": LOCAL, "participant": rows["subject"]}  # without such columns
    for name in rows:
        if name not in columns and (rows[name] != implied.get(name, "")).any():
            fix = "add it to the header, and a tab to every other line"
            raise InputError(sheet, f"has no column '{name}', which new scans need", fix)
    text += "" if text.endswith("\n") else line_end
    rows = rows.reindex(columns=columns, fill_value="")  # unknown columns are invalid
    text += _as_tsv(rows, header=False).replace("\n", line_end)
    written = _write(sheet, text)
    bare = {scan.id for scan in written if not scan.labels and scan.split != "exclude"}
    if labelled := [scan.id for scan in scans if scan.labels and scan.id in bare]:
        what = "have labels now, but not in the sheet; fill in labels, label_convention, split"
        more = " …" if len(labelled) > NAMED else ""
        log.warning("%s: %d %s: %s", sheet, len(labelled), what, ", ".join(labelled[:NAMED]) + more)
    local = {scan.id: sheet.parent / scan.image for scan in written
             if scan.source == LOCAL and scan.image}  # fmt: skip
    gone = [name for name, path in local.items() if not (path.is_file() or find_all(path))]
    if gone:
        more = " …" if len(gone) > NAMED else ""
        log.warning("%s: images are missing of %s%s", sheet, ", ".join(gone[:NAMED]), more)
    return written, {scan.id for scan in new}


def failed_scans(path: str | Path) -> list[str]:
    """Return the scans that a table of ratings calls ``fail``, in its order.

    The table is a TSV as the report's page saves it, with the columns ``scan``
    (``sub-X[_ses-Y]…``) and ``rating`` (``n/a`` beside a note alone). Log a notice if its column
    ``model`` names several.

    Raises:
        InputError: the file is not such a table, has an unknown rating, or rates a scan twice.
    """
    table = read_cells(path)
    if missing := [name for name in ("scan", "rating") if name not in table]:
        fix = "save the ratings from the report's page"
        raise InputError(path, f"has no column '{missing[0]}'", fix)
    models = sorted({*table.get("model", ())} - {"", "n/a"})
    if len(models) > 1:
        notice(f"{path}: rates segmentations of several models: {', '.join(models)}")
    ratings: dict[str, str] = {}
    for scan, rating in zip(table["scan"], table["rating"], strict=True):
        if rating == "n/a":
            continue
        if rating not in RATINGS:
            fix = f"allowed: {', '.join(RATINGS)}"
            raise InputError(path, f"rates {scan} as '{rating}'", fix)
        if ratings.setdefault(scan, rating) != rating:
            raise InputError(path, f"rates {scan} as '{ratings[scan]}' and '{rating}'", "keep one")
    return [scan for scan, rating in ratings.items() if rating == "fail"]


def exclude_in_sheet(sheet: str | Path, names: Collection[str]) -> list[str]:
    """Set ``split: exclude`` in the rows of these scans; leave everything else as it is.

    Return those of the names (``sub-X[_ses-Y]…``) that the sheet has.

    Raises:
        InputError: the sheet cannot be read, has no column ``split``, or would have no valid row.
    """
    sheet = Path(sheet)
    columns = list(read_rows(sheet).columns)
    if "split" not in columns:
        raise InputError(sheet, "has no column 'split'", "add it")
    lines = sheet.read_bytes().decode().split("\n")  # keep line ends and byte order mark
    rows = [n for n, line in enumerate(lines) if not re.match(r"\ufeff?#|\s*$", line)]
    found = []
    for number in rows[1:]:  # below the header
        line, name = lines[number], _scan(lines[number], columns).id
        if name in names:
            cells = line.rstrip("\r").split("\t")
            cells += [""] * (len(columns) - len(cells))
            cells[columns.index("split")] = "exclude"
            lines[number] = "\t".join(cells) + "\r" * line.endswith("\r")
            found.append(name)
    _write(sheet, "\n".join(lines))
    return found
