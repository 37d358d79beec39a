"""The command that exports a model for other programs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from quicknat.cli.app import MODEL_HELP, app
from quicknat.package_data import model_folder

log = logging.getLogger(__name__)


@app.command()
def export(
    model: Annotated[Path, typer.Argument(parser=model_folder, metavar="MODEL", help=MODEL_HELP)],
    output: Annotated[Path, typer.Option(help="Folder to make.")],
) -> None:
    """Export a model as a MONAI bundle, whose network runs with torch and MONAI alone, and as ONNX.

    It takes and gives whole volumes; what the volumes must be is in the bundle's `docs/README.md`.
    `onnx/` has a network per view, for slices (needs the packages `onnx` and `onnxscript`).

    Example: `quicknat export results/model --output quicknat_bundle`
    """
    from quicknat.model.export import export_bundle

    export_bundle(model, output)
    log.info("wrote %s", output)
