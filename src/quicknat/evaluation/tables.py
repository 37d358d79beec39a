"""Tables of single scans, stacked into one of all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from quicknat.cohort.sheet import default_name
from quicknat.errors import InputError


def stack_tables(paths: Sequence[str], subject_from_name: bool) -> pd.DataFrame:
    """The rows of many TSV files, one after the other.

    Args:
        paths: the files.
        subject_from_name: add a first column ``subject`` with the sub-… of each file's name.

    Raises:
        InputError: there are no files, or one is no table.
    """
    parts = []
    for path in map(Path, paths):
        try:
            part = pd.read_csv(path, sep="\t")
        except ValueError as error:  # also of pandas' own kinds
            raise InputError(path, f"is no table ({error})", "delete it and rerun") from error
        if subject_from_name:
            part.insert(0, "subject", default_name(path))
        parts.append(part)
    if not parts:
        raise InputError("the list of tables", "names none", "name one a line")
    return pd.concat(parts, ignore_index=True)
