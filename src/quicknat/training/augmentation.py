"""Augment training slices in batches on their device: shape, contrast, bias field, blur, noise."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from quicknat.synthesis.synthesize import Draw, Ranges, bias_field, random_grid

# by less than synthetic images, which have no texture of their own to preserve
SHAPE = Ranges(rotation=8.6, scaling=0.12, shear=0, shift=0.04, displacement=0.01)
WARPED = 0.8  # fraction of slices
CONTRAST, GAMMA = 0.5, (0.75, 1.35)
GAINED, GAIN = 0.5, 0.15
BIASED, BIAS = 0.3, 0.15  # largest SD of the logarithm
BLURRED = 0.15
NOISY, NOISE = 0.4, 0.04


@torch.no_grad()
def augment(image: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return slices changed at random, each in its own way.

    A smooth deformation besides rotation, scaling and shift; never a flip, since left and right
    are different classes. Ours, because no library was as fast or took a generator: on one core
    kornia 0.9 needs six times as long for less.

    Args:
        image: float32 (N, slices, H, W) in 0 … 1.
        labels: uint8 (N, H, W), of the middle slices.
        generator: on the device of both.
    """
    draw = Draw(len(image), generator)

    def sometimes(fraction: float, value: Tensor, otherwise: float) -> Tensor:
        chosen = draw.uniform(1, 1, 1) < fraction
        return torch.where(chosen, value, torch.full_like(value, otherwise))

    grid = random_grid(draw, image.shape, SHAPE, WARPED)
    image = F.grid_sample(image, grid, align_corners=False)
    # nearest label: with random rotation and scaling no pixel lies half-way between two, so
    # neither side is preferred
    found = F.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)
    least, most = GAMMA
    gamma = sometimes(CONTRAST, least + (most - least) * draw.uniform(1, 1, 1), 1)
    gain = sometimes(GAINED, 1 + GAIN * draw.symmetric(1, 1, 1), 1)
    bias = sometimes(BIASED, bias_field(draw, image.shape, BIAS), 1)
    image = image.clamp(min=1e-6) ** gamma * gain * bias
    # twice the mean of two is 1/4, 1/2, 1/4: an SD of 0.7 pixels
    smooth = F.avg_pool2d(F.avg_pool2d(image, 2, stride=1, padding=1), 2, stride=1)
    image = torch.lerp(image, smooth, sometimes(BLURRED, draw.uniform(1, 1, 1), 0))
    noise = sometimes(NOISY, NOISE * draw.uniform(1, 1, 1), 0)
    image = image + noise * draw.normal(*image.shape[1:])
    return image.clamp(0, 1), found[:, 0].byte()
