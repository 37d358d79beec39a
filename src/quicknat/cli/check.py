"""The command that checks a cohort before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quicknat.cli.app import QUICKNAT28, Orientation, ProtocolFile, Threads, app

SOURCES = Path("workflow/sources.tsv")


@app.command()
def check(
    what: Annotated[list[Path], typer.Argument(help="A sheet (.tsv), or image files.")],
    sources: Annotated[
        Path | None,
        typer.Option(help="Table of sources.", show_default="workflow/sources.tsv, if it is there"),
    ] = None,
    raw: Annotated[
        Path,
        typer.Option(help="Folder that archives are unpacked into.", envvar="MONAI_DATA_DIRECTORY"),
    ] = Path("results/raw"),
    protocol: ProtocolFile = QUICKNAT28,
    output: Annotated[Path, typer.Option(help="Table of verdicts to write.")] = Path("check.tsv"),
    orientation: Orientation = "",
    threads: Threads = 4,
) -> None:
    """Check every scan of a sheet before a run, or image files: status 1 if any is bad.

    Where a sheet names sources, run it in the workflow's folder, which their folders are relative
    to. `--orientation` is for image files only.

    Example: `quicknat check cohort.tsv --threads 8`
    """
    from quicknat.cohort.check import BAD, as_text, check_cohort, check_scans, write_verdicts
    from quicknat.cohort.examine import open_cache
    from quicknat.cohort.paths import Places
    from quicknat.cohort.sheet import Scan, default_name, read_sources

    is_sheet = [path.suffix.lower() == ".tsv" for path in what]
    if any(is_sheet) and len(what) > 1:
        raise typer.BadParameter("give one sheet, or image files")
    with open_cache(output) as cache:
        if is_sheet[0]:
            if sources is None and SOURCES.exists():
                sources = SOURCES
            places = Places(str(what[0]), read_sources(sources) if sources else {}, str(raw))
            verdicts, _ = check_cohort(places, protocol, cache, threads)
        else:
            scans = [
                Scan(default_name(path)[len("sub-") :], str(path), "", orientation=orientation)
                for path in what
            ]
            verdicts = check_scans(scans, Places("", {}, str(raw)), None, cache, threads)
    write_verdicts(output, verdicts)
    typer.echo(f"{as_text(verdicts)}\ntable: {output}")
    if any(verdict.verdict == BAD for verdict in verdicts):
        raise typer.Exit(1)
