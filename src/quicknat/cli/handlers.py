"""The command `failures`, which shows what failed in the last run."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent
from typing import Annotated

import typer

from quicknat.cli.app import app


@app.command()
def failures(
    table: Annotated[Path, typer.Argument(help="Table of failed jobs, written by a run.")] = Path(
        "results/failed.tsv"
    ),
) -> None:
    """Show why jobs of the last workflow run failed, with the ends of their logs.

    Example: `quicknat failures results/failed.tsv`
    """
    from quicknat.failures import as_text, read_failed

    if not table.exists():
        typer.echo(f"{table} does not exist: no job failed in the last run, or it ran elsewhere")
        return
    found = read_failed(table)
    for failure in found:
        typer.echo(as_text([failure]) + "\n" + indent(failure.excerpt, "    | ") + "\n")
    typer.echo(f"{len(found)} failed")
