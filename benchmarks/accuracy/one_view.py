"""What one view's network learns with other settings, on people that it was not trained on.

    python benchmarks/accuracy/one_view.py results/slices/coronal/*.npy --folder one_view
    python benchmarks/accuracy/one_view.py results/slices/coronal/*.npy --folder one_view \
        --settings '{"augment": false}'

``quicknat train`` on every second stack, Dice on the slices of the others, then the other way
round; no other views, no way back to the scan's own grid. Each call adds two rows to
FOLDER/scores.tsv. What differs here is worth trying in the workflow, no more. One stack is one
participant.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer

from quicknat.config import TrainingSettings
from quicknat.images.labels import Protocol
from quicknat.images.slices import VIEWS, open_stack
from quicknat.model.network import NetworkSettings, QuickNAT
from quicknat.model.views import slice_probabilities
from quicknat.model.weights import load_weights
from quicknat.package_data import label_table
from quicknat.training.trainer import train_view

DEFAULTS = {
    "epochs": 8, "learning_rate": 0.005, "optimizer": "adamw", "warmup": 0.05, "compile": False,
    "class_weight_power": 0.33, "class_weight_cap": 10.0, "precision": "32-true",
    "network": {"filters": 16, "dropout": 0.0},
}  # fmt: skip


@torch.inference_mode()
def dice(network: QuickNAT, stack: Path) -> float:
    """Mean Dice over the structures, all slices of a stack together."""
    pairs = open_stack(stack)
    images = torch.from_numpy(pairs[:, 0].copy())
    whole = torch.arange(len(images)), slice(None), slice(None)
    parts = slice_probabilities(network, images, [whole], batch=8)
    found = np.concatenate([values.argmax(dim=-1).numpy() for _, values in parts])
    truth, scores = pairs[:, 1], []
    for index in range(1, network.n_classes):
        one, other = found == index, truth == index
        scores.append(2 * np.sum(one & other) / max(1, np.sum(one) + np.sum(other)))
    return float(np.mean(scores))


def main(
    stacks: Annotated[list[Path], typer.Argument(help="View stacks of one view.")],
    folder: Annotated[Path, typer.Option(help="For models and the table.")],
    settings: Annotated[str, typer.Option(help="Training settings that differ, as JSON.")] = "{}",
    initial: Annotated[
        Path | None, typer.Option(help="Folder of an earlier call whose models to start from.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="Label table.")] = "quicknat28",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Train on half of the stacks, score the other half, and the other way round."""
    chosen = TrainingSettings.read(DEFAULTS | json.loads(settings), "--settings")
    table, stacks = Protocol.read(label_table(protocol)), sorted(stacks)
    (view,) = {path.parent.name for path in stacks} & set(VIEWS)
    name = hashlib.sha256(chosen.model_dump_json().encode()).hexdigest()[:8]
    for fold in (0, 1):
        train, test = stacks[fold::2], stacks[1 - fold :: 2]
        output, start = folder / f"{name}_{fold}", time.process_time()
        (before,) = initial.glob(f"*_{fold}/model.safetensors") if initial else [None]
        train_view(view, table, train, [], chosen, output, before, threads)
        network = QuickNAT(
            table.n_classes(view), NetworkSettings(**chosen.network.model_dump())
        ).eval()
        classes = table.class_names(view)
        load_weights(network, output / "model.safetensors", view, classes)
        scores = [dice(network, path) for path in test]
        row = {"settings": settings, "fold": fold, "dice": round(float(np.mean(scores)), 4)}
        row |= {"cpu_seconds": round(time.process_time() - start)}
        row |= {path.stem: round(score, 4) for path, score in zip(test, scores, strict=True)}
        print(row, flush=True)
        with (folder / "scores.tsv").open("a") as stream:
            pd.DataFrame([row])[["settings", "fold", "dice", "cpu_seconds"]].to_csv(
                stream, sep="\t", index=False, header=not stream.tell()
            )


if __name__ == "__main__":
    typer.run(main)
