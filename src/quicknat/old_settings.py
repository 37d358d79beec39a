"""Translate setting names of earlier versions, in configurations and model files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from quicknat.errors import InputError
from quicknat.validation import dotted, shown

RENAMED = {"dice_over": "dice_reduction", "mirror": "flip", "step_epochs": "lr_step_epochs"}
VALUES = {
    "squeeze_excitation": {"NONE": "none", "CSE": "cse", "SSE": "sse", "CSSE": "scse"},
}
# removed settings: the value that equals current behaviour, and what to do about others
GONE = {
    "accumulate": (1, "remove it, and raise 'batch_size' instead"),
    "devices": (1, "remove it: each view uses one GPU, and 'batch_size' is the slices of a step"),
    "kernel": (5, "remove it: the large convolutions are always 5 × 5"),
    "keep_slices": (None, "remove it: slices are always kept"),
    "workers": (None, "remove it: batches are made on the training's device"),
}
FREEZE = "copy results/model to another folder, and set 'model' to it"


def current_settings(
    values: Mapping[str, Any],
    where: str | Path,
    notify: Callable[[str], object] | None = None,
    section: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return settings, including those in sections, under their current names.

    Args:
        values: settings under old or new names; unknown ones are kept.
        where: origin of the settings, named in messages.
        notify: called with a notice for each old or removed name; None: no notices.
        section: the section of these settings.

    Raises:
        InputError: a setting asks for a removed feature, or is given under both names.
    """
    found: dict[str, Any] = {}
    notice = notify or (lambda line: None)
    for key, value in values.items():
        path = dotted([*section, key])
        if key in GONE:
            harmless, fix = GONE[key]
            if harmless is not None and value != harmless:
                raise InputError(where, f"'{path}' is {shown(value)}, but was removed", fix)
            notice(f"{where}: '{path}' is no longer a setting; remove it")
            continue
        if key == "new_scans" and value == "freeze":
            raise InputError(where, f"'{path}' is freeze, which was removed", FREEZE)
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
