"""Commands that draw the figures and write the report."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from quicknat.cli.app import ProtocolFile, app, read_list
from quicknat.errors import InputError

log = logging.getLogger(__name__)


@app.command()
def curves(
    histories: Annotated[list[Path], typer.Argument(help="…/{stage}/{view}/history.tsv files.")],
    output: Annotated[Path, typer.Option(help="PNG to write; an SVG goes beside it.")],
) -> None:
    """Draw training and validation curves of all views and stages.

    Example: `quicknat curves results/models/*/*/history.tsv --output curves.png`
    """
    import pandas as pd

    from quicknat.figures import save, training_curves

    tables = {(p.parts[-3], p.parts[-2]): pd.read_csv(p, sep="\t") for p in histories}
    save(training_curves(tables), output, output.with_suffix(".svg"), dpi=160)


@app.command("slice-png")
def slice_png(
    stack: Annotated[Path, typer.Argument(help="Training stack, …/{view}/{scan}.npy.")],
    protocol: ProtocolFile,
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    stride: Annotated[int, typer.Option(min=1, help="Every so many-th slice.")] = 10,
) -> None:
    """Draw training slices and their classes as PNG files, to look at.

    Example: `quicknat slice-png results/slices/coronal/sub-01.npy --output slices
    --protocol workflow/labels/quicknat28.tsv`
    """
    import matplotlib.image
    import numpy as np

    from quicknat.figures import slice_picture
    from quicknat.labels import Protocol
    from quicknat.slices import VIEWS, open_stack

    view, table, pairs = stack.parent.name, Protocol.read(protocol), open_stack(stack)
    if view not in VIEWS:
        raise InputError(stack, f"lies in no folder named {', '.join(VIEWS)}")
    own = np.unique(table.sagittal, return_index=True)[1] if view == "sagittal" else slice(None)
    colors = table.colors[own]
    output.mkdir(parents=True, exist_ok=True)
    for number in range(0, len(pairs), stride):
        path = output / f"{stack.stem}_{view}_{number:03d}.png"
        matplotlib.image.imsave(path, slice_picture(pairs[number], colors))
    log.info("%s: %d pictures", output, len(range(0, len(pairs), stride)))


@app.command("score-figures")
def draw_scores(
    metrics: Annotated[Path, typer.Argument(help="Gathered metrics table.")],
    views: Annotated[Path, typer.Option(help="Gathered table of the views' scores.")],
    confusion: Annotated[Path, typer.Option(help="Gathered table of confused structures.")],
    volumes: Annotated[
        Path, typer.Option(help="File that lists the scans' …_volumes.tsv, one a line.")
    ],
    protocol: ProtocolFile,
    output: Annotated[Path, typer.Option(help="Folder for the pictures, PNG and SVG.")],
) -> None:
    """Draw Dice, views, HD95, volumes, Bland–Altman, confusion, uncertainty.

    Example: `quicknat score-figures results/metrics.tsv --views results/metrics/views.tsv
    --confusion results/metrics/confusion.tsv --volumes list.txt --output figures
    --protocol workflow/labels/quicknat28.tsv`
    """
    import pandas as pd

    from quicknat import scatter_figures, score_figures
    from quicknat.figures import save
    from quicknat.labels import Protocol
    from quicknat.scores import with_uncertainty
    from quicknat.tables import stack_tables

    table = Protocol.read(protocol)
    order = table.names[1:]
    found = pd.read_csv(metrics, sep="\t")
    points = with_uncertainty(found, stack_tables(volumes, subject_from_name=True))
    figures = {
        "dice": score_figures.dice(found, order),
        "views": score_figures.views(pd.read_csv(views, sep="\t"), order),
        "hd95": score_figures.hd95(found, order),
        "volumes": scatter_figures.volumes(found, table),
        "bland_altman": scatter_figures.bland_altman(found, table),
        "confusion": score_figures.confusion(pd.read_csv(confusion, sep="\t"), table),
        "uncertainty": scatter_figures.uncertainty(points, table),
    }
    for name, figure in figures.items():
        save(figure, output / f"{name}.png", output / f"{name}.svg", dpi=160)


@app.command()
def overlay(
    scan: Annotated[Path, typer.Argument(help="Conformed scan (its sidecar names the original).")],
    prediction: Annotated[Path, typer.Argument(help="Label map on the original's grid.")],
    protocol: ProtocolFile,
    output: Annotated[Path, typer.Option(help="PNG to write.")],
    reference: Annotated[Path | None, typer.Option(help="Reference label map.")] = None,
) -> None:
    """Draw image, reference and prediction in three views.

    Example: `quicknat overlay T1w.nii.gz dseg.nii.gz --protocol workflow/labels/quicknat28.tsv
    --output overlay.png`
    """
    from quicknat.figures import overlay_files, save
    from quicknat.labels import Protocol

    save(overlay_files(scan, prediction, reference, Protocol.read(protocol)), output)


@app.command()
def report(
    sheet: Annotated[Path, typer.Argument(help="The cohort's sheet.")],
    schema: Annotated[Path, typer.Option(help="Its schema.")],
    template: Annotated[Path, typer.Option(help="HTML template.")],
    protocol: ProtocolFile,
    results: Annotated[Path, typer.Option(help="Results folder.")],
    segmented: Annotated[Path, typer.Option(help="File that lists the segmented scans' names.")],
    output: Annotated[Path, typer.Option(help="index.html to write.")],
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
) -> None:
    """Write the report page from a results folder.

    Example: see `workflow/rules/report.smk`, which makes everything that the page shows.
    """
    import pandas as pd

    from quicknat.cohort import read_sheet
    from quicknat.labels import Protocol
    from quicknat.report import DEFAULT_NOTE, People, ReportInputs, render
    from quicknat.schema import load_schema
    from quicknat.verdicts import BAD, read_verdicts

    skipped = [v for v in read_verdicts(check) if v.verdict == BAD] if check else []
    left_out = {verdict.scan for verdict in skipped}
    known = pd.read_csv(participants, sep="\t", dtype=str, index_col=0) if participants else None
    names, unseen = read_list(segmented), read_list(waiting) if waiting else []
    figures = results / "report" / "figures"
    scored = [
        "dice", "views", "hd95", "volumes", "bland_altman", "confusion", "uncertainty",
    ]  # fmt: skip
    scores = (results / "metrics.tsv").exists()
    volumes = results / "segmentations" / "volumes.tsv"
    stem = "{0}/segmentations/{1}/anat/{1}_desc-quicknat_qc.json"
    inputs = ReportInputs(
        title=f"QuickNAT on the cohort '{sheet.stem}'",
        note=note.read_text().strip() if note else DEFAULT_NOTE,
        scans=[s for s in read_sheet(sheet, load_schema(schema)) if s.id not in left_out],
        skipped=skipped,
        people=People(None if known is None else known.fillna("n/a")),
        waiting=unseen,
        protocol=Protocol.read(protocol),
        bundle=results / "model" / "bundle.json",
        metrics=pd.read_csv(results / "metrics.tsv", sep="\t") if scores else None,
        views=pd.read_csv(results / "metrics" / "views.tsv", sep="\t") if scores else None,
        volumes=pd.read_csv(volumes, sep="\t") if names else pd.DataFrame(),
        quality={name: Path(stem.format(results, name)) for name in names},
        figures={name: figures / f"{name}.png" for name in ["curves", *(scored * scores)]},
        overlays={name: figures / f"{name}_overlay.png" for name in names},
        benchmarks=results / "benchmarks",
    )
    render(inputs, template, output)
    log.info("wrote %s", output)
