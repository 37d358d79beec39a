"""The trained models of a results folder, as far as a run must know them before it starts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quicknat.errors import InputError
from quicknat.images.slices import VIEWS

MODEL_FILES = ("model.safetensors", "model.json", "history.tsv")


def trained_stages(models: str | Path) -> list[str]:
    """Those of the stages ``pretrain`` and ``finetune`` whose three models are all there."""
    return [
        stage
        for stage in ("pretrain", "finetune")
        if all(Path(models, stage, view, name).exists() for view in VIEWS for name in MODEL_FILES)
    ]


def untrained_scans(models: str | Path, names: Iterable[str]) -> list[str]:
    """Those of the scans that one of the three models in a folder was not trained on.

    Raises:
        InputError: a model's description cannot be read.
    """
    known = []
    for view in VIEWS:
        path = Path(models, view, "model.json")
        try:
            known.append(set(json.loads(path.read_text())["training_scans"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            problem = f"describes no model ({error!r})"
            raise InputError(path, problem, "delete its folder to train it again") from error
    return [name for name in names if not all(name in scans for scans in known)]


def require_fit(bundle: str | Path, config: Mapping[str, Any]) -> None:
    """Refuse to keep models for a grid or label protocol that they were not trained for.

    Args:
        bundle: ``bundle.json`` of the models; where it is missing, nothing can be said.
        config: the whole configuration.

    Raises:
        InputError: naming the setting that has changed; or the description cannot be read.
    """
    if not Path(bundle).exists():
        return
    try:
        described = json.loads(Path(bundle).read_text())
        grid, slices, protocol = (described[key] for key in ("conform", "slices", "protocol"))
        wanted = {
            "conform.spacing_mm": (config["conform"]["spacing_mm"], grid["spacing_mm"]),
            "conform.size": (config["conform"]["size"], grid["size"]),
            "slices.size": (config["slices"]["size"], slices["size"]),
            "protocol": (Path(config["protocol"]).stem, protocol),
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        problem = f"describes no model ({error!r})"
        raise InputError(bundle, problem, "delete its folder to bundle it again") from error
    for key, (now, then) in wanted.items():
        if now != then:
            problem = f"'{key}' is {now}, and the models that new_scans=freeze keeps have {then}"
            raise InputError("configuration", problem, f"set it to {then}, or new_scans to retrain")
