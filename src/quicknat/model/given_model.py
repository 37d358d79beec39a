"""A finished model that a run is given, instead of training one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quicknat.errors import InputError
from quicknat.images.labels import Protocol
from quicknat.images.slices import VIEWS
from quicknat.model.bundle_format import read_description, require_files
from quicknat.package_data import label_table

BUNDLE_FILES = (
    *(f"{view}.safetensors" for view in VIEWS),
    "labels.tsv",
    "README.md",
    "bundle.json",
)


def given_settings(folder: str | Path, protocol: str) -> dict[str, Any]:
    """Return what a model determines about a run: sections and keys of the configuration.

    Args:
        folder: the model.
        protocol: the configured label table; kept where it has the name of the model's.

    Raises:
        InputError: not a model folder; its other files are not looked at.
    """
    described = read_description(folder)
    own = described["protocol"]
    passes = {"flip": described["mirror"]}
    passes |= {key: described[key] for key in ("shift", "prior_correction")}
    return {
        "protocol": protocol if Path(protocol).stem == own else own,
        "conform": {key: described["conform"][key] for key in ("spacing_mm", "size")},
        "slices": {"size": described["slices"]["size"]},
        "aggregation": {view: described["aggregation"][view] for view in VIEWS} | passes,
    }


def require_usable(folder: str | Path, protocol: str | Path, own: str | Path) -> None:
    """Refuse a model before anything is computed with it.

    Args:
        folder: the model, as :func:`quicknat.model.bundle.write_bundle` made it.
        protocol: name or path of the label table that the run takes for the model's.
        own: folder that the run copies the model to.

    Raises:
        InputError: a missing or changed file, another label table, or the run's own folder.
    """
    folder = Path(folder)
    if folder.resolve() == Path(own).resolve():
        fix = "copy it to another folder first: this workflow writes there"
        raise InputError("configuration", f"'model' is {folder}", fix)
    require_files(folder, read_description(folder), BUNDLE_FILES)
    try:
        table = label_table(protocol)
    except InputError as error:
        problem = f"is a model for the label table '{protocol}', which is no bundled one"
        fix = f"copy its labels.tsv to {protocol}.tsv, and set 'protocol' to that path"
        raise InputError(folder, problem, fix) from error
    if Protocol.read(folder / "labels.tsv").names != Protocol.read(table).names:
        problem = f"has other structures than {table}"
        raise InputError(
            folder / "labels.tsv", problem, "put the table that it was trained with there"
        )
