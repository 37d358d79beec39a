"""Commands that apply a model and measure what it does."""

from __future__ import annotations

import logging
import os
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from quicknat.cli.app import (
    BUNDLED_MODEL,
    QUICKNAT28,
    STEPS,
    ModelFolder,
    Orientation,
    ProtocolFile,
    Threads,
    app,
    check_name,
    read_list,
)
from quicknat.errors import InputError
from quicknat.package_data import MODELS, model_folder

log = logging.getLogger(__name__)


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(StrEnum):
    """What numbers to compute with."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


ViewMap = Annotated[
    Path | None, typer.Option(help="That view's own …_dseg.nii.gz of 'segment --views'.")
]


@app.command()
def segment(
    images: Annotated[
        list[Path],
        typer.Argument(help="T1w scans (NIfTI, MGZ, Analyze), folders of them, BIDS data sets."),
    ],
    output: Annotated[Path, typer.Option(help="Results go to OUTPUT/{name}/anat/.")],
    model: ModelFolder = BUNDLED_MODEL,
    fast: Annotated[
        bool, typer.Option("--fast", help="Like --model small: a quarter of the time.")
    ] = False,
    name: Annotated[str, typer.Option(help="Name of the result; default: the file's.")] = "",
    orientation: Orientation = "",
    conformed: Annotated[
        bool, typer.Option("--conformed", help="Inputs are outputs of 'quicknat convert'.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Segment again what this model has done before.")
    ] = False,
    uncertainty: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Average N passes with dropout; adds IoU and CV per structure."
        ),
    ] = 0,
    views: Annotated[
        bool, typer.Option("--views", help="Write the label map of each view's network too.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Slices per forward pass.")] = 4,
    device: Annotated[Device, typer.Option(help="auto: a GPU if there is one.")] = Device.auto,
    precision: Annotated[
        Precision, typer.Option(help="auto: bf16 where the hardware computes in it, else fp32.")
    ] = Precision.auto,
    threads: Threads = os.cpu_count() or 1,
) -> None:
    """Segment T1w scans; each result lies on its scan's own grid.

    A scan that cannot be segmented does not stop the others; exit status is then 1, and
    `OUTPUT/scans.tsv` says what became of each. Scans that this model has segmented before are
    skipped.

    Example: `quicknat segment T1w.nii.gz --output out/`, with your own: `--model results/model`
    """
    check_name(name)
    if name and len(images) > 1:
        raise typer.BadParameter("--name is for a single image")
    if fast and model != model_folder(BUNDLED_MODEL):
        raise typer.BadParameter("--fast is a model of its own: leave out --model")
    model = MODELS["small"] if fast else model

    import torch

    from quicknat.hardware import computes_in_bfloat16, gpu_works, keep_freed_memory
    from quicknat.model.bundle import load_bundle
    from quicknat.segmentation.batch import Options, find_scans, segment_all

    tasks = find_scans(images, name)
    torch.set_num_threads(threads)
    on_gpu = device is not Device.cpu and gpu_works()
    if device is Device.cuda and not on_gpu:
        raise InputError("--device cuda", "torch finds no GPU to use here", "use --device cpu")
    bf16 = precision is Precision.bf16
    bf16 |= precision is Precision.auto and computes_in_bfloat16(on_gpu)
    bundle = load_bundle(model, "cuda" if on_gpu else "cpu", bf16)
    where, numbers = "GPU" if on_gpu else "processor", "bf16" if bf16 else "fp32"
    log.info("model %s on %s in %s, %d thread(s)", model, where, numbers, threads)
    if model in MODELS.values():
        log.info("it is for research only (CC BY-NC 4.0): README.md there says what it can do")
    keep_freed_memory()
    options = Options(conformed, orientation, uncertainty, batch_size, views)
    outcomes = segment_all(bundle, tasks, output, options, overwrite)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed and len(outcomes) > 1:
        log.error("%d of %d scans failed:", len(failed), len(outcomes))
        for outcome in failed:
            log.error("  %s: %s", outcome.name, outcome.reason)
    if failed:
        raise typer.Exit(1)


@app.command(rich_help_panel=STEPS)
def evaluate(
    prediction: Annotated[Path, typer.Argument(help="…_desc-quicknat_dseg.nii.gz of 'segment'.")],
    reference: Annotated[Path, typer.Argument(help="Reference classes on the same grid.")],
    name: Annotated[str, typer.Option(help="Subject, sub-X.")],
    output: Annotated[
        Path, typer.Option(help="Table to write; …_views.tsv and …_confusion.tsv go beside it.")
    ],
    protocol: ProtocolFile = QUICKNAT28,
    coronal: ViewMap = None,
    axial: ViewMap = None,
    sagittal: ViewMap = None,
    threads: Threads = 1,
) -> None:
    """Compare a segmentation with a reference: Dice, IoU, HD95, volumes; confused structures.

    Example: `quicknat evaluate a_dseg.nii.gz b_dseg.nii.gz --name sub-01 --output sub-01.tsv`
    """
    import numpy as np
    import torch

    from quicknat.evaluation.confusion import confusion_table, count_pairs, view_table
    from quicknat.evaluation.metrics import evaluate as compare
    from quicknat.files import written_whole
    from quicknat.scans.labels import Protocol
    from quicknat.scans.volumes import as_bytes, read_volume

    # MONAI 1.6 warns at every call of a deprecated argument that it passes itself
    warnings.filterwarnings("ignore", category=FutureWarning, module="monai")
    torch.set_num_threads(threads)
    table, ours, theirs = Protocol.read(protocol), read_volume(prediction), read_volume(reference)
    given = {"coronal": coronal, "axial": axial, "sagittal": sagittal}
    views = {view: read_volume(path) for view, path in given.items() if path}
    for volume in (ours, *views.values()):
        if not np.allclose(volume.affine, theirs.affine, atol=0.01):
            raise InputError(
                volume.path, f"lies elsewhere in space than {reference}", "give labels on its grid"
            )
    last = len(table.names) - 1
    maps = {view: as_bytes(volume, last) for view, volume in views.items()}
    found, truth = as_bytes(ours, last), as_bytes(theirs, last)
    pairs = count_pairs(found, truth, len(table.names), name)
    tables = {
        "": compare(found, truth, ours.affine, table, name),
        "_views": view_table(pairs, maps, truth, table, name),
        "_confusion": confusion_table(pairs, table, name),
    }
    files = [output.with_stem(output.stem + end) for end in tables]
    with written_whole(*files) as temporaries:
        for temporary, scores in zip(temporaries, tables.values(), strict=True):
            scores.to_csv(temporary, sep="\t", index=False, float_format="%.6g")


@app.command(rich_help_panel=STEPS)
def gather(
    tables: Annotated[Path, typer.Argument(help="File that lists the tables, one a line.")],
    output: Annotated[Path, typer.Option(help="Table to write.")],
    subject_from_name: Annotated[
        bool, typer.Option(help="Add a first column with the sub-… of each file's name.")
    ] = False,
) -> None:
    """Stack per-subject tables into one.

    Example: `quicknat gather list.txt --output results/metrics.tsv`
    """
    from quicknat.evaluation.tables import stack_tables
    from quicknat.files import written_whole

    table = stack_tables(read_list(tables), subject_from_name)
    with written_whole(output) as (temporary,):
        table.to_csv(temporary, sep="\t", index=False, na_rep="n/a")
