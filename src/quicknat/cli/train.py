"""The commands of the stage train: one view's network, and the model of all three."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from quicknat.cli.app import (
    QUICKNAT28,
    STEPS,
    ProtocolFile,
    Size,
    SliceSize,
    Spacing,
    Threads,
    View,
    app,
    parsed_json,
    read_list,
)

log = logging.getLogger(__name__)


@app.command(rich_help_panel=STEPS)
def train(
    view: Annotated[View, typer.Argument(help="What to train.")],
    stacks: Annotated[Path, typer.Option(help="File that lists the training stacks, one a line.")],
    validation: Annotated[Path, typer.Option(help="The same for validation; may be empty.")],
    settings: Annotated[str, typer.Option(help="Training settings as JSON.")],
    output: Annotated[Path, typer.Option(help="Folder of the model.")],
    protocol: ProtocolFile = QUICKNAT28,
    initial: Annotated[Path | None, typer.Option(help="Weights to start from.")] = None,
    warm_start: Annotated[
        Path | None,
        typer.Option(help="The view's weights in the present model folder; see below."),
    ] = None,
    warm_start_epochs: Annotated[
        int, typer.Option(min=0, help="Epochs after a warm start; 0: start as usual.")
    ] = 2,
    tissues: Annotated[
        Path | None, typer.Option(help="List of stacks by `slice-tissues`, to synthesize from.")
    ] = None,
    threads: Threads = 1,
) -> None:
    """Train one view's network, or resume a training that was interrupted.

    The state is saved in `state/` of the output folder after each epoch, every
    `checkpoint_minutes`, and on SIGTERM, SIGUSR1 and Ctrl-C, which end the command with status 75;
    the same command then resumes it.

    With `--warm-start`, a training that differs from the present model's in nothing but new
    training or validation scans starts from that model and is short. Any other starts as usual.

    Example: `quicknat train coronal --stacks train.txt --validation val.txt
    --settings '{"epochs": 10, "learning_rate": 0.005}' --output model/coronal`
    """
    from quicknat.config import TrainingSettings
    from quicknat.images.labels import Protocol
    from quicknat.training.plan import WarmStart
    from quicknat.training.trainer import train_view

    training, validating = read_list(stacks), read_list(validation)
    maps = read_list(tissues) if tissues else []
    chosen = TrainingSettings.read(parsed_json(settings, "--settings"), "--settings")
    table = Protocol.read(protocol)
    present = WarmStart(warm_start, warm_start_epochs) if warm_start and warm_start_epochs else None
    train_view(
        view.value, table, training, validating, chosen, output, initial, threads, present, maps
    )


@app.command(rich_help_panel=STEPS)
def bundle(
    models: Annotated[Path, typer.Argument(help="Folder with one trained model per view.")],
    output: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    aggregation: Annotated[str, typer.Option(help="Weight of each view, as JSON.")],
    protocol: ProtocolFile = QUICKNAT28,
    spacing: Spacing = 1.0,
    size: Size = 256,
    slice_size: SliceSize = 256,
    flip: Annotated[
        bool, typer.Option(help="Segment with the mean of each slice and its left–right flip.")
    ] = False,
    shift: Annotated[
        bool, typer.Option(help="… of the scan and the scan moved by half a voxel along each axis.")
    ] = False,
    prior_correction: Annotated[
        float, typer.Option(help="Strength of the prior correction of the logits.", min=0, max=1)
    ] = 0.0,
) -> None:
    """Gather the three views into one model folder that segments on its own.

    Example: `quicknat bundle results/models/finetune --output results/model
    --aggregation '{"axial": 0.4, "coronal": 0.4, "sagittal": 0.2}'`
    """
    from quicknat.images.labels import Protocol
    from quicknat.images.slices import VIEWS
    from quicknat.model.bundle import write_bundle

    write_bundle(
        {view: models / view for view in VIEWS}, Protocol.read(protocol),
        parsed_json(aggregation, "--aggregation"), spacing, size, slice_size, output, flip, shift,
        prior_correction,
    )  # fmt: skip
    log.info("wrote %s", output)


@app.command("import-weights")
def import_weights(
    weights: Annotated[Path, typer.Argument(help="State dict of the authors' PyTorch release.")],
    view: Annotated[View, typer.Option(help="What the weights are for.")],
    protocol: ProtocolFile,
    output: Annotated[Path, typer.Option(help="….safetensors to write.")],
) -> None:
    """Turn published QuickNAT weights into a file to start a training from.

    Only tensors are read. A file that holds a whole pickled network is refused, since loading it
    would run its code. The authors' slices are turned otherwise than ours: train on from here.

    Example: `quicknat import-weights coronal.pth.tar --view coronal --output coronal.safetensors
    --protocol quicknat33`, then `quicknat train … --initial coronal.safetensors`
    """
    from quicknat.errors import InputError
    from quicknat.files import written_whole
    from quicknat.images.labels import Protocol
    from quicknat.model.authors_weights import read_authors_weights
    from quicknat.model.weights import save_weights

    network, classes = read_authors_weights(weights), Protocol.read(protocol).class_names(view)
    if network.n_classes != len(classes):
        raise InputError(
            weights,
            f"has {network.n_classes} classes, {protocol.name} has {len(classes)}",
            "use the label table that they were trained with",
        )
    with written_whole(output) as (temporary,):
        save_weights(temporary, network.state_dict(), view, classes)
    log.info("%s: %s", output, network.describe())
