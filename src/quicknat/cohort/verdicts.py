"""The table of a check: for every scan whether it can be used, and why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from quicknat.errors import InputError
from quicknat.records import columns, read_records, write_records

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


def read_verdicts(path: str | Path) -> list[Verdict]:
    """Read what ``quicknat check`` wrote.

    Raises:
        InputError: missing, or another table.
    """
    try:
        return read_records(path, Verdict)
    except (OSError, ValueError) as error:
        fix = "run 'quicknat check'"
        raise InputError(path, f"is no table of a check ({error})", fix) from error


def write_verdicts(path: str | Path, verdicts: Sequence[Verdict]) -> None:
    """Write the table as TSV."""
    write_records(path, Verdict, verdicts)


def as_text(verdicts: Sequence[Verdict]) -> str:
    """The table in aligned columns, and a line that counts."""
    rows = [tuple(columns(Verdict)), *map(astuple, verdicts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    counts = Counter(verdict.verdict for verdict in verdicts)
    summary = ", ".join(f"{counts[kind]} {kind}" for kind in (OK, WARNING, BAD, NOT_HERE))
    return "\n".join([*lines, "", f"{len(verdicts)} checked: {summary}"])
