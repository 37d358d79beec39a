"""Read weights of the authors' PyTorch release."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from quicknat.errors import InputError, one_line
from quicknat.model.network import NetworkSettings, QuickNAT, SqueezeExcitation

_DECODERS = (3, 2, 1, 4)  # their numbers of our decoders 0 … 3; their forward pass runs 4, 1, 2, 3
_LAYERS = {"convs": "conv", "norms": "batchnorm"}
_GATES = {"channel.squeeze": "cSE.fc1", "channel.excite": "cSE.fc2", "spatial.gate": "sSE.conv"}
_UNUSED = "bottleneck.SELayer."  # their bottleneck owns a gate that its forward pass skips
# by which gates there are, channel and spatial
_KINDS: dict[tuple[bool, bool], SqueezeExcitation] = {
    (False, False): "none",
    (True, False): "cse",
    (False, True): "sse",
    (True, True): "scse",
}


def _their_key(name: str, kind: SqueezeExcitation) -> str:
    """Return the authors' name of one of our parameters."""
    block, *layer, value = name.split(".")
    if block == "classifier":
        return f"classifier.conv.{value}"
    if block != "bottleneck":
        level = int(layer.pop(0))
        number = level + 1 if block.startswith("encoder") else _DECODERS[level]
        gated = block.endswith("_gates")
        block = f"{block[:6]}{number}"
        if gated:
            gate = _GATES[".".join(layer)]
            gate = gate if kind == "scse" else gate.partition(".")[2]
            return f"{block}.SELayer.{gate}.{value}"
    part = f"{_LAYERS[layer[0]]}{int(layer[1]) + 1}" if len(layer) > 1 else layer[0]
    return f"{block}.{part}.{value}"


def from_authors(state: Mapping[str, Tensor]) -> QuickNAT:
    """Build a network from a state dict of the authors' PyTorch release.

    Filters, classes and squeeze-and-excitation are read off the names and shapes. Of
    theirs, ``encode1`` … ``encode4`` are our ``encoders`` 0 … 3 and ``decode4``, ``1``, ``2``,
    ``3`` our ``decoders`` 3 … 0; ``conv{i}``, ``batchnorm{i}`` of a block its ``convs``, ``norms``
    i - 1; ``SELayer`` the gate of that block.

    Raises:
        InputError: a key is unknown, missing, or of a shape that does not fit (named).
    """
    where = "the authors' weights"
    gates = [key for key in state if ".SELayer." in key and not key.startswith(_UNUSED)]
    spatial = any(".SELayer.conv." in key or ".sSE." in key for key in gates)
    kind = _KINDS[any(".fc1." in key for key in gates), spatial]
    names = QuickNAT(2, NetworkSettings(2, kind)).state_dict()
    keys = {name: _their_key(name, kind) for name in names}
    for key in sorted(state.keys() - set(keys.values())):
        if not key.startswith(_UNUSED):
            raise InputError(where, f"'{key}' is not a parameter of QuickNAT")
    for key in ("classifier.conv.weight", "encode1.conv1.weight"):
        if key not in state or state[key].ndim != 4:
            raise InputError(where, f"'{key}' is missing or no convolution's")
    filters = len(state["encode1.conv1.weight"])
    settings = NetworkSettings(filters=filters, squeeze_excitation=kind)
    network = QuickNAT(len(state["classifier.conv.weight"]), settings)
    for name, value in network.state_dict().items():
        if keys[name] not in state:
            raise InputError(where, f"'{keys[name]}' is missing")
        found, expected = tuple(state[keys[name]].shape), tuple(value.shape)
        if found != expected:
            raise InputError(where, f"'{keys[name]}' has shape {found}, not {expected}")
    network.load_state_dict({name: state[key] for name, key in keys.items()})
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
