"""QuickNAT's 2-D densely connected encoder/decoder, one per view.

Roy et al., NeuroImage 186 (2019), section 2.1 and figure 2; squeeze-and-excitation from Roy et
al., IEEE TMI 38 (2019); layer order after the authors' PyTorch release, whose weights
:func:`from_reference` takes over.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from quicknat.errors import InputError

LEVELS = 4  # poolings, so slice sides are multiples of 2**4

SqueezeExcitation = Literal["NONE", "CSE", "SSE", "CSSE"]


@dataclass(frozen=True)
class NetworkSettings:
    """Shape of a network: output channels per convolution, attention, dropout, kernel side."""

    filters: int = 64
    squeeze_excitation: SqueezeExcitation = "CSSE"
    dropout: float = 0.2
    kernel: int = 5


class ChannelExcitation(nn.Module):
    """Scale each channel by what its mean over the slice says (cSE)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // 2)
        self.excite = nn.Linear(channels // 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean(dim=(2, 3))))))
        return x * gate[:, :, None, None]


class SpatialExcitation(nn.Module):
    """Scale each pixel by a 1×1 convolution of its channels (sSE)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.gate(x))


class Excitation(nn.Module):
    """The chosen squeeze-and-excitation; CSSE is the element-wise maximum of both."""

    def __init__(self, channels: int, kind: SqueezeExcitation) -> None:
        super().__init__()
        self.channel = ChannelExcitation(channels) if kind in ("CSE", "CSSE") else None
        self.spatial = SpatialExcitation(channels) if kind in ("SSE", "CSSE") else None

    def forward(self, x: Tensor) -> Tensor:
        gated = [part(x) for part in (self.channel, self.spatial) if part is not None]
        if not gated:
            return x
        return gated[0] if len(gated) == 1 else torch.maximum(*gated)


class DenseBlock(nn.Module):
    """Three convolutions, each fed with everything before it (figure 2, right).

    One PReLU parameter is shared inside the block, as in the authors' code.
    """

    def __init__(self, channels: int, filters: int, kernel: int) -> None:
        super().__init__()
        widths = [channels, channels + filters, channels + 2 * filters]
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, filters, side, padding=side // 2)
            for width, side in zip(widths, (kernel, kernel, 1), strict=True)
        )
        self.prelu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        for norm, conv in zip(self.norms[:-1], self.convs[:-1], strict=True):
            # the input must stay first: the weights depend on the order
            x = torch.cat((x, conv(self.prelu(norm(x)))), dim=1)
        return self.convs[-1](self.prelu(self.norms[-1](x)))


class QuickNAT(nn.Module):
    """One view's network: (N, 1, H, W) intensities in 0 … 1 to (N, classes, H, W) logits.

    H and W must be multiples of 16. Level 0 is the full resolution; decoders carry the number of
    the encoder whose pooling they undo.
    """

    def __init__(self, n_classes: int, settings: NetworkSettings | None = None) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.settings = settings or NetworkSettings()
        filters, kernel = self.settings.filters, self.settings.kernel
        kind = self.settings.squeeze_excitation
        inputs = [1] + [filters] * (LEVELS - 1)
        self.encoders = nn.ModuleList(DenseBlock(n, filters, kernel) for n in inputs)
        self.encoder_gates = nn.ModuleList(Excitation(filters, kind) for _ in range(LEVELS))
        self.bottleneck = DenseBlock(filters, filters, kernel)
        self.decoders = nn.ModuleList(
            DenseBlock(2 * filters, filters, kernel) for _ in range(LEVELS)
        )
        self.decoder_gates = nn.ModuleList(Excitation(filters, kind) for _ in range(LEVELS))
        self.dropout = nn.Dropout2d(self.settings.dropout)
        self.classifier = nn.Conv2d(filters, n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips, indices = [], []
        for encoder, gate in zip(self.encoders, self.encoder_gates, strict=True):
            skip = self.dropout(gate(encoder(x)))
            x, index = F.max_pool2d(skip, 2, return_indices=True)
            skips.append(skip)
            indices.append(index)
        x = self.bottleneck(x)
        for level in reversed(range(LEVELS)):
            x = F.max_unpool2d(x, indices[level], 2, output_size=skips[level].shape[-2:])
            x = self.decoders[level](torch.cat((skips[level], x), dim=1))
            x = self.dropout(self.decoder_gates[level](x))
        return self.classifier(x)

    def describe(self) -> dict:
        """What is needed to build this network again."""
        return {"n_classes": self.n_classes, **asdict(self.settings)}


def in_bfloat16(network: QuickNAT) -> QuickNAT:
    """A copy for inference that computes in bfloat16, but for its first and its last block.

    Those cost little in float32 and decide most: rounding the intensities and their first features
    changes which pixel each pooling takes, and rounding the logits which class wins.
    """
    copied = copy.deepcopy(network).to(torch.bfloat16)
    for name in ("encoders.0", "encoder_gates.0", "classifier"):
        exact = copied.get_submodule(name).float()
        exact.load_state_dict(network.get_submodule(name).state_dict())
    copied.encoder_gates[0].register_forward_hook(lambda gate, inputs, out: out.bfloat16())
    copied.classifier.register_forward_pre_hook(lambda classifier, inputs: (inputs[0].float(),))
    return copied


# names in the authors' state dict -> ours; their forward pass runs decode4, 1, 2, 3 downwards
_REFERENCE_BLOCKS = {
    **{f"encode{level + 1}": ("encoders", level) for level in range(LEVELS)},
    "bottleneck": ("bottleneck", None),
    **{
        f"decode{number}": ("decoders", level) for number, level in ((4, 3), (1, 2), (2, 1), (3, 0))
    },
}
_REFERENCE_LAYERS = {
    **{f"conv{i}": f"convs.{i - 1}" for i in (1, 2, 3)},
    **{f"batchnorm{i}": f"norms.{i - 1}" for i in (1, 2, 3)},
    "prelu": "prelu",
}
_REFERENCE_GATES = {
    "cSE.fc1": "channel.squeeze",
    "cSE.fc2": "channel.excite",
    "fc1": "channel.squeeze",
    "fc2": "channel.excite",
    "sSE.conv": "spatial.gate",
    "conv": "spatial.gate",
}


def _reference_key(key: str) -> str | None:
    """Our name of one of the authors' parameters; None for those that their network never uses."""
    if key.startswith("classifier.conv."):
        return key.replace("classifier.conv.", "classifier.")
    match = re.fullmatch(r"(\w+?)\.(SELayer\.)?(.+)\.(\w+)", key)
    block = _REFERENCE_BLOCKS.get(match[1]) if match else None
    layer = (_REFERENCE_GATES if match[2] else _REFERENCE_LAYERS).get(match[3]) if block else None
    if layer is None:
        raise InputError("reference weights", f"'{key}' is not a parameter of QuickNAT")
    name, level = block
    if match[2]:
        if level is None:
            return None  # the bottleneck owns a gate that its forward pass skips
        return f"{name[:-1]}_gates.{level}.{layer}.{match[4]}"
    return f"{name}.{layer}.{match[4]}" if level is None else f"{name}.{level}.{layer}.{match[4]}"


def _reference_keys(kind: SqueezeExcitation) -> dict[str, str]:
    """Our names of all parameters of a network of the authors' -> their names."""
    gates = [f"SELayer.{gate}" for gate in _REFERENCE_GATES if ("SE." in gate) == (kind == "CSSE")]
    keys = [
        f"{block}.{layer}.{value}"
        for block in _REFERENCE_BLOCKS
        for layer in [*_REFERENCE_LAYERS, *gates]
        for value in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ] + ["classifier.conv.weight", "classifier.conv.bias"]
    return {_reference_key(key): key for key in keys}


def from_reference(state: Mapping[str, Tensor]) -> QuickNAT:
    """Build a network from a state dict of the authors' PyTorch release.

    Filters, classes, kernel and squeeze-and-excitation are read off the shapes. Of theirs,
    ``encode1`` … ``encode4`` are our ``encoders`` 0 … 3 and ``decode4``, ``1``, ``2``, ``3`` our
    ``decoders`` 3 … 0; ``conv{i}``, ``batchnorm{i}`` of a block its ``convs``, ``norms`` i - 1;
    ``SELayer`` the gate of that block, of which the bottleneck's is unused and left out.

    Raises:
        InputError: a key is unknown, missing, or of a shape that does not fit (named).
    """
    ours = {_reference_key(key): torch.as_tensor(value) for key, value in state.items()}
    ours.pop(None, None)
    for key in ("classifier.conv.weight", "encode1.conv1.weight"):
        if key not in state or state[key].ndim != 4:
            raise InputError("reference weights", f"'{key}' is missing or no convolution's")
    gates = {part: any(f".{part}." in key for key in ours) for part in ("channel", "spatial")}
    kind = {(0, 0): "NONE", (1, 0): "CSE", (0, 1): "SSE", (1, 1): "CSSE"}[tuple(gates.values())]
    filters, _, kernel, _ = ours["encoders.0.convs.0.weight"].shape
    network = QuickNAT(
        n_classes=ours["classifier.weight"].shape[0],
        settings=NetworkSettings(filters=filters, squeeze_excitation=kind, kernel=kernel),
    )
    wanted = network.state_dict()
    theirs = _reference_keys(kind) | {_reference_key(key): key for key in state}
    for name in sorted(wanted.keys() | ours.keys()):
        if name not in ours or name not in wanted:
            problem = "is missing" if name in wanted else "is left over"
            raise InputError("reference weights", f"'{theirs[name]}' {problem}")
        if wanted[name].shape != ours[name].shape:
            found, expected = tuple(ours[name].shape), tuple(wanted[name].shape)
            raise InputError(
                "reference weights", f"'{theirs[name]}' has shape {found}, not {expected}"
            )
    network.load_state_dict(ours)
    return network


def load_weights(network: torch.nn.Module, path: str | Path) -> None:
    """Load safetensors weights into a network of exactly that shape.

    Raises:
        InputError: the file is damaged or holds another network.
    """
    try:
        network.load_state_dict(load_file(path))
    except Exception as error:  # safetensors and torch raise many kinds; all mean the same here
        raise InputError(
            path, f"does not hold the weights of this network ({str(error).splitlines()[0]})"
        ) from error
