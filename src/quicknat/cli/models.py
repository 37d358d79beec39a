"""Commands that make a model."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from quicknat.cli.app import ProtocolFile, Size, SliceSize, Spacing, Threads, app

log = logging.getLogger(__name__)


@app.command()
def train(
    view: Annotated[str, typer.Argument(help="coronal, axial or sagittal.")],
    stacks: Annotated[Path, typer.Option(help="File that lists the training stacks, one a line.")],
    validation: Annotated[Path, typer.Option(help="The same for validation; may be empty.")],
    settings: Annotated[str, typer.Option(help="Training settings as JSON.")],
    protocol: ProtocolFile,
    output: Annotated[Path, typer.Option(help="Folder of the model.")],
    initial: Annotated[Path | None, typer.Option(help="Weights to start from.")] = None,
    threads: Threads = 1,
) -> None:
    """Train one view's network, or go on with a training that was interrupted.

    The state is saved in `state/` of the output folder after each epoch, every
    `checkpoint_minutes`, and on SIGTERM, SIGUSR1 and Ctrl-C, which end the command with status 75;
    the same command then goes on from there.

    Example: `quicknat train coronal --stacks train.txt --validation val.txt
    --settings '{"epochs": 10, "learning_rate": 0.005}' --protocol workflow/labels/quicknat28.tsv
    --output model/coronal`
    """
    from quicknat.labels import Protocol
    from quicknat.optimizers import TrainingSettings
    from quicknat.slices import VIEWS
    from quicknat.training import train_view

    if view not in VIEWS:
        raise typer.BadParameter(f"view is one of {', '.join(VIEWS)}")
    lists = [path.read_text().split("\n") for path in (stacks, validation)]
    training, validating = ([line for line in lines if line] for lines in lists)
    chosen = TrainingSettings.from_dict(json.loads(settings))
    table = Protocol.read(protocol)
    train_view(view, table, training, validating, chosen, output, initial, threads)


@app.command()
def bundle(
    models: Annotated[Path, typer.Argument(help="Folder with one trained model per view.")],
    protocol: ProtocolFile,
    output: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    aggregation: Annotated[str, typer.Option(help="Weight of each view, as JSON.")],
    spacing: Spacing = 1.0,
    size: Size = 256,
    slice_size: SliceSize = 256,
) -> None:
    """Gather the three views into one model folder that segments on its own.

    Example: `quicknat bundle results/models/finetune --protocol workflow/labels/quicknat28.tsv
    --aggregation '{"axial": 0.4, "coronal": 0.4, "sagittal": 0.2}' --output results/model`
    """
    from quicknat.bundle import write_bundle
    from quicknat.labels import Protocol
    from quicknat.slices import VIEWS

    write_bundle(
        {view: models / view for view in VIEWS}, Protocol.read(protocol), json.loads(aggregation),
        spacing, size, slice_size, output,
    )  # fmt: skip
    log.info("wrote %s", output)
