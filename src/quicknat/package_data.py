"""Find label tables, bundled models and other package data by name or path."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from quicknat.errors import InputError

DATA = Path(__file__).parent / "data"
CARDS = DATA / "cards"  # of models, to fill in
TEMPLATES = DATA / "templates"  # of the report: pages, captions, assets
LABEL_TABLES = {path.stem: path for path in sorted((DATA / "labels").glob("*.tsv"))}
MODELS = {path.name: path for path in sorted((DATA / "weights").iterdir())}
# figures of a cohort's scores, each with a caption in TEMPLATES, and their titles
SCORE_FIGURES = {
    "dice": "Dice per structure",
    "bland_altman": "volumes, Bland–Altman",
    "confusion": "confused structures",
    "uncertainty": "uncertainty against Dice",
}


def label_table(name: str | Path) -> Path:
    """Return the path of a bundled label table, or the given path.

    Raises:
        InputError: the name is neither bundled nor a path.
    """
    return _find("label table", str(name), LABEL_TABLES)


def model_folder(name: str | Path) -> Path:
    """Return the folder of a bundled model, or the given path.

    Raises:
        InputError: the name is neither bundled nor a path.
    """
    return _find("model", str(name), MODELS)


def _find(kind: str, name: str, bundled: Mapping[str, Path]) -> Path:
    """Return the path for a name; names with a separator or ``.tsv`` are always paths."""
    if name in bundled:
        return bundled[name]
    if os.sep in name or name.endswith(".tsv") or os.path.lexists(name):
        return Path(name)
    problem = "is neither bundled nor a path"
    raise InputError(f"{kind} '{name}'", problem, f"allowed: {', '.join(bundled)}, or a path")
