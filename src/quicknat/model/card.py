"""Identify a model, the licence of its weights, and how to cite it."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import quicknat
from quicknat.files import sha256
from quicknat.package_data import CARDS, DATA, MODELS

BUNDLED_LICENCE = "CC BY-NC 4.0 (not for commercial use)"
OWN_LICENCE = "not stated; the terms of the labels that it was trained on apply"
PACKAGES = {"PyTorch": "torch", "NiBabel": "nibabel", "NumPy": "numpy", "SciPy": "scipy"}
REFERENCES = {  # as cited in the methods paragraph: key in references.bib
    "Guha Roy et al., NeuroImage 186 (2019)": "roy2019quicknat",
    "Guha Roy et al., IEEE TMI 38 (2019)": "roy2019recalibrating",
    "OASIS; Marcus et al., 2007": "marcus2007oasis",
    "Mölder et al., F1000Research 10:33 (2021)": "molder2021snakemake",
}
Origin = Literal["bundled", "fine-tuned", "own"]


@dataclass(frozen=True)
class ModelCard:
    """Name, version of quicknat that wrote it, SHA-256 of ``bundle.json``, licence of weights.

    ``origin`` says whether the weights are bundled ones, trained from those, or neither.
    """

    name: str
    version: str
    sha256: str
    licence: str
    origin: Origin


@cache
def _bundled() -> tuple[dict[str, str], set[str]]:
    """Return the names of the bundled models by SHA-256, and the SHA-256 of their weights."""
    views = [
        json.loads((folder / "bundle.json").read_bytes())["views"] for folder in MODELS.values()
    ]
    names = {sha256(folder / "bundle.json"): name for name, folder in MODELS.items()}
    entries = [entry for each in views for entry in each.values()]
    # with what they were trained from: earlier bundled weights
    weights = {entry["sha256"] for entry in entries}.union(*map(starts, entries))
    return names, weights


def starts(entry: dict[str, Any]) -> set[str]:
    """Return the SHA-256 of all weights that a view's training, and theirs, started from."""
    direct = entry.get("initial_sha256"), (entry.get("warm_start") or {}).get("sha256")
    return {start for start in (*direct, *entry.get("ancestors", [])) if start}


def model_card(described: dict[str, Any], identity: str) -> ModelCard:
    """Return the card of a model, by the content of its ``bundle.json`` and that file's SHA-256."""
    names, weights = _bundled()
    views = described["views"].values()
    ancestors = set().union(*map(starts, views))
    grid = f"{described['protocol']}, {described['conform']['spacing_mm']:g} mm"
    licence = BUNDLED_LICENCE
    origin: Origin = "bundled"
    if identity in names:
        name = f"bundled model {names[identity]}"
    elif {view.get("sha256") for view in views} & weights:
        name = f"bundled weights with other settings ({grid})"
    elif ancestors & weights:
        name, origin = f"model fine-tuned from the bundled weights ({grid})", "fine-tuned"
    else:
        name, licence, origin = f"own model ({grid})", OWN_LICENCE, "own"
    return ModelCard(name, str(described.get("quicknat", "unknown")), identity, licence, origin)


def read_card(folder: str | Path) -> ModelCard | None:
    """Return the card of a model folder, or None if there is none."""
    path = Path(folder) / "bundle.json"
    return model_card(json.loads(path.read_bytes()), sha256(path)) if path.exists() else None


def filled(template: str, /, **values: Any) -> str:
    """Return a text of ``data/cards`` with values in its places."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(CARDS), undefined=StrictUndefined,
        autoescape=select_autoescape(), keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template(template).render(values)


def methods(bundle: Mapping[str, Any], card: ModelCard, workflow: bool = False) -> str:
    """Return the methods paragraph of segmentations with a model, to paste into a paper.

    Args:
        bundle: the model's ``bundle.json``.
        card: of the model; bundled weights, and those trained from them, get data and licence.
        workflow: whether Snakemake ran it.
    """
    views = bundle["views"]
    kind = views["coronal"]["network"]["squeeze_excitation"].lower()
    text = filled(
        "methods.txt.j2",
        **{"mirror": False, "shift": False, "prior_correction": 0, **bundle},
        card=card,
        coronal=views["coronal"],
        recalibrated=kind in ("csse", "scse"),
        scans=len({scan for view in views.values() for scan in view.get("training_scans", ())}),
        version=quicknat.__version__,
        snakemake=version("snakemake") if workflow else "",
        python=platform.python_version(),
        packages={name: version(package) for name, package in PACKAGES.items()},
    )
    return " ".join(text.split())


def bibtex(paragraph: str) -> str:
    """Return the BibTeX entries of the references that a methods paragraph cites."""
    entries = (DATA / "references.bib").read_text("utf-8").strip().split("\n\n")
    cited = {key for text, key in REFERENCES.items() if text in paragraph}
    return "\n\n".join(
        entry for entry in entries if re.split("[{,]", entry, maxsplit=2)[1] in cited
    )
