"""The table of a check: for every scan whether it can be used, and why not."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from quicknat.errors import InputError, written_whole

OK, WARNING, BAD, NOT_HERE = "ok", "warning", "bad", "not here yet"


@dataclass(frozen=True)
class Verdict:
    """One line: a scan (or the sheet itself), and ``ok``, ``warning``, ``bad`` or ``not here yet``.

    ``reason`` is one line; empty when there is nothing to say.
    """

    scan: str
    use: str
    image: str
    verdict: str
    reason: str = ""


COLUMNS = [field.name for field in fields(Verdict)]


def write_verdicts(path: str | Path, verdicts: Sequence[Verdict]) -> None:
    """Write the table as TSV."""
    with written_whole(path) as (temporary,), temporary.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(astuple(verdict) for verdict in verdicts)


def read_verdicts(path: str | Path) -> list[Verdict]:
    """Read what :func:`write_verdicts` wrote.

    Raises:
        InputError: missing, or another table.
    """
    try:
        with Path(path).open(newline="") as stream:
            header, *rows = csv.reader(stream, delimiter="\t")
            if header != COLUMNS:
                raise ValueError(f"its columns are {', '.join(header)}")
            return [Verdict(*row) for row in rows]
    except (OSError, ValueError, TypeError) as error:
        fix = "run 'quicknat check'"
        raise InputError(path, f"is no table of a check ({error})", fix) from error


def as_text(verdicts: Sequence[Verdict]) -> str:
    """The table in aligned columns, and a line that counts."""
    rows = [tuple(COLUMNS), *map(astuple, verdicts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    counts = Counter(verdict.verdict for verdict in verdicts)
    summary = ", ".join(f"{counts[kind]} {kind}" for kind in (OK, WARNING, BAD, NOT_HERE))
    return "\n".join([*lines, "", f"{len(verdicts)} checked: {summary}"])
