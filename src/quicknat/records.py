"""Read and write TSV tables of text whose rows are instances of a dataclass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from quicknat.files import written_whole

Record = TypeVar("Record", bound=Any)  # a dataclass


def columns(kind: type[Record]) -> list[str]:
    """Return the table's header: the names of the dataclass's fields."""
    return [field.name for field in fields(kind)]


def as_tsv(kind: type[Record], records: Iterable[Record]) -> str:
    """Return a table with a row per record; a cell may hold line breaks."""
    return str(pd.DataFrame(records, columns=columns(kind)).to_csv(sep="\t", index=False))


def write_records(path: str | Path, kind: type[Record], records: Iterable[Record]) -> None:
    """Write one row per record; cells may contain line breaks."""
    with written_whole(path) as (temporary,):
        # names of files need not be UTF-8
        temporary.write_text(as_tsv(kind, records), "utf-8", "backslashreplace")


def read_records(path: str | Path, kind: type[Record]) -> list[Record]:
    """Read a table of :func:`write_records`.

    Raises:
        OSError, ValueError: the file is missing, or is not such a table.
    """
    # unlike the C engine, this one tells short rows from empty cells
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, engine="python")
    fits = list(table) == columns(kind) and isinstance(table.index, pd.RangeIndex)
    if not fits or table.isna().any(axis=None):
        raise ValueError(f"its columns are not {', '.join(columns(kind))}")
    return [kind(*row) for row in table.itertuples(index=False, name=None)]
