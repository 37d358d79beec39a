"""QuickNAT's 2-D densely connected encoder/decoder, one per view.

Roy et al., NeuroImage 186 (2019), section 2.1 and figure 2; squeeze-and-excitation from Roy et
al., IEEE TMI 38 (2019); layer order after the authors' PyTorch release. Needs torch alone:
``quicknat export`` puts a copy of this file beside the weights.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 4  # poolings, so slice sides are multiples of 2**4
KERNEL = 5  # side of the convolutions

SqueezeExcitation = Literal["none", "cse", "sse", "scse"]


@dataclass(frozen=True)
class NetworkSettings:
    """Shape of a network: the keys and defaults of ``quicknat.config.Network``, which has more."""

    filters: int = 64
    squeeze_excitation: SqueezeExcitation = "scse"
    dropout: float = 0.2
    slices: int = 1


class ChannelExcitation(nn.Module):
    """Scale each channel by a gate computed from its mean over the slice (cSE)."""

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
    """The chosen squeeze-and-excitation; scSE is the element-wise maximum of both."""

    def __init__(self, channels: int, kind: SqueezeExcitation) -> None:
        super().__init__()
        self.channel = ChannelExcitation(channels) if kind in ("cse", "scse") else None
        self.spatial = SpatialExcitation(channels) if kind in ("sse", "scse") else None

    def forward(self, x: Tensor) -> Tensor:
        gated = [part(x) for part in (self.channel, self.spatial) if part is not None]
        if not gated:
            return x
        return gated[0] if len(gated) == 1 else torch.maximum(*gated)


class DenseBlock(nn.Module):
    """Three convolutions, each fed with everything before it (figure 2, right).

    One PReLU parameter is shared inside the block, as in the authors' code.
    """

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        widths = [channels, channels + filters, channels + 2 * filters]
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, filters, side, padding=side // 2)
            for width, side in zip(widths, (KERNEL, KERNEL, 1), strict=True)
        )
        self.prelu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        for norm, conv in zip(self.norms[:-1], self.convs[:-1], strict=True):
            # the input must stay first: the weights depend on the order
            x = torch.cat((x, conv(self.prelu(norm(x)))), dim=1)
        return self.convs[-1](self.prelu(self.norms[-1](x)))


class QuickNAT(nn.Module):
    """One view's network: (N, slices, H, W) intensities in 0 … 1 to (N, classes, H, W) logits.

    Several slices are the one to segment with its neighbours on both sides; the paper has one. H
    and W must be multiples of 16. Level 0 is the full resolution; decoders carry the number of the
    encoder whose pooling they undo.
    """

    def __init__(self, n_classes: int, settings: NetworkSettings | None = None) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.settings = settings or NetworkSettings()
        filters, kind = self.settings.filters, self.settings.squeeze_excitation
        inputs = [self.settings.slices] + [filters] * (LEVELS - 1)
        self.encoders = nn.ModuleList(DenseBlock(n, filters) for n in inputs)
        self.encoder_gates = nn.ModuleList(Excitation(filters, kind) for _ in range(LEVELS))
        self.bottleneck = DenseBlock(filters, filters)
        self.decoders = nn.ModuleList(DenseBlock(2 * filters, filters) for _ in range(LEVELS))
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
            skip = skips[level]
            x = F.max_unpool2d(x, indices[level], (2, 2), output_size=skip.shape[-2:])
            if skip.is_contiguous(memory_format=torch.channels_last):
                # a GPU unpools to channels first, and all that follows would stay so: slow
                x = x.contiguous(memory_format=torch.channels_last)
            x = self.decoders[level](torch.cat((skip, x), dim=1))
            x = self.dropout(self.decoder_gates[level](x))
        return self.classifier(x)

    def describe(self) -> dict:
        """Return what is needed to rebuild this network."""
        return {"n_classes": self.n_classes, **asdict(self.settings)}


def in_bfloat16(network: QuickNAT) -> QuickNAT:
    """Return a copy for inference that computes in bfloat16, except in the first and last block.

    Those cost little in float32 and matter most: rounding the intensities and their first features
    changes which pixel each pooling takes, and rounding the logits which class wins.
    """
    copied = copy.deepcopy(network).to(torch.bfloat16)
    for name in ("encoders.0", "encoder_gates.0", "classifier"):
        exact = copied.get_submodule(name).float()
        exact.load_state_dict(network.get_submodule(name).state_dict())
    # all of it may become float32 again
    inner = copied.get_parameter("bottleneck.convs.0.weight")
    copied.encoder_gates[0].register_forward_hook(lambda gate, inputs, out: out.to(inner.dtype))
    copied.classifier.register_forward_pre_hook(lambda classifier, inputs: (inputs[0].float(),))
    return copied
