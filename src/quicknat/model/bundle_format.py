"""What ``bundle.json`` of a model folder must hold, so that nothing else is believed of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quicknat.errors import InputError
from quicknat.files import sha256
from quicknat.images.labels import MAX_CLASSES
from quicknat.images.slices import VIEWS
from quicknat.old_settings import current_settings
from quicknat.package_data import MODELS
from quicknat.schema import check

# With 5 and before, conforming moved labels, see quicknat.reruns.GRID_FORMAT. The two bundled
# models were trained so, too, and are taken until they are trained again: their cards say it.
FORMAT = 6
AGAIN = "copy or bundle the model again"
NEW = "bundle it again, with this version of quicknat"

FILE = {"type": "string", "pattern": "^[^/\\\\]{1,99}$", "description": "must name a file here"}
SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "must be a SHA-256"}
SIDE = {"type": "integer", "minimum": 16, "maximum": 1024}
NUMBERS = {"type": "array", "items": {"type": "number"}}
RANGES = {"type": "array", "minItems": 2, "maxItems": 2, "items": NUMBERS}


def _object(**properties: dict) -> dict:
    """Schema of a mapping that has these keys; others may stand beside them."""
    return {"type": "object", "required": list(properties), "properties": properties}


SCHEMA = _object(
    protocol={"type": "string"},
    labels=_object(file=FILE, sha256=SHA256),
    conform=_object(spacing_mm={"type": "number", "minimum": 0.1, "maximum": 16}, size=SIDE),
    slices=_object(size={**SIDE, "multipleOf": 16}),
    aggregation=_object(**{view: {"type": "number", "minimum": 0} for view in VIEWS}),
    mirror={"type": "boolean"},
    shift={"type": "boolean"},
    prior_correction={"type": "number", "minimum": 0, "maximum": 1},
    views={"type": "object", "additionalProperties": _object(
        weights=FILE,
        sha256=SHA256,
        class_weights={"type": "array", "items": {"type": "number", "minimum": 0}},
        network={
            "type": "object",
            "additionalProperties": False,
            "required": ["n_classes"],
            "properties": {
                "n_classes": {"type": "integer", "minimum": 2, "maximum": MAX_CLASSES},
                "filters": {"type": "integer", "minimum": 2, "maximum": 1024},
                "squeeze_excitation": {"enum": ["none", "cse", "sse", "scse"]},
                "dropout": {"type": "number", "minimum": 0, "maximum": 1},
            },
        },
    )},
    population=_object(
        voxels=RANGES,
        asymmetry=RANGES,
        intensity=NUMBERS,
        outside={**NUMBERS, "minItems": 2, "maxItems": 2},
    ),
)  # fmt: skip


def read_description(folder: str | Path) -> dict:
    """Return ``bundle.json`` of a model folder, checked; settings have this version's names.

    The files that it names are not looked at.

    Raises:
        InputError: not a model folder, one of another version, or a value that cannot be.
    """
    folder = Path(folder)
    if not folder.is_dir():
        fix = f"check the path; bundled models: {', '.join(MODELS)}"
        raise InputError(folder, "no such model folder", fix)
    try:
        described = json.loads((folder / "bundle.json").read_text())
    except (OSError, ValueError, RecursionError) as error:
        problem = f"is not a model folder ({error})"
        raise InputError(folder, problem, "name the folder that 'quicknat bundle' wrote") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        found = described.get("format") if isinstance(described, dict) else None
        problem = f"has model format {found!s:.20}, not {FORMAT}"
        fix = "train it again: earlier versions moved labels by half a voxel" if found == 5 else NEW
        raise InputError(folder, problem, fix)
    if not isinstance(described.get("views"), dict) or set(described["views"]) != set(VIEWS):
        views = described.get("views")
        found = ", ".join(views) if isinstance(views, dict) else "none"
        raise InputError(folder, f"has the views {found}, not all three", "bundle it again")
    for entry in described["views"].values():
        for part in ("network", "training"):
            if isinstance(entry, dict) and isinstance(entry.get(part), dict):
                entry[part] = current_settings(entry[part], folder / "bundle.json")
    check(described, SCHEMA, folder / "bundle.json")
    classes = {view: entry["network"]["n_classes"] for view, entry in described["views"].items()}
    if classes != {view: len(entry["class_weights"]) for view, entry in described["views"].items()}:
        problem = "'class_weights' has other classes than the networks"
        raise InputError(folder / "bundle.json", problem, "bundle it again")
    sizes = {len(part) for key in ("voxels", "asymmetry") for part in described["population"][key]}
    if sizes | {len(described["population"]["intensity"])} != {classes["coronal"]}:
        problem = "'population' has other classes than the coronal network"
        raise InputError(folder / "bundle.json", problem, "bundle it again")
    return described


def require_files(
    folder: str | Path, described: Mapping[str, Any], also: Iterable[str] = ()
) -> None:
    """Check every file that a description names against its recorded SHA-256.

    Args:
        folder: the model.
        described: its ``bundle.json``, as :func:`read_description` gives it.
        also: names of files that must be there besides.

    Raises:
        InputError: a missing or changed file.
    """
    folder = Path(folder)
    recorded = [(entry["weights"], entry["sha256"]) for entry in described["views"].values()]
    recorded.insert(0, (described["labels"]["file"], described["labels"]["sha256"]))
    for name in (*(name for name, _ in recorded), *also):
        if Path(name).name != name or not (folder / name).is_file():
            raise InputError(folder, f"lacks its file '{name}'", AGAIN)
    for name, digest in recorded:
        if sha256(folder / name) != digest:
            raise InputError(folder / name, "has changed since the model was made", AGAIN)
