"""From training slices to a model: `train`, `bundle`, `import-weights`, `export`, `cite`."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Annotated

import typer

from quicknat.cli.app import (
    BUNDLED_MODEL,
    MODEL_HELP,
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
from quicknat.errors import InputError
from quicknat.package_data import model_folder

log = logging.getLogger(__name__)


@app.command(rich_help_panel=STEPS)
def train(
    view: Annotated[View, typer.Argument(help="View to train.")],
    stacks: Annotated[Path, typer.Option(help="List of training stacks, one per line.")],
    validation: Annotated[Path, typer.Option(help="List of validation stacks; may be empty.")],
    settings: Annotated[str, typer.Option(help="Training settings as JSON.")],
    output: Annotated[Path, typer.Option(help="Folder of the model.")],
    protocol: ProtocolFile = QUICKNAT28,
    initial: Annotated[Path | None, typer.Option(help="Initial weights.")] = None,
    warm_start: Annotated[
        Path | None,
        typer.Option(help="This view's weights in an existing model folder; see above."),
    ] = None,
    warm_start_epochs: Annotated[
        int, typer.Option(min=0, help="Epochs after a warm start; 0: no warm start.")
    ] = 2,
    tissues: Annotated[
        Path | None, typer.Option(help="List of stacks from `slice-tissues`, to synthesize from.")
    ] = None,
    threads: Threads = 1,
) -> None:
    """Train one view's network, or resume an interrupted training.

    The state is saved in `state/` of the output folder after each epoch, every
    `checkpoint_minutes`, and on SIGTERM, SIGUSR1 and Ctrl-C. These end the command with status 75;
    the same command then resumes the training.

    With `--warm-start`, training starts from the existing model and is short, if training or
    validation scans were added and nothing else has changed; otherwise it starts as usual.

    Example: `quicknat train coronal --stacks train.txt --validation val.txt
    --settings '{"epochs": 10, "learning_rate": 0.005}' --output model/coronal`
    """
    from quicknat.config import TrainingSettings
    from quicknat.images.labels import Protocol
    from quicknat.training.setup import WarmStart
    from quicknat.training.trainer import train_view

    training, validating = read_list(stacks), read_list(validation)
    maps = read_list(tissues) if tissues else []
    chosen = TrainingSettings.read(parsed_json(settings, "--settings"), "--settings")
    table = Protocol.read(protocol)
    present = WarmStart(warm_start, warm_start_epochs) if warm_start and warm_start_epochs else None
    train_view(view, table, training, validating, chosen, output, initial, threads, present, maps)


@app.command(rich_help_panel=STEPS)
def bundle(
    models: Annotated[Path, typer.Argument(help="Folder with one trained model per view.")],
    output: Annotated[Path, typer.Option(help="Model folder to write.")],
    aggregation: Annotated[
        str, typer.Option(help="The section 'aggregation' of the configuration, as JSON.")
    ],
    protocol: ProtocolFile = QUICKNAT28,
    spacing: Spacing = 1.0,
    size: Size = 256,
    slice_size: SliceSize = 256,
) -> None:
    """Combine the networks of the three views into one self-contained model folder.

    Example: `quicknat bundle results/models/finetune --output results/model
    --aggregation '{"axial": 0.4, "coronal": 0.4, "sagittal": 0.2}'`
    """
    from quicknat.config import Aggregation
    from quicknat.images.labels import Protocol
    from quicknat.images.slices import VIEWS
    from quicknat.model.bundle import write_bundle

    chosen = Aggregation.read(parsed_json(aggregation, "--aggregation"), "--aggregation")
    folders, table = {view: models / view for view in VIEWS}, Protocol.read(protocol)
    write_bundle(folders, table, chosen, spacing, size, slice_size, output)
    log.info("wrote %s", output)


@app.command("import-weights")
def import_weights(
    weights: Annotated[Path, typer.Argument(help="State dict of the authors' PyTorch release.")],
    view: Annotated[View, typer.Option(help="View of these weights.")],
    protocol: ProtocolFile,
    output: Annotated[Path, typer.Option(help="….safetensors to write.")],
) -> None:
    """Convert published QuickNAT weights into a file to start training from.

    Only tensors are read: a file with a whole pickled network is refused, since loading it would
    run its code. The authors' slices are oriented differently, so fine-tune these weights.

    Example: `quicknat import-weights coronal.pth.tar --view coronal --output coronal.safetensors
    --protocol quicknat33`, then `quicknat train … --initial coronal.safetensors`
    """
    from quicknat.files import written_whole
    from quicknat.images.labels import Protocol
    from quicknat.model.weights import read_authors_weights, save_weights

    network, classes = read_authors_weights(weights), Protocol.read(protocol).class_names(view)
    if network.n_classes != len(classes):
        raise InputError(
            weights,
            f"has {network.n_classes} classes, {protocol.name} has {len(classes)}",
            "use the label table that the weights were trained with",
        )
    with written_whole(output) as (temporary,):
        save_weights(temporary, network.state_dict(), view, classes)
    log.info("%s: %s", output, network.describe())


@app.command()
def export(
    model: Annotated[Path, typer.Argument(parser=model_folder, metavar="MODEL", help=MODEL_HELP)],
    output: Annotated[Path, typer.Option(help="Folder to make.")],
) -> None:
    """Export a model as a MONAI bundle, whose network runs with torch and MONAI alone, and as ONNX.

    Its input and output are whole volumes; the bundle's `docs/README.md` describes them.
    `onnx/` has a network per view, for slices (needs the packages `onnx` and `onnxscript`).

    Example: `quicknat export results/model --output quicknat_bundle`
    """
    from quicknat.model.export import export_bundle

    for name in ("torch.onnx", "onnx_ir"):  # they warn of what they do themselves
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
    export_bundle(model, output)
    log.info("wrote %s", output)


@app.command()
def cite(
    model: Annotated[
        Path, typer.Argument(parser=model_folder, metavar="[MODEL]", help=MODEL_HELP)
    ] = BUNDLED_MODEL,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="Print the references instead.")] = False,
    workflow: Annotated[bool, typer.Option("--workflow", help="Snakemake was used.")] = False,
) -> None:
    """Print a methods paragraph to paste into a paper, with versions and citations.

    Example: `quicknat cite 1mm`; its references: `quicknat cite 1mm --bibtex`
    """
    from quicknat.files import sha256
    from quicknat.model.bundle import read_description
    from quicknat.model.card import bibtex as references
    from quicknat.model.card import methods, model_card

    described = read_description(model)
    card = model_card(described, sha256(model / "bundle.json"))
    paragraph = methods(described, card, workflow)
    typer.echo(references(paragraph) if bibtex else paragraph)
