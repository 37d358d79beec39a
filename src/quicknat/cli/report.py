"""Pictures and pages: `scan-pictures`, `report`, `failures`."""

from __future__ import annotations

import logging
from pathlib import Path
from textwrap import indent
from typing import Annotated

import typer

from quicknat.cli.app import QUICKNAT28, STEPS, ProtocolFile, app, read_list

log = logging.getLogger(__name__)


@app.command("scan-pictures", rich_help_panel=STEPS)
def scan_pictures(
    scan: Annotated[Path, typer.Argument(help="Conformed scan (its sidecar names the original).")],
    prediction: Annotated[Path, typer.Argument(help="Predicted label map on the native grid.")],
    mosaics: Annotated[Path, typer.Option(help="Folder to write: mosaics and layers.")],
    volumes: Annotated[Path, typer.Option(help="JavaScript file to write: the viewer's volumes.")],
    protocol: ProtocolFile = QUICKNAT28,
    reference: Annotated[Path | None, typer.Option(help="Reference label map.")] = None,
    uncertainty: Annotated[Path | None, typer.Option(help="Uncertainty map.")] = None,
) -> None:
    """Draw the report's pictures of one scan.

    Example: `quicknat scan-pictures T1w.nii.gz dseg.nii.gz --mosaics mosaics --volumes volumes.js`
    """
    from quicknat.files import folder_written_whole
    from quicknat.images.labels import Protocol
    from quicknat.report.layers import load_layers, write_viewer_volumes
    from quicknat.report.scan_pictures import write_mosaics

    name, table = scan.name.split("_space-")[0], Protocol.read(protocol)
    layers = load_layers(scan, prediction, reference, uncertainty)
    with folder_written_whole(mosaics) as folder:
        write_mosaics(folder, layers, table)
    write_viewer_volumes(volumes, name, layers, table)


@app.command(rich_help_panel=STEPS)
def report(
    sheet: Annotated[Path | None, typer.Argument(help="The cohort's sheet.")] = None,
    results: Annotated[Path, typer.Option(help="Results folder.")] = Path("results"),
    segmented: Annotated[
        Path | None, typer.Option(help="List of segmented scans, one per line.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="index.html to write, with other files beside it.")
    ] = None,
    protocol: ProtocolFile = QUICKNAT28,
    check: Annotated[
        Path | None, typer.Option(help="Table of verdicts, if bad scans were skipped.")
    ] = None,
    failed: Annotated[
        Path | None, typer.Option(help="Table of failed jobs, to report with what is finished.")
    ] = None,
    chunk: Annotated[
        list[str] | None, typer.Option(help="Chunk, whose scans get no pages; repeatable.")
    ] = None,
    given_model: Annotated[
        Path | None, typer.Option(help="Model used for segmentation, if none was trained.")
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive/--static", help="Include the viewer and sortable tables.")
    ] = True,
    single_file: Annotated[
        str, typer.Option(help="Scan whose page to write as a single file, from a finished report.")
    ] = "",
) -> None:
    """Write the HTML report of a results folder, or one scan's page as a single file to send.

    Notes on the scores, participants and sessions are read from files beside the sheet: its name
    with `.md`, `participants.tsv`, `sessions.tsv`.

    Example: `quicknat report --single-file sub-01` writes `sub-01.html`, from the report in
    `results/report`. For the whole report, see `workflow/rules/report.smk`, which makes its inputs.
    """
    if single_file:
        from quicknat.report.standalone import write_single_file

        page = results / "report" / f"{single_file}.html"
        output = output or Path(page.name)
        write_single_file(page, output)
        log.info("wrote %s, %.1f MB", output, output.stat().st_size / 1e6)
        return
    if sheet is None or segmented is None or output is None:
        raise typer.BadParameter("give SHEET, --segmented and --output, or --single-file SCAN")
    import pandas as pd

    from quicknat.cohort.check import BAD, read_verdicts
    from quicknat.cohort.participants import read_participants
    from quicknat.cohort.sheet import read_sheet
    from quicknat.failures import read_failed
    from quicknat.images.labels import Protocol
    from quicknat.report.cohort_figures import write_figures
    from quicknat.report.inputs import (
        ReportInputs,
        cohort_files,
        complete_chunks,
        complete_scans,
        read_note,
        session_tables,
    )
    from quicknat.report.pages import write_report
    from quicknat.report.repeated import read_times

    skipped = [v for v in read_verdicts(check) if v.verdict == BAD] if check else []
    left_out = {verdict.scan for verdict in skipped}
    auto = "segment" if given_model else ""
    scans = [s for s in read_sheet(sheet, auto) if s.id not in left_out]
    shown, chunks = read_list(segmented), [results / "chunks" / name for name in chunk or ()]
    failures = read_failed(failed) if failed else []
    if failures:
        tested = {scan.id for scan in scans if scan.split == "test"}
        shown = complete_scans(results, shown, tested)
        chunks = complete_chunks(results, chunk or ())
    files = {key: path for key, path in cohort_files(sheet).items() if path.exists()}
    people = files.get("participants")
    tables = {files[key]: scans for key in ("sessions", "participants") if key in files}
    inputs = ReportInputs(
        title=f"QuickNAT on the cohort '{sheet.stem}'",
        note=read_note(files["note"]) if "note" in files else "",
        results=results,
        scans=scans,
        segmented=shown,
        chunks=chunks,
        protocol=Protocol.read(protocol),
        skipped=skipped,
        failed=failures,
        people=(
            read_participants(people, [scan.subject for scan in scans])
            if people
            else pd.DataFrame()
        ),
        times=read_times(tables, session_tables(scans, sheet)),
        given=str(given_model or ""),
        interactive=interactive,
    )
    if inputs.complete:
        write_figures(inputs, output.parent / "figures")
    write_report(inputs, output)
    log.info("wrote %s", output)


@app.command()
def failures(
    table: Annotated[Path, typer.Argument(help="Table of failed jobs, written by a run.")] = Path(
        "results/failed.tsv"
    ),
) -> None:
    """Show why jobs of the last workflow run failed, and the ends of their logs.

    Example: `quicknat failures results/failed.tsv`
    """
    from quicknat.failures import as_text, read_failed

    if not table.exists():
        why = "no job failed in the last run, or it has not ended, or it ran elsewhere"
        typer.echo(f"{table} does not exist: {why}")
        return
    found = read_failed(table)
    for failure in found:
        typer.echo(as_text([failure]) + "\n" + indent(failure.excerpt, "    | ") + "\n")
    typer.echo(f"{len(found)} failed")
