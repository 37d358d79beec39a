"""Dense blocks for inference on CPUs: 5 × 5 convolutions with 2.5 times fewer multiplications.

Winograd's minimal filtering F(4, 5) along the rows (Lavin and Gray, CVPR 2016): four output rows
take eight products with transformed kernels of 1 × 5, instead of twenty. Rounding errors are about
twice those of a plain float32 convolution.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quicknat.model.network import KERNEL, DenseBlock, QuickNAT

ROWS = 4  # output rows of a tile
POINTS = (0, 1, -1, 2, -2, 0.5, -0.5)  # where polynomials are evaluated, besides infinity
PIXELS = 2048  # at a time, so that what is computed from them stays in the CPU's cache


def transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Return the matrices of inputs (8, 8), kernels (8, 5) and outputs (4, 8), float64.

    ``outputs @ ((kernels @ g) * (inputs @ d))`` is the correlation of d (8,) with g (5,).
    """
    points = np.array(POINTS)
    others = [np.delete(points, k) for k in range(len(points))]
    inputs = [np.append(np.poly(roots)[::-1], 0) for roots in others] + [np.poly(points)[::-1]]
    kernels = [
        point ** np.arange(KERNEL) / np.prod(point - roots)
        for point, roots in zip(points, others, strict=True)
    ]
    outputs = [point ** np.arange(ROWS) for point in points]
    kernels, outputs = [*kernels, np.eye(KERNEL)[-1]], [*outputs, np.eye(ROWS)[-1]]  # at infinity
    matrices = (torch.from_numpy(np.array(part)) for part in (inputs, kernels, outputs))
    into, of_kernels, out = matrices
    return into, of_kernels, out.T


class Activation(nn.Module):
    """A batch norm and PReLU of channels-last features, for inference."""

    def __init__(self, norm: Any, prelu: nn.PReLU) -> None:
        super().__init__()
        self.scale: Tensor = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.shift = norm.bias - norm.running_mean * self.scale
        self.slope = prelu.weight.item()

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return x (…, C) activated, in `out` if given."""
        return F.leaky_relu_(torch.addcmul(self.shift, x, self.scale, out=out), self.slope)


class Step(nn.Module):
    """Activate and convolve channels-last features, for inference."""

    def __init__(self, activation: Activation, conv: Any) -> None:
        super().__init__()
        inputs, kernels, outputs = transforms()
        self.activation, self.bias = activation, conv.get_parameter("bias")
        self.upper, self.lower = inputs.float().split(ROWS, dim=1)
        self.outputs = outputs.float()
        weights = torch.einsum("tk,oikw->toiw", kernels, conv.weight.double()).float()
        self.weights = [
            one[:, :, None].contiguous(memory_format=torch.channels_last) for one in weights
        ]

    def forward(self, x: Tensor, out: Tensor) -> None:
        """Convolve x (N, H, W, C) into `out` (N, H, W, filters); H is a multiple of 4."""
        for image, result in zip(x, out, strict=True):
            tiles, results = (part.unflatten(0, (-1, ROWS)) for part in (image, result))
            step = max(1, PIXELS // image.shape[1])
            for start in range(0, len(tiles), step):
                self._some(tiles, start, results[start : start + step])

    def _some(self, tiles: Tensor, start: int, out: Tensor) -> None:
        """Convolve the tiles that begin with `start`: (tiles, 4, W, channels), in and out."""
        stop, half = start + len(out), KERNEL // 2
        # a tile's input begins two rows above it: those rows are the ends of blocks of four
        padded = tiles.new_zeros(ROWS, len(out) + 1, *tiles.shape[2:])
        above, below = max(start - 1, 0), min(stop + 1, len(tiles))
        first, second = padded[:half, above - start + 1 :], padded[half:, : below - start]
        self.activation(tiles[above:stop, half:].transpose(0, 1), out=first)
        self.activation(tiles[start:below, :half].transpose(0, 1), out=second)
        flat = padded.flatten(2)
        moved = torch.mm(self.upper, flat[:, :-1].flatten(1))
        moved.addmm_(self.lower, flat[:, 1:].flatten(1))
        moved = moved.view(len(moved), 1, len(out), *tiles.shape[2:]).movedim(-1, 2)
        products = torch.stack(
            [
                F.conv2d(part, weight, padding=(0, half)).movedim(1, -1)
                for part, weight in zip(moved, self.weights, strict=True)
            ]
        )
        found = torch.mm(self.outputs, products.flatten(1)).view(ROWS, len(out), *out.shape[2:])
        torch.add(found, self.bias, out=out.transpose(0, 1))


class FastBlock(nn.Module):
    """A trained dense block: (N, C, H, W) features to (N, filters, H, W)."""

    def __init__(self, block: DenseBlock) -> None:
        super().__init__()
        self.block = block
        *firsts, self.last = (Activation(norm, block.prelu) for norm in block.norms)
        self.steps = [Step(*pair) for pair in zip(firsts, block.convs[:-1], strict=True)]
        conv: Any = block.convs[-1]
        self.weight, self.bias = conv.weight.flatten(1).T, conv.get_parameter("bias")

    def forward(self, x: Tensor) -> Tensor:
        n, width, height, across = x.shape
        if height % ROWS:
            return self.block(x)
        grown = x.new_empty(n, height, across, len(self.last.scale))
        grown[..., :width] = x.movedim(1, -1)
        for step in self.steps:
            wider = width + len(step.bias)
            step(grown[..., :width], grown[..., width:wider])
            width = wider
        result = x.new_empty(n, height, across, len(self.bias))
        parts = (pixels.flatten(0, 2).split(PIXELS) for pixels in (grown, result))
        for some, out in zip(*parts, strict=True):
            torch.addmm(self.bias, self.last(some), self.weight, out=out)
        return result.movedim(-1, 1)


def with_fast_blocks(network: QuickNAT) -> QuickNAT:
    """Return a copy of a float32 network for inference on a CPU."""
    copied = copy.deepcopy(network)
    for parts in [part for part in copied.modules() if isinstance(part, nn.ModuleList)]:
        for k, block in enumerate(parts):
            if isinstance(block, DenseBlock):
                parts[k] = FastBlock(block)
    return copied
