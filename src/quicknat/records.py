"""Tables whose rows are instances of one dataclass, all cells text, as TSV files."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, TypeVar

from quicknat.files import written_whole

Record = TypeVar("Record", bound=Any)  # a dataclass


def columns(kind: type[Record]) -> list[str]:
    """The table's header: the names of the dataclass's fields."""
    return [field.name for field in fields(kind)]


def write_records(path: str | Path, kind: type[Record], records: Iterable[Record]) -> None:
    """Write a row per record; a cell may hold line breaks."""
    with (
        written_whole(path) as (temporary,),
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(columns(kind))
        writer.writerows(astuple(record) for record in records)


def read_records(path: str | Path, kind: type[Record]) -> list[Record]:
    """Read what :func:`write_records` wrote.

    Raises:
        OSError, ValueError: missing, or another table.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as stream:
            header, *rows = csv.reader(stream, delimiter="\t")
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if header != columns(kind) or any(len(row) != len(header) for row in rows):
        raise ValueError(f"its columns are not {', '.join(columns(kind))}")
    return [kind(*row) for row in rows]
