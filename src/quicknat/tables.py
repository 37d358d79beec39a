"""Tables of single scans, stacked into one of all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from quicknat.cohort import default_name
from quicknat.errors import InputError


def stack(paths: Iterable[Path], subject_from_name: bool = False) -> pd.DataFrame:
    """The rows of TSV files, of one at least, one after the other.

    Args:
        paths: of the files.
        subject_from_name: add a first column ``subject`` with the sub-… of each file's name.
    """
    parts = []
    for path in paths:
        part = pd.read_csv(path, sep="\t")
        if subject_from_name:
            part.insert(0, "subject", default_name(path))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def stack_tables(listing: str | Path, subject_from_name: bool = False) -> pd.DataFrame:
    """The same for files that another file lists, one a line.

    Raises:
        InputError: the list is empty.
    """
    paths = [Path(line) for line in Path(listing).read_text().split("\n") if line]
    if not paths:
        raise InputError(listing, "lists no table")
    return stack(paths, subject_from_name)
