"""When a training may start from the weights of the present model instead of anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quicknat.files import sha256
from quicknat.reruns import RUNTIME_ONLY
from quicknat.training.optimizers import TrainingSettings


@dataclass(frozen=True)
class WarmStart:
    """A view's weights in a model folder (``{view}.safetensors``), and how many epochs from there.

    The folder's ``bundle.json`` says what they were trained on. It need not exist yet.
    """

    weights: Path
    epochs: int


def obstacle(
    start: WarmStart, view: str, settings: TrainingSettings, fingerprint: Mapping[str, Any]
) -> str:
    """Why a training cannot start from these weights; "" where it can.

    It can where nothing but new training or validation scans separates it from the training that
    made them: with anything else changed, the weights have learnt what no longer holds.

    Args:
        settings: of a training from the stage's usual start.
        fingerprint: of the same, see :func:`quicknat.training.plan.make_plan`.
    """
    folder = start.weights.parent
    if not start.weights.exists() or not (folder / "bundle.json").exists():
        return f"{folder} holds no finished model"
    try:
        entry = json.loads((folder / "bundle.json").read_text())["views"][view]
        if entry["sha256"] != sha256(start.weights):
            return f"{start.weights} has changed since the model was made"
        then, initial = entry["training"], entry["initial_sha256"]
        data = {part: entry["data"][part] for part in ("training scan", "validation scan")}
        epochs = (entry["warm_start"] or {}).get("stage_epochs", then["epochs"])
        network, classes = dict(entry["network"]), entry["classes"]
        network.pop("n_classes")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{folder / 'bundle.json'} does not say enough about the model ({error!r})"
    if classes != fingerprint["protocol"]["classes"]:
        return "it has other classes"
    if network != fingerprint["network"]:
        return "the network has changed"
    now = {key: value for key, value in asdict(settings).items() if key != "network"}
    then = then | {"epochs": epochs}
    for key in sorted(now.keys() | then.keys()):
        if key not in RUNTIME_ONLY and now.get(key) != then.get(key):
            return f"setting {key} was {then.get(key)}, is {now.get(key)}"
    if initial != fingerprint["initial"]["weights"]:
        return "the weights to fine-tune have changed"
    for name, checksum in data["training scan"].items():
        if fingerprint["training scan"].get(name) != checksum:
            return f"training scan {name} has changed or is gone"
    if all(fingerprint[part].keys() <= data[part].keys() for part in data):
        return "no scan is new"
    return ""
