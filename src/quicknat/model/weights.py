"""Save and load one view's weights without running code; read those of the authors' release."""

from __future__ import annotations

import json
import logging
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from quicknat.errors import InputError, one_line
from quicknat.model.network import NetworkSettings, QuickNAT, SqueezeExcitation

log = logging.getLogger(__name__)

# what is multiplied with the slices themselves
FIRST_LAYERS = re.compile(r"encoders\.0\.(norms\.\d\.(weight|bias|running_.*)|convs\.\d\.weight)")
METADATA = "quicknat"
OWN_TABLE = "use the label table that it was trained with"
# of the authors' release:
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


def save_weights(
    path: str | Path, state: Mapping[str, Tensor], view: str, classes: Sequence[str]
) -> None:
    """Write a network's state dict as safetensors, with its view and the names of its classes."""
    tensors = {key: value.contiguous().cpu() for key, value in state.items()}
    # one entry, since safetensors writes several in an order that changes from file to file
    described = json.dumps({"view": view, "classes": list(classes)})
    save_file(tensors, path, metadata={METADATA: described})


def widened(state: Mapping[str, Tensor], slices: int) -> dict[str, Tensor]:
    """Return a network's weights for one with more input slices, which have no effect yet.

    Weights for the same number of slices stay as they are.
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


def reclassified(
    state: Mapping[str, Tensor], theirs: Sequence[str], ours: Sequence[str]
) -> dict[str, Tensor]:
    """Return a network's weights for one with other classes.

    Classes of the same name keep their weights. The background's probability is divided equally
    between it and new classes, which were part of it (Cermelli et al., CVPR 2020): those of the
    others stay the same, while random weights would begin with a larger loss than no training.
    """
    rows = [theirs.index(name) if name in theirs else 0 for name in ours]  # 0: the background
    found = dict(state)
    for key in ("classifier.weight", "classifier.bias"):
        if key in state and len(state[key]) == len(theirs):
            found[key] = state[key][rows]
            if key.endswith("bias"):
                background = torch.tensor(rows) == 0
                found[key][background] -= background.sum().log()
    return found


def load_weights(
    network: QuickNAT,
    path: str | Path,
    view: str,
    classes: Sequence[str],
    to_train: bool = False,
) -> None:
    """Load weights into a network of exactly that shape, view and label table.

    A network on the device ``meta`` moves to the CPU once the file is known to fit. A network
    `to_train` may have other classes, see :func:`reclassified`, and see more slices, see
    :func:`widened`.

    Raises:
        InputError: the file is damaged, or holds another network's weights.
    """
    try:
        with safe_open(path, "pt") as file:
            described = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        found = described.get("view"), list(described.get("classes", []))
    except Exception as error:  # safetensors raises many kinds; all mean the same here
        problem = f"holds no weights ({one_line(error)})"
        raise InputError(path, problem, "copy or train it again") from error
    if found[0] != view:
        problem = f"is for the {found[0] or 'unknown'} view, not the {view} one"
        raise InputError(path, problem, "give that view's own weights")
    theirs = found[1]
    if to_train:
        state = widened(state, network.settings.slices)
        if theirs != list(classes):
            state = reclassified(state, theirs, classes)
            if new := [name for name in classes if name not in theirs]:
                log.info("%s: new classes, so far background: %s", path, ", ".join(new))
    elif len(theirs) != len(classes):
        raise InputError(path, f"has {len(theirs)} classes, not {len(classes)}", OWN_TABLE)
    else:
        for number, (name, own) in enumerate(zip(theirs, classes, strict=True)):
            if name != own:
                problem = f"is for another label table: its class {number} is '{name}', not '{own}'"
                raise InputError(path, problem, OWN_TABLE)
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
            raise InputError(where, f"'{key}' is missing or not a convolution")
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
        problem = "holds more than tensors, so loading it would run its code"
        fix = "if you trust it, save its state_dict() with torch.save"
        raise InputError(path, problem, fix) from error
    except Exception as error:  # torch raises many kinds; all mean the same here
        reason = one_line(error)[:200]
        raise InputError(path, f"is not a torch file ({reason})", "fetch it again") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise InputError(path, "has no state dict", "save a network's state_dict()")
    try:
        return from_authors({key.removeprefix("module."): v for key, v in state.items()})
    except InputError as error:
        raise InputError(path, str(error), "give a state dict from the release") from error
