"""Save and load one view's weights, in a file that cannot run code and says what they are for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from quicknat.errors import InputError
from quicknat.model.network import QuickNAT

# what is multiplied with the slices themselves
FIRST_LAYERS = re.compile(r"encoders\.0\.(norms\.\d\.(weight|bias|running_.*)|convs\.\d\.weight)")
METADATA = "quicknat"
OWN_TABLE = "use the label table that it was trained with"


def save_weights(
    path: str | Path, state: Mapping[str, Tensor], view: str, classes: Sequence[str]
) -> None:
    """Write a network's state dict as safetensors, with its view and the names of its classes."""
    tensors = {key: value.contiguous().cpu() for key, value in state.items()}
    # one entry, since safetensors writes several in an order that changes from file to file
    described = json.dumps({"view": view, "classes": list(classes)})
    save_file(tensors, path, metadata={METADATA: described})


def widened(state: Mapping[str, Tensor], slices: int) -> dict[str, Tensor]:
    """Return a network's weights for one that sees more slices, the new ones without effect yet.

    Weights of a network with as many slices stay as they are.
    """
    found, own = dict(state), len(state.get("encoders.0.norms.0.weight", range(slices)))
    for key, value in state.items():
        if own >= slices or not FIRST_LAYERS.fullmatch(key):
            continue
        axis = 1 if value.ndim == 4 else 0  # input channels, the slices first
        given, rest = value.split([own, value.shape[axis] - own], axis)
        outer = given.narrow(axis, own // 2, 1) * (value.ndim == 1)  # no effect of a convolution
        half = [outer] * ((slices - own) // 2)
        found[key] = torch.cat([*half, given, *half, rest], axis)
    return found


def load_weights(
    network: QuickNAT,
    path: str | Path,
    view: str,
    classes: Sequence[str],
    fewer_slices: bool = False,
) -> None:
    """Load weights into a network of exactly that shape, view and label table.

    A network on the device ``meta`` comes to the CPU once the file is known to fit. With
    `fewer_slices` the weights may be those of a network that saw fewer, see :func:`widened`.

    Raises:
        InputError: the file is damaged, or holds another network's weights.
    """
    try:
        with safe_open(path, "pt") as file:
            described = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        found = described.get("view"), list(described.get("classes", []))
    except Exception as error:  # safetensors raises many kinds; all mean the same here
        raise InputError(
            path, f"holds no weights ({_first_line(error)})", "copy or train it again"
        ) from error
    if found[0] != view:
        raise InputError(
            path, f"is for the {found[0] or 'unknown'} view, not the {view} one",
            "give that view's own weights",
        )  # fmt: skip
    if len(found[1]) != len(classes):
        raise InputError(path, f"has {len(found[1])} classes, not {len(classes)}", OWN_TABLE)
    for number, (theirs, ours) in enumerate(zip(found[1], classes, strict=True)):
        if theirs != ours:
            raise InputError(
                path,
                f"is for another label table: its class {number} is '{theirs}', not '{ours}'",
                OWN_TABLE,
            )
    state = widened(state, network.settings.slices) if fewer_slices else state
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    for key in sorted(wanted.keys() | shapes.keys()):
        if wanted.get(key) != shapes.get(key):
            fix = "the settings under 'network' must be those that it was trained with"
            problem = f"'{key}' is {shapes.get(key, 'absent')}, not {wanted.get(key, 'expected')}"
            raise InputError(path, f"is for another network ({problem})", fix)
    if next(network.parameters()).is_meta:
        network.to_empty(device="cpu")
    network.load_state_dict(state)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines[1:] if line), lines[0]) if lines else type(error).__name__
