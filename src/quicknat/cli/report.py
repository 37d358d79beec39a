"""Commands that draw the figures and write the report."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from quicknat.cli.app import QUICKNAT28, STEPS, ProtocolFile, app, read_list
from quicknat.errors import InputError

log = logging.getLogger(__name__)


@app.command(rich_help_panel=STEPS)
def curves(
    histories: Annotated[list[Path], typer.Argument(help="…/{stage}/{view}/history.tsv files.")],
    output: Annotated[Path, typer.Option(help="PNG to write; an SVG goes beside it.")],
) -> None:
    """Draw training and validation curves of all views and stages.

    Example: `quicknat curves results/models/*/*/history.tsv --output curves.png`
    """
    import pandas as pd

    from quicknat.images.slices import VIEWS
    from quicknat.report.figures import STAGES, save, training_curves

    for path in histories:
        if path.parts[-3:-2] not in [(stage,) for stage in STAGES] or path.parts[-2] not in VIEWS:
            folders = f"{'|'.join(STAGES)}/{'|'.join(VIEWS)}"
            raise InputError(path, "does not say its stage and view", f"move it to {folders}/")
    tables = {(p.parts[-3], p.parts[-2]): pd.read_csv(p, sep="\t") for p in histories}
    save(training_curves(tables), output, output.with_suffix(".svg"), dpi=160)


@app.command("slice-png")
def slice_png(
    stack: Annotated[Path, typer.Argument(help="Training stack, …/{view}/{scan}.npy.")],
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    protocol: ProtocolFile = QUICKNAT28,
    stride: Annotated[int, typer.Option(min=1, help="Every so many-th slice.")] = 10,
) -> None:
    """Draw training slices and their classes as PNG files, to look at.

    Example: `quicknat slice-png results/slices/coronal/sub-01.npy --output slices`
    """
    import matplotlib.image

    from quicknat.images.labels import Protocol
    from quicknat.images.slices import VIEWS, open_stack
    from quicknat.report.figures import slice_picture

    view, table, pairs = stack.parent.name, Protocol.read(protocol), open_stack(stack)
    if view not in VIEWS:
        raise InputError(
            stack, f"lies in no folder named {', '.join(VIEWS)}", "give a stack that 'slice' wrote"
        )
    colors = table.view_colors(view)
    output.mkdir(parents=True, exist_ok=True)
    for number in range(0, len(pairs), stride):
        path = output / f"{stack.stem}_{view}_{number:03d}.png"
        matplotlib.image.imsave(path, slice_picture(pairs[number], colors))
    log.info("%s: %d pictures", output, len(range(0, len(pairs), stride)))


@app.command("score-figures", rich_help_panel=STEPS)
def draw_scores(
    metrics: Annotated[Path, typer.Argument(help="Gathered metrics table.")],
    views: Annotated[Path, typer.Option(help="Gathered table of the views' scores.")],
    confusion: Annotated[Path, typer.Option(help="Gathered table of confused structures.")],
    volumes: Annotated[
        Path, typer.Option(help="File that lists the scans' …_volumes.tsv, one a line.")
    ],
    sheet: Annotated[Path, typer.Option(help="The cohort's sheet: who each scan is of.")],
    output: Annotated[Path, typer.Option(help="Folder for the pictures, PNG and SVG.")],
    protocol: ProtocolFile = QUICKNAT28,
) -> None:
    """Draw Dice, views, HD95, volumes, Bland–Altman, confusion, uncertainty.

    Example: `quicknat score-figures results/metrics.tsv --views results/metrics/views.tsv
    --confusion results/metrics/confusion.tsv --volumes list.txt --sheet cohort.tsv
    --output figures`
    """
    import pandas as pd

    from quicknat.cohort.sheet import read_sheet
    from quicknat.evaluation.scores import stack_tables, with_uncertainty
    from quicknat.images.labels import Protocol
    from quicknat.report import scatter_figures, score_figures
    from quicknat.report.figures import save

    table = Protocol.read(protocol)
    order = table.names[1:]
    persons = {scan.id: scan.person for scan in read_sheet(sheet)}
    found = pd.read_csv(metrics, sep="\t")
    points = with_uncertainty(found, stack_tables(read_list(volumes), subject_from_name=True))
    figures = {
        "dice": score_figures.dice(found, order, persons),
        "views": score_figures.views(pd.read_csv(views, sep="\t"), order, persons),
        "hd95": score_figures.hd95(found, order),
        "volumes": scatter_figures.volumes(found, table),
        "bland_altman": scatter_figures.bland_altman(found, table),
        "confusion": score_figures.confusion(pd.read_csv(confusion, sep="\t"), table),
        "uncertainty": scatter_figures.uncertainty(points, table),
    }
    for name, figure in figures.items():
        save(figure, output / f"{name}.png", output / f"{name}.svg", dpi=160)


@app.command("scan-pictures", rich_help_panel=STEPS)
def scan_pictures(
    scan: Annotated[Path, typer.Argument(help="Conformed scan (its sidecar names the original).")],
    prediction: Annotated[Path, typer.Argument(help="Label map on the original's grid.")],
    overlay: Annotated[Path, typer.Option(help="PNG to write: three views side by side.")],
    mosaics: Annotated[Path, typer.Option(help="Folder to write: mosaics and their layers.")],
    volumes: Annotated[Path, typer.Option(help="Script to write: volumes for the viewer.")],
    protocol: ProtocolFile = QUICKNAT28,
    reference: Annotated[Path | None, typer.Option(help="Reference label map.")] = None,
    uncertainty: Annotated[Path | None, typer.Option(help="Map of uncertainty.")] = None,
) -> None:
    """Draw what the report shows of one scan.

    Example: `quicknat scan-pictures T1w.nii.gz dseg.nii.gz --overlay overlay.png --mosaics mosaics
    --volumes volumes.js`
    """
    from quicknat.files import folder_written_whole
    from quicknat.images.labels import Protocol
    from quicknat.images.volumes import Volume
    from quicknat.report.figures import overlay_panel, save
    from quicknat.report.mosaics import write_mosaics
    from quicknat.report.scan_layers import load_layers
    from quicknat.report.viewer import colour_blind_colors, write_viewer_volumes

    name, table = scan.name.split("_space-")[0], Protocol.read(protocol)
    layers = load_layers(scan, prediction, reference, uncertainty)
    place = layers.grid.affine, scan
    truth = None if layers.reference is None else Volume(layers.reference, *place)
    image, labels = Volume(layers.image, *place), Volume(layers.prediction, *place)
    save(overlay_panel(image, labels, truth, table, name), overlay)
    with folder_written_whole(mosaics) as folder:
        write_mosaics(folder, layers, table.colors, colour_blind_colors(table))
    write_viewer_volumes(volumes, name, layers, table)


@app.command(rich_help_panel=STEPS)
def report(
    sheet: Annotated[Path, typer.Argument(help="The cohort's sheet.")],
    results: Annotated[Path, typer.Option(help="Results folder.")],
    segmented: Annotated[Path, typer.Option(help="File that lists the segmented scans' names.")],
    output: Annotated[Path, typer.Option(help="index.html to write; all else goes beside it.")],
    protocol: ProtocolFile = QUICKNAT28,
    note: Annotated[
        Path | None, typer.Option(help="Text file: what this cohort's scores do and do not mean.")
    ] = None,
    participants: Annotated[
        Path | None, typer.Option(help="BIDS participants.tsv: age, sex, handedness.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Table of verdicts, where bad scans were skipped.")
    ] = None,
    waiting: Annotated[
        Path | None, typer.Option(help="File that lists scans which frozen models have not seen.")
    ] = None,
    failed: Annotated[
        Path | None, typer.Option(help="Table of failed jobs: show it, and what is finished.")
    ] = None,
    given_model: Annotated[
        Path | None, typer.Option(help="Finished model that segmented, where nothing was trained.")
    ] = None,
    niivue: Annotated[Path | None, typer.Option(help="Script of NiiVue.")] = None,
    datatables: Annotated[Path | None, typer.Option(help="Script of DataTables.")] = None,
) -> None:
    """Write the report's pages from a results folder.

    Without the two scripts the pages have no viewer, and tables that do not sort.

    Example: see `workflow/rules/report.smk`, which makes everything that the pages show.
    """
    from quicknat.cohort.sheet import read_sheet
    from quicknat.cohort.verdicts import BAD, read_verdicts
    from quicknat.cohort.writing import read_participants
    from quicknat.failures.finished import complete_scans
    from quicknat.failures.table import read_failed
    from quicknat.images.labels import Protocol
    from quicknat.report.content import ReportInputs
    from quicknat.report.pages import DEFAULT_NOTE, GIVEN_NOTE, read_note, write_report
    from quicknat.report.tables import People

    skipped = [v for v in read_verdicts(check) if v.verdict == BAD] if check else []
    left_out = {verdict.scan for verdict in skipped}
    unseen = read_list(waiting) if waiting else []
    scans = [s for s in read_sheet(sheet) if s.id not in left_out]
    shown = read_list(segmented)
    failures = read_failed(failed) if failed else []
    if failures:
        tested = {scan.id for scan in scans if scan.use == "test"}
        shown = complete_scans(results, shown, tested)
    libraries = {"niivue": niivue, "datatables": datatables} if niivue and datatables else None
    inputs = ReportInputs(
        title=f"QuickNAT on the cohort '{sheet.stem}'",
        note=read_note(note) if note else GIVEN_NOTE if given_model else DEFAULT_NOTE,
        results=results,
        scans=scans,
        segmented=shown,
        protocol=Protocol.read(protocol),
        skipped=skipped,
        failed=failures,
        people=People(read_participants(participants) if participants else None),
        waiting=unseen,
        given=given_model.name if given_model else "",
        libraries=libraries,
    )
    write_report(inputs, output)
    log.info("wrote %s", output)
