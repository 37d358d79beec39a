"""Tables of single scans, stacked into one of all."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from quicknat.cohort import default_name
from quicknat.errors import InputError


def _text(listing: str | Path) -> str:
    try:
        return Path(listing).read_text()
    except UnicodeDecodeError as error:
        raise InputError(listing, f"is no text ({error})", "name one table a line") from error


def stack_tables(listing: str | Path, subject_from_name: bool = False) -> pd.DataFrame:
    """The rows of many TSV files, one after the other.

    Args:
        listing: file that names them, one a line.
        subject_from_name: add a first column ``subject`` with the sub-… of each file's name.

    Raises:
        InputError: the list is empty, or what it names is no table.
    """
    parts = []
    for path in map(Path, filter(None, _text(listing).split("\n"))):
        try:
            part = pd.read_csv(path, sep="\t")
        except ValueError as error:
            raise InputError(path, f"is no table ({error})", "delete it and rerun") from error
        if subject_from_name:
            part.insert(0, "subject", default_name(path))
        parts.append(part)
    if not parts:
        raise InputError(listing, "lists no table", "name one a line")
    return pd.concat(parts, ignore_index=True)
