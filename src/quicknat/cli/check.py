"""The command `check`, which checks a cohort before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quicknat.cli.app import QUICKNAT28, Orientation, ProtocolFile, Threads, app
from quicknat.errors import printable
from quicknat.hardware import available_cpus

SOURCES = Path("workflow/sources.tsv")


@app.command()
def check(
    what: Annotated[list[Path], typer.Argument(help="Sheet (.tsv), or image files and folders.")],
    sources: Annotated[
        Path | None,
        typer.Option(help="Sources table.", show_default="workflow/sources.tsv, if it exists"),
    ] = None,
    raw: Annotated[
        Path,
        typer.Option(help="Folder that archives are unpacked into.", envvar="MONAI_DATA_DIRECTORY"),
    ] = Path("results/raw"),
    protocol: ProtocolFile = QUICKNAT28,
    output: Annotated[Path, typer.Option(help="Table of verdicts to write.")] = Path("check.tsv"),
    orientation: Orientation = "",
    threads: Threads = min(4, available_cpus()),
) -> None:
    """Check all scans of a sheet before a run, or image files; exit with status 1 if any is bad.

    If the sheet names sources, run this in the workflow's folder: their folders are relative to
    it. `--orientation` applies to image files only.

    Example: `quicknat check cohort.tsv --threads 8`
    """
    from quicknat.cohort.check import BAD, as_text, check_cohort, check_scans, write_verdicts
    from quicknat.cohort.examine import open_cache
    from quicknat.cohort.paths import CohortPaths
    from quicknat.cohort.sheet import Scan, read_sources
    from quicknat.cohort.survey import find_images

    is_sheet = [path.suffix.lower() == ".tsv" for path in what]
    if any(is_sheet) and len(what) > 1:
        raise typer.BadParameter("give one sheet, or image files")
    with open_cache(output) as cache:
        if is_sheet[0]:
            if sources is None and SOURCES.exists():
                sources = SOURCES
            paths = CohortPaths(str(what[0]), read_sources(sources) if sources else {}, str(raw))
            verdicts, _ = check_cohort(paths, protocol, cache, threads)
        else:
            scans = [
                Scan(name.removeprefix("sub-"), str(path), "", orientation=orientation)
                for name, path in find_images(what)
            ]
            verdicts = check_scans(scans, CohortPaths("", {}, str(raw)), None, cache, threads)
    typer.echo(printable(as_text(verdicts)))
    write_verdicts(output, verdicts)
    typer.echo(printable(f"table: {output}"))
    if any(verdict.verdict == BAD for verdict in verdicts):
        raise typer.Exit(1)
