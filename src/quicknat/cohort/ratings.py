"""Read ratings of segmentations, and exclude scans rated as failed from a sheet."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from quicknat.cohort.sheet import RENAMED, Scan, current_names, read_cells, read_sheet
from quicknat.errors import InputError, notice
from quicknat.files import written_whole

RATINGS = ("pass", "doubtful", "fail")


def failed_scans(path: str | Path) -> list[str]:
    """Return the scans that a table of ratings calls ``fail``, in its order.

    Args:
        path: TSV with the columns ``scan`` (``sub-X[_ses-Y]…``) and ``rating``, as the report's
            page saves it, ``n/a`` beside a note alone; of other columns only ``model`` is read,
            and a notice logged if there are several.

    Raises:
        InputError: the file is no such table, has an unknown rating, or rates a scan twice.
    """
    path = Path(path)
    table = read_cells(path)
    if missing := [name for name in ("scan", "rating") if name not in table]:
        fix = "save the ratings from the report's page"
        raise InputError(path, f"has no column '{missing[0]}'", fix)
    models = sorted({text.strip() for text in table.get("model", ())} - {"", "n/a"})
    if len(models) > 1:
        notice(f"{path}: has ratings of segmentations of several models: {', '.join(models)}")
    ratings: dict[str, str] = {}
    for scan, rating in zip(table["scan"].str.strip(), table["rating"].str.strip(), strict=True):
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

    Args:
        sheet: to change.
        names: scans, ``sub-X[_ses-Y]…``.

    Returns:
        Those of them that the sheet has.

    Raises:
        InputError: the sheet cannot be read, has no column ``split``, or would have no valid row.
    """
    sheet = Path(sheet)
    if "split" not in current_names(list(read_cells(sheet).columns), sheet):
        raise InputError(sheet, "has no column 'split'", "add it")
    lines = sheet.read_bytes().decode().split("\n")  # keep line ends and byte order mark
    columns, found = list[str](), list[str]()
    for number, line in enumerate(lines):
        bare = line.rstrip("\r").lstrip("\ufeff")
        if not bare.strip() or bare.startswith("#"):
            continue
        cells = bare.split("\t")
        if not columns:
            columns = [RENAMED.get(name, name) for name in map(str.strip, cells)]
            continue
        row = dict(zip(columns, map(str.strip, cells), strict=False))
        known = {key: row.get(key, "") for key in ("subject", "session", "entities")}
        if (name := Scan(**known, image="", split="").id) in names:
            cells += [""] * (len(columns) - len(cells))  # spreadsheets drop empty cells at the end
            cells[columns.index("split")] = "exclude"
            lines[number] = "\t".join(cells) + "\r" * line.endswith("\r")
            found.append(name)
    with written_whole(sheet) as (temporary,):
        temporary.write_bytes("\n".join(lines).encode())
        read_sheet(temporary)
    return found
