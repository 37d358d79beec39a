"""Say which model this is, and under which licence its weights are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from quicknat.files import sha256
from quicknat.package_data import MODELS

BUNDLED_LICENCE = "CC BY-NC 4.0 (not for commercial use)"
OWN_LICENCE = "not stated; the terms of the labels that it was trained on apply"


@dataclass(frozen=True)
class ModelCard:
    """Name, version of quicknat that wrote it, SHA-256 of ``bundle.json``, licence of weights.

    ``origin`` says whether the weights are bundled ones, trained from those, or neither.
    """

    name: str
    version: str
    sha256: str
    licence: str
    origin: Literal["bundled", "fine-tuned", "own"]


@cache
def _bundled() -> tuple[dict[str, str], set[str]]:
    """Return the names of the bundled models by SHA-256, and the SHA-256 of their weights."""
    views = [
        json.loads((folder / "bundle.json").read_bytes())["views"] for folder in MODELS.values()
    ]
    names = {sha256(folder / "bundle.json"): name for name, folder in MODELS.items()}
    entries = [entry for each in views for entry in each.values()]
    # with what they were trained from: earlier bundled weights
    weights = {part for entry in entries for part in (entry["sha256"], *_own_starts(entry))}
    return names, weights


def _own_starts(entry: dict[str, Any]) -> list[str]:
    """Return the SHA-256 of the weights that a view's training started from."""
    starts = entry.get("initial_sha256"), (entry.get("warm_start") or {}).get("sha256")
    return [start for start in starts if start]


def model_card(described: dict[str, Any], identity: str) -> ModelCard:
    """Return the card of a model, wherever its folder is.

    Args:
        described: content of its ``bundle.json``.
        identity: SHA-256 of that file.
    """
    names, weights = _bundled()
    version = str(described.get("quicknat", "unknown"))
    if identity in names:
        name = f"bundled model {names[identity]}"
        return ModelCard(name, version, identity, BUNDLED_LICENCE, "bundled")
    starts = {
        start
        for entry in described["views"].values()
        for start in (*entry.get("ancestors", []), *_own_starts(entry))
    }
    grid = f"{described['protocol']}, {described['conform']['spacing_mm']:g} mm"
    if {entry.get("sha256") for entry in described["views"].values()} & weights:
        name = f"bundled weights with other settings ({grid})"
        return ModelCard(name, version, identity, BUNDLED_LICENCE, "bundled")
    if starts & weights:
        name = f"model fine-tuned from the bundled weights ({grid})"
        return ModelCard(name, version, identity, BUNDLED_LICENCE, "fine-tuned")
    return ModelCard(f"own model ({grid})", version, identity, OWN_LICENCE, "own")


def read_card(folder: str | Path) -> ModelCard | None:
    """Return the card of a model folder, or None if there is none."""
    path = Path(folder) / "bundle.json"
    return model_card(json.loads(path.read_bytes()), sha256(path)) if path.exists() else None
