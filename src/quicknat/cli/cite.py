"""The command that writes the methods paragraph of a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quicknat.cli.app import BUNDLED_MODEL, MODEL_HELP, app
from quicknat.package_data import model_folder


@app.command()
def cite(
    model: Annotated[
        Path, typer.Argument(parser=model_folder, metavar="[MODEL]", help=MODEL_HELP)
    ] = BUNDLED_MODEL,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="Print the references instead.")] = False,
    workflow: Annotated[bool, typer.Option("--workflow", help="Snakemake was used.")] = False,
) -> None:
    """Print a methods paragraph to paste into a paper, with versions and citations.

    Example: `quicknat cite 1mm`, its references: `quicknat cite 1mm --bibtex`
    """
    from quicknat.files import sha256
    from quicknat.model.bundle import read_description
    from quicknat.model.card import bibtex as references
    from quicknat.model.card import methods, model_card

    described = read_description(model)
    card = model_card(described, sha256(model / "bundle.json"))
    paragraph = methods(described, card, workflow)
    typer.echo(references(paragraph) if bibtex else paragraph)
