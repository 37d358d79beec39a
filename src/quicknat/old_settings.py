"""Settings as earlier versions named them, in configurations and in the files of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from quicknat.errors import InputError
from quicknat.schema import dotted, shown

RENAMED = {"dice_over": "dice_reduction", "mirror": "flip", "step_epochs": "lr_step_epochs"}
VALUES = {
    "squeeze_excitation": {"NONE": "none", "CSE": "cse", "SSE": "sse", "CSSE": "scse"},
}
# settings that are gone: the value that asks for what happens now, and what to do with another
GONE = {
    "accumulate": (1, "remove it, and raise 'batch_size' instead"),
    "devices": (1, "remove it: one GPU trains a view, and 'batch_size' is all of a step's slices"),
    "kernel": (5, "the large convolutions of a network are 5 × 5"),
    "keep_slices": (None, "remove it: slices are always kept"),
}
FREEZE = "copy results/model elsewhere, and set 'model' to that folder"


def current_settings(
    values: Mapping[str, Any],
    where: str | Path,
    notify: Callable[[str], object] | None = None,
    section: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return settings, and those of the sections among them, under the names of this version.

    Args:
        values: under old or new names; unknown ones are left as they are.
        where: what a message names.
        notify: gets a line for each that has an old name or is gone; None: no notices.
        section: that these are the settings of.

    Raises:
        InputError: a setting asks for what is gone, or is given under both names.
    """
    found: dict[str, Any] = {}
    notice = notify or (lambda line: None)
    for key, value in values.items():
        path = dotted([*section, key])
        if key in GONE:
            harmless, fix = GONE[key]
            if harmless is not None and value != harmless:
                raise InputError(where, f"'{path}' is {shown(value)}, but that is gone", fix)
            notice(f"{where}: '{path}' is no longer a setting; remove it")
            continue
        if key == "new_scans" and value == "freeze":
            raise InputError(where, f"'{path}' is freeze, which is gone", FREEZE)
        name = RENAMED.get(key, key)
        if name != key:
            if name in values:
                raise InputError(where, f"'{path}' is the old name of '{name}'", "remove it")
            notice(f"{where}: '{path}' is now '{dotted([*section, name])}'; please rename it")
        if isinstance(value, str) and value in VALUES.get(name, {}):
            notice(f"{where}: '{path}: {value}' is now '{VALUES[name][value]}'; please rename it")
            value = VALUES[name][value]
        if isinstance(value, dict) and not section:
            value = current_settings(value, where, notify, (key,))
        found[name] = value
    return found
