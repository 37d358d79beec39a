"""The files of one view's trained model: weights, description, history."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import quicknat
from quicknat.files import written_whole
from quicknat.reruns import GRID_FORMAT

if TYPE_CHECKING:  # torch is slow to import, and the workflow wants no more than the names
    import torch

    from quicknat.model.losses import CombinedLoss
    from quicknat.training.plan import Plan

MODEL_FILES = ("model.safetensors", "model.json", "history.tsv")


def write_model(
    plan: Plan,
    loss: CombinedLoss,
    weights: dict[str, torch.Tensor],
    history: list[dict],
    facts: dict,
) -> None:
    """Write all files of a training into ``plan.output``, or none.

    Args:
        plan: what was to be done.
        loss: gives the class and edge weights.
        weights: state dict to keep.
        history: one row per epoch.
        facts: what only the training knows, such as its best epoch and the device.
    """
    from quicknat.model.weights import save_weights

    description = {
        "view": plan.view,
        "protocol": plan.protocol,
        "classes": plan.classes,
        "slice_shape": list(plan.slice_shape),
        "grid_format": GRID_FORMAT,
        "network": {"n_classes": len(plan.classes), **plan.settings.network.model_dump()},
        "training": plan.settings.model_dump(exclude={"network"}),
        "class_counts": plan.counts.tolist(),
        "population": plan.population,
        "class_weights": loss.weights.cpu().numpy().round(4).tolist(),
        "edge_weight": round(loss.edge, 4),
        "initial_sha256": plan.fingerprint["initial"]["weights"],
        "warm_start": plan.warm_start,
        "training_scans": [Path(path).stem for path in (*plan.train, *plan.tissues)],
        "validation_scans": [Path(path).stem for path in plan.validation],
        "data": {key: plan.fingerprint[key] for key in ("training scan", "validation scan")},
        **facts,
        "versions": {
            "quicknat": quicknat.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "monai", "pydantic")},
        },
    }
    with written_whole(*(plan.output / name for name in MODEL_FILES)) as (model, sidecar, table):
        save_weights(model, weights, plan.view, plan.classes)
        sidecar.write_text(json.dumps(description, indent=2) + "\n")
        pd.DataFrame(history).to_csv(table, sep="\t", index=False, float_format="%.6g")
