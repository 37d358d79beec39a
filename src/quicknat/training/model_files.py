"""Write the files of one view's trained model: weights, description, history."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import quicknat
from quicknat.files import sha256, written_whole
from quicknat.reruns import GRID_FORMAT

if TYPE_CHECKING:  # torch is slow to import, and the workflow only needs MODEL_FILES
    import torch

    from quicknat.model.losses import CombinedLoss
    from quicknat.training.setup import TrainingSetup

MODEL_FILES = ("model.safetensors", "model.json", "history.tsv")


def write_model(
    setup: TrainingSetup,
    loss: CombinedLoss,
    weights: dict[str, torch.Tensor],
    history: list[dict],
    facts: dict,
) -> None:
    """Write all files of a training to ``setup.output``, or none.

    Args:
        setup: of the training.
        loss: has the class and edge weights.
        weights: state dict to save.
        history: one row per epoch.
        facts: results of the training, e.g. its best epoch and device.
    """
    from quicknat.model.weights import save_weights

    description = {
        "view": setup.view,
        "protocol": setup.protocol,
        "classes": setup.classes,
        "slice_shape": list(setup.slice_shape),
        "grid_format": GRID_FORMAT,
        "network": {"n_classes": len(setup.classes), **setup.settings.network.model_dump()},
        "training": setup.settings.model_dump(exclude={"network"}),
        "class_counts": setup.counts.tolist(),
        "population": setup.training_stats,
        "class_weights": loss.weights.cpu().numpy().round(4).tolist(),
        "edge_weight": round(loss.edge, 4),
        "initial_sha256": setup.fingerprint["initial"]["weights"],
        **ancestry(setup.initial, setup.view),
        "warm_start": setup.warm_start,
        "training_scans": [Path(path).stem for path in (*setup.train, *setup.tissues)],
        "validation_scans": [Path(path).stem for path in setup.validation],
        "data": {key: setup.fingerprint[key] for key in ("training scan", "validation scan")},
        **facts,
        "versions": {
            "quicknat": quicknat.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "monai", "pydantic")},
        },
    }
    with written_whole(*(setup.output / name for name in MODEL_FILES)) as (model, sidecar, table):
        save_weights(model, weights, setup.view, setup.classes)
        sidecar.write_text(json.dumps(description, indent=2) + "\n", "utf-8")
        pd.DataFrame(history).to_csv(table, sep="\t", index=False, float_format="%.6g")


def ancestry(initial: str | None, view: str) -> dict[str, list[str]]:
    """Return what initial weights go back to, for licences and for tests on unseen participants.

    Returns:
        ``ancestors``: SHA-256 of all earlier weights. ``ancestor_scans``: names of the scans that
        they were trained on and chosen by, as far as a model's files beside the weights say.
    """
    if not initial:
        return {"ancestors": [], "ancestor_scans": []}
    digests, scans = {sha256(initial)}, set[str]()
    for name in ("model.json", "bundle.json"):
        path = Path(initial).with_name(name)
        if path.exists():
            described = json.loads(path.read_bytes())
            described = described.get("views", {}).get(view, described)
            digests |= {described.get("initial_sha256"), *described.get("ancestors", [])} - {None}
            for key in ("training_scans", "validation_scans", "ancestor_scans"):
                scans |= set(described.get(key, []))
    return {"ancestors": sorted(digests), "ancestor_scans": sorted(scans)}
