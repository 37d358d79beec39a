"""The commands of the stage segment: label maps and volumes of scans."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import typer

from quicknat.cli.app import (
    BUNDLED_MODEL,
    STEPS,
    FilterFile,
    ModelFolder,
    Orientation,
    Participants,
    Sessions,
    Threads,
    app,
    check_name,
    read_list,
)
from quicknat.errors import InputError
from quicknat.hardware import available_cpus
from quicknat.package_data import MODELS

log = logging.getLogger(__name__)


WORKFLOW = "For the workflow"  # a heading of --help
Fast = Annotated[bool, typer.Option("--fast", help="Like --model small: quicker, less accurate.")]
OverwriteDone = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Redo scans that this model has segmented before; replace results of another scan.",
    ),
]
Samples = Annotated[
    int,
    typer.Option(
        "--uncertainty", min=0, metavar="N",
        help="Average N passes with dropout; adds each structure's IoU and CV.",
    ),
]  # fmt: skip
Views = Annotated[
    bool, typer.Option("--views", help="Also write the label map of each view's network.")
]
Numbers = Annotated[
    str,
    typer.Option(
        "--label-convention",
        help="Label numbers to write: freesurfer; default: the label table's indices.",
    ),
]
Mgz = Annotated[bool, typer.Option("--mgz", help="Also write the label map as MGZ.")]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Slices per forward pass; default: 1 on a CPU, 32 on a GPU."),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="auto: a GPU if there is one.")
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"],
    typer.Option(help="auto: bf16 if the hardware has it, else fast fp32; fp32: plain, slower."),
]


@app.command()
def segment(
    output: Annotated[
        Path, typer.Option(help="Output folder; results go to sub-X/[ses-Y/]anat in it.")
    ],
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="T1w scans (NIfTI, MGZ, Analyze), folders of them, BIDS data sets, SUBJECTS_DIRs."
        ),
    ] = None,
    model: ModelFolder = None,
    fast: Fast = False,
    name: Annotated[str, typer.Option(help="Name of the result; default: the file name.")] = "",
    participant_label: Participants = None,
    session_label: Sessions = None,
    bids_filter_file: FilterFile = None,
    listed: Annotated[
        Path | None,
        typer.Option(
            "--list",
            rich_help_panel=WORKFLOW,
            help="Instead of IMAGES: TSV of name, scan and orientation.",
        ),
    ] = None,
    tables: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=WORKFLOW,
            help="Folder for tables of these scans; default: OUTPUT, for all scans there.",
        ),
    ] = None,
    allow_bad: Annotated[
        bool,
        typer.Option(
            "--allow-bad",
            rich_help_panel=WORKFLOW,
            help="Exit with status 0 if only unreadable scans failed.",
        ),
    ] = False,
    orientation: Orientation = "",
    conformed: Annotated[
        bool,
        typer.Option(
            "--conformed",
            rich_help_panel=WORKFLOW,
            help="The scans were written by 'quicknat convert'.",
        ),
    ] = False,
    folder_per_scan: Annotated[
        bool,
        typer.Option(
            "--folder-per-scan",
            rich_help_panel=WORKFLOW,
            help="Write to OUTPUT/{name}/anat/, without tables of all scans.",
        ),
    ] = False,
    overwrite: OverwriteDone = False,
    uncertainty: Samples = 0,
    views: Views = False,
    label_convention: Numbers = "",
    mgz: Mgz = False,
    batch_size: BatchSize = None,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = available_cpus(),
) -> None:
    """Segment T1w scans, each on its own grid.

    A scan that cannot be segmented does not stop the others; the exit status is then 1, and
    `OUTPUT/scans.tsv` has the outcome for each scan. Scans that this model has segmented before are
    skipped. `OUTPUT/volumes.tsv` and `volumes_wide.tsv` have the volumes of all scans there.

    Example: `quicknat segment T1w.nii.gz --output out/`; your own model: `--model results/model`
    """
    check_name(name)
    if bool(images) == bool(listed):
        raise typer.BadParameter("give scans, or --list")
    if name and (listed or len(images or []) > 1):
        raise typer.BadParameter("--name is for a single image")
    if listed and (participant_label or session_label or bids_filter_file):
        raise typer.BadParameter("--list names the scans: options that select scans are for IMAGES")
    if fast and model:
        raise typer.BadParameter("--fast is a model of its own: leave out --model")
    model = model or MODELS["small" if fast else BUNDLED_MODEL.name]

    import torch

    from quicknat.cohort.naming import Selection
    from quicknat.hardware import computes_in_bfloat16, gpu_works, keep_freed_memory
    from quicknat.model.bundle import load_bundle, with_winograd
    from quicknat.segmentation.batch import segment_all
    from quicknat.segmentation.outputs import is_raw
    from quicknat.segmentation.tasks import FAILED, Options, find_scans, is_bad, read_tasks

    sources = [path for path in images or [] if is_raw(path)]
    if any(path.resolve() == output.resolve() for path in sources):
        fix = "choose another folder, e.g. derivatives/quicknat in it"
        raise InputError(output, "is the data set itself", fix)
    selection = Selection.read(participant_label or (), session_label or (), bids_filter_file)
    tasks = read_tasks(listed) if listed else find_scans(images or [], name, selection)
    torch.set_num_threads(threads)
    on_gpu = device != "cpu" and gpu_works()
    if device == "cuda" and not on_gpu:
        raise InputError("--device cuda", "torch finds no GPU to use here", "use --device cpu")
    torch.backends.cudnn.allow_tf32 = precision != "fp32"  # a GPU's, which is not plain fp32
    bf16 = precision == "bf16"
    bf16 |= precision == "auto" and computes_in_bfloat16(on_gpu)
    bundle = load_bundle(model, "cuda" if on_gpu else "cpu", bf16)
    if precision == "auto" and not bf16 and not on_gpu:
        bundle = with_winograd(bundle)
    where, numbers = "GPU" if on_gpu else "CPU", "bf16" if bf16 else "fp32"
    numbers += " (Winograd convolutions)" if bundle.winograd else ""
    log.info("model %s on %s in %s, %d thread(s)", model, where, numbers, threads)
    if model in MODELS.values():
        log.info("not for commercial use (CC BY-NC 4.0), not a medical device: see its README.md")
    keep_freed_memory()
    batch_size = batch_size or (32 if on_gpu else 1)  # alone a slice stays in a CPU's cache
    any_precision = precision == "auto"
    options = Options(
        conformed, orientation, uncertainty, batch_size, views, any_precision, label_convention,
        mgz, folder_per_scan,
    )  # fmt: skip
    outcomes = segment_all(bundle, tasks, output, options, overwrite, tables, sources)
    failed = [outcome for outcome in outcomes if outcome.status == FAILED]
    if len(outcomes) > 1:
        counts = Counter(outcome.status for outcome in outcomes)
        log.info("%d scans: %s", len(outcomes), ", ".join(f"{n} {s}" for s, n in counts.items()))
    if failed and len(outcomes) > 1:
        for outcome in failed if len(failed) > 1 else ():
            log.error("  %s: %s", outcome.name, outcome.reason)
        first = f"{failed[0].name}: {failed[0].reason}"
        log.error("error: %d of %d scans failed; %s", len(failed), len(outcomes), first)
    known = {task.name: task.orientation or orientation for task in tasks}
    if failed and not (allow_bad and all(is_bad(each, known[each.name]) for each in failed)):
        raise typer.Exit(1)


@app.command(rich_help_panel=STEPS)
def volumes(
    tables: Annotated[Path, typer.Argument(help="File that lists the tables, one per line.")],
    output: Annotated[Path, typer.Option(help="Folder of the tables to write.")],
) -> None:
    """Combine the volume tables of scans, or chunks, in `volumes.tsv` and `volumes_wide.tsv`.

    Example: `quicknat volumes list.txt --output results/segmentations`
    """
    from quicknat.segmentation.volumes import write_volume_tables

    write_volume_tables(map(Path, read_list(tables)), output)


@app.command(rich_help_panel=STEPS)
def gather(
    tables: Annotated[Path, typer.Argument(help="File that lists the tables, one per line.")],
    output: Annotated[Path, typer.Option(help="Table to write.")],
) -> None:
    """Stack per-subject tables into one.

    Example: `quicknat gather list.txt --output results/metrics.tsv`
    """
    from quicknat.evaluation.scores import stack_tables
    from quicknat.files import written_whole

    table = stack_tables(read_list(tables))
    with written_whole(output) as (temporary,):
        table.to_csv(temporary, sep="\t", index=False, na_rep="n/a")
