"""The mean of two models' weights: of one that is good at some brains, and its child at others.

    python benchmarks/accuracy/mean_of_models.py results/model older/model --output mean

Works for models one of which was trained on from the other, or both from a third, with one network
and label table. All else (statistics of the cohort, class weights) is that of the second.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer
from safetensors import safe_open
from safetensors.torch import save_file

from quicknat.files import folder_written_whole, sha256
from quicknat.images.slices import VIEWS
from quicknat.model.bundle import load_bundle


def mean(one: Path, other: Path, output: Path) -> None:
    """Write the mean of two safetensors files, with the metadata of the second."""
    with safe_open(one, "pt") as first, safe_open(other, "pt") as second:
        names = sorted(second.keys())
        if sorted(first.keys()) != names:
            raise SystemExit(f"{one} and {other} are not of one network")
        weights = {}
        for name in names:
            a, b = first.get_tensor(name), second.get_tensor(name)
            weights[name] = (a + b) / 2 if b.is_floating_point() else b
        save_file(weights, output, metadata=second.metadata())


def main(
    one: Annotated[Path, typer.Argument(help="A model folder.")],
    other: Annotated[Path, typer.Argument(help="Another, whose description is kept.")],
    output: Annotated[Path, typer.Option(help="Folder of the mean.")],
) -> None:
    """Write a model folder."""
    if output.exists():
        raise SystemExit(f"{output} exists")
    with folder_written_whole(output) as folder:
        shutil.copytree(other, folder, dirs_exist_ok=True)
        described = json.loads((folder / "bundle.json").read_text())
        for view in VIEWS:
            path = folder / f"{view}.safetensors"
            mean(one / path.name, other / path.name, path)
            described["views"][view]["sha256"] = sha256(path)
        (folder / "bundle.json").write_text(json.dumps(described, indent=2) + "\n")
        load_bundle(folder)  # refuses what would not segment


if __name__ == "__main__":
    typer.run(main)
