"""Make a model folder of what ``on_gpu.py`` brought back.

python benchmarks/accuracy/gpu/to_model.py out --stage second --output model
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from quicknat.config import Network, TrainingSettings
from quicknat.images.labels import Protocol
from quicknat.images.slices import VIEWS
from quicknat.images.training_stats import ScanStatistics, summarise
from quicknat.model.bundle import write_bundle
from quicknat.model.losses import CombinedLoss
from quicknat.package_data import label_table
from quicknat.training.model_files import write_model
from quicknat.training.setup import TrainingSetup

PROTOCOL = label_table("quicknat28")
SPACING_MM, CONFORM_SIZE, WINDOW = 1.0, 256, 192  # of pack.py


def training_stats(scans: list[dict], protocol: Protocol, view: str) -> dict:
    """Of what a view learnt from, as a training in the workflow sums it up."""
    statistics = []
    for scan in scans:
        voxels, sums = np.array(scan["voxels"]), np.array(scan["sums"])
        mean = np.divide(sums, voxels, out=np.full(len(sums), np.nan), where=voxels > 0)
        statistics.append(ScanStatistics(voxels, mean, scan["outside"]))
    return summarise(statistics, protocol.partners(view))


def main(
    folder: Annotated[Path, typer.Argument(help="OUTPUT of on_gpu.py.")],
    output: Annotated[Path, typer.Option(help="Model folder.")],
    stage: Annotated[str, typer.Option(help="first or second.")] = "second",
) -> None:
    """Write the model."""
    results = json.loads((folder / "results.json").read_text())
    given, protocol = results["given"], Protocol.read(PROTOCOL)
    network = Network(filters=int(given["filters"]), dropout=float(given["dropout"]))
    with tempfile.TemporaryDirectory() as place:
        for view in VIEWS:
            facts = results[stage][view]
            settings = TrainingSettings(
                epochs=round(facts["slices"] / facts["of"]), learning_rate=facts["rate"],
                optimizer="adamw", warmup=0.05, batch_size=int(given["batch"]), compile=False,
                precision="bf16-mixed", flip=True, class_weight_power=0.33, class_weight_cap=10,
                network=network,
            )  # fmt: skip
            names = [results["names"][scan["number"]] for scan in facts["scans"]]
            setup = TrainingSetup(
                view=view, protocol=protocol.name, classes=protocol.class_names(view),
                train=[f"sub-{name.replace(' ', 'y')}" for name in names], validation=[],
                settings=settings, output=Path(place) / view, initial=None, threads=1,
                slice_shape=(WINDOW, WINDOW), counts=np.array(facts["counts"]),
                training_stats=training_stats(facts["scans"], protocol, view),
                fingerprint={
                    "initial": {"weights": None},
                    # what no later training's can equal: no warm start from here
                    "training scan": dict.fromkeys(names, "on_gpu.py"), "validation scan": {},
                },
                warm_start=None,
            )  # fmt: skip
            weights = torch.load(folder / f"{stage}_{view}.pt", weights_only=True)
            loss = CombinedLoss(np.array(facts["weights"], np.float32), facts["edge"], "batch")
            known = {
                "best_epoch": settings.epochs, "best_val_dice": None, "device": "cuda",
                "device_name": results.get("gpu", ""), "precision": "bf16-mixed", "compiled": False,
            }  # fmt: skip
            write_model(setup, loss, weights, [], known)
        write_bundle(
            {view: Path(place) / view for view in VIEWS}, protocol,
            {"coronal": 0.33, "axial": 0.34, "sagittal": 0.33},
            SPACING_MM, CONFORM_SIZE, WINDOW, output, prior_correction=0.8,
        )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
