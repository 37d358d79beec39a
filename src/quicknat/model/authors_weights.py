"""Weights of the authors' PyTorch release, under our names."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from quicknat.errors import InputError, one_line
from quicknat.model.network import LEVELS, NetworkSettings, QuickNAT, SqueezeExcitation

# names in the authors' state dict -> ours; their forward pass runs decode4, 1, 2, 3 downwards
_BLOCKS = {
    **{f"encode{level + 1}": ("encoders", level) for level in range(LEVELS)},
    "bottleneck": ("bottleneck", None),
    **{
        f"decode{number}": ("decoders", level) for number, level in ((4, 3), (1, 2), (2, 1), (3, 0))
    },
}
_LAYERS = {
    **{f"conv{i}": f"convs.{i - 1}" for i in (1, 2, 3)},
    **{f"batchnorm{i}": f"norms.{i - 1}" for i in (1, 2, 3)},
    "prelu": "prelu",
}
_GATES = {
    "cSE.fc1": "channel.squeeze",
    "cSE.fc2": "channel.excite",
    "fc1": "channel.squeeze",
    "fc2": "channel.excite",
    "sSE.conv": "spatial.gate",
    "conv": "spatial.gate",
}

# by which gates there are, channel and spatial
_KINDS: dict[tuple[bool, bool], SqueezeExcitation] = {
    (False, False): "none",
    (True, False): "cse",
    (False, True): "sse",
    (True, True): "scse",
}


def _our_key(key: str) -> str | None:
    """Our name of one of the authors' parameters; None for those that their network never uses."""
    if key.startswith("classifier.conv."):
        return key.replace("classifier.conv.", "classifier.")
    match = re.fullmatch(r"(\w+?)\.(SELayer\.)?(.+)\.(\w+)", key)
    block = _BLOCKS.get(match[1]) if match else None
    layers = _GATES if match and match[2] else _LAYERS
    layer = layers.get(match[3]) if match else None
    if match is None or block is None or layer is None:
        raise InputError("the authors' weights", f"'{key}' is not a parameter of QuickNAT")
    name, level = block
    if match[2]:
        if level is None:
            return None  # the bottleneck owns a gate that its forward pass skips
        return f"{name[:-1]}_gates.{level}.{layer}.{match[4]}"
    return f"{name}.{layer}.{match[4]}" if level is None else f"{name}.{level}.{layer}.{match[4]}"


def _named(keys: Iterable[str]) -> dict[str, str]:
    """Our names of their parameters -> theirs, without those that their network never uses."""
    return {name: key for key in keys if (name := _our_key(key))}


def _their_keys(kind: SqueezeExcitation) -> dict[str, str]:
    """Our names of all parameters of a network of the authors' -> their names."""
    gates = [f"SELayer.{gate}" for gate in _GATES if ("SE." in gate) == (kind == "scse")]
    keys = [
        f"{block}.{layer}.{value}"
        for block in _BLOCKS
        for layer in [*_LAYERS, *gates]
        for value in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ] + ["classifier.conv.weight", "classifier.conv.bias"]
    return _named(keys)


def from_authors(state: Mapping[str, Tensor]) -> QuickNAT:
    """Build a network from a state dict of the authors' PyTorch release.

    Filters, classes and squeeze-and-excitation are read off the shapes. Of theirs,
    ``encode1`` … ``encode4`` are our ``encoders`` 0 … 3 and ``decode4``, ``1``, ``2``, ``3`` our
    ``decoders`` 3 … 0; ``conv{i}``, ``batchnorm{i}`` of a block its ``convs``, ``norms`` i - 1;
    ``SELayer`` the gate of that block, of which the bottleneck's is unused and left out.

    Raises:
        InputError: a key is unknown, missing, or of a shape that does not fit (named).
    """
    ours = {name: torch.as_tensor(state[key]) for name, key in _named(state).items()}
    for key in ("classifier.conv.weight", "encode1.conv1.weight"):
        if key not in state or state[key].ndim != 4:
            raise InputError("the authors' weights", f"'{key}' is missing or no convolution's")
    gates = {part: any(f".{part}." in key for key in ours) for part in ("channel", "spatial")}
    kind = _KINDS[gates["channel"], gates["spatial"]]
    filters = len(ours["encoders.0.convs.0.weight"])
    network = QuickNAT(
        n_classes=ours["classifier.weight"].shape[0],
        settings=NetworkSettings(filters=filters, squeeze_excitation=kind),
    )
    wanted = network.state_dict()
    theirs = _their_keys(kind) | _named(state)
    for name in sorted(wanted.keys() | ours.keys()):
        if name not in ours or name not in wanted:
            problem = "is missing" if name in wanted else "is left over"
            raise InputError("the authors' weights", f"'{theirs[name]}' {problem}")
        if wanted[name].shape != ours[name].shape:
            found, expected = tuple(ours[name].shape), tuple(wanted[name].shape)
            raise InputError(
                "the authors' weights", f"'{theirs[name]}' has shape {found}, not {expected}"
            )
    network.load_state_dict(ours)
    return network


def read_authors_weights(path: str | Path) -> QuickNAT:
    """Build a network from a weights file of the authors' release, without running its code.

    The file may hold a state dict, or a checkpoint with one under ``state_dict``; the prefix that
    ``DataParallel`` adds to the names is taken off.

    Raises:
        InputError: not such a file, or a whole pickled module, which is code and is not run.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():  # torch's words on a damaged file, beside our line
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(path, "no such file", "check its path") from None
    except pickle.UnpicklingError as error:
        raise InputError(
            path, "holds more than tensors, so loading it would run its code",
            "where you trust it, save its state_dict() with torch.save",
        ) from error  # fmt: skip
    except Exception as error:  # torch raises many kinds; all mean the same here
        reason = one_line(error)[:200]
        raise InputError(path, f"is no torch file ({reason})", "fetch it again") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise InputError(path, "holds no state dict", "save a network's state_dict()")
    try:
        return from_authors({key.removeprefix("module."): v for key, v in state.items()})
    except InputError as error:
        raise InputError(path, str(error), "give a state dict of the release") from error
