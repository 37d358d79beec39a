"""Tables of single scans, stacked into one of all."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from quicknat.cohort import default_name
from quicknat.errors import InputError


def stack_tables(listing: str | Path, subject_from_name: bool = False) -> pd.DataFrame:
    """The rows of many TSV files, one after the other.

    Args:
        listing: file that names them, one a line.
        subject_from_name: add a first column ``subject`` with the sub-… of each file's name.

    Raises:
        InputError: the list is empty, or names a file that is no table.
    """
    try:
        paths = [Path(line) for line in Path(listing).read_text().split("\n") if line]
    except ValueError as error:
        raise InputError(listing, f"is no list in UTF-8 ({error})", "one path a line") from error
    parts = []
    for path in paths:
        try:
            part = pd.read_csv(path, sep="\t")
        except ValueError as error:  # also of pandas' own kinds
            raise InputError(path, f"is no table ({error})", "delete it and rerun") from error
        if subject_from_name:
            part.insert(0, "subject", default_name(path))
        parts.append(part)
    if not parts:
        raise InputError(listing, "lists no table", "name one a line")
    return pd.concat(parts, ignore_index=True)
