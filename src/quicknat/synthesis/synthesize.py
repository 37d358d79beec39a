"""Synthesize images from label maps during training, as in SynthSeg.

Billot et al., *SynthSeg: Segmentation of brain MRI scans of any contrast and resolution without
retraining*, Medical Image Analysis 86 (2023): warp a label map, draw an intensity for each tissue,
and simulate the acquisition. Here slice by slice, in torch operations on the training device,
without gradients. All random numbers come from one generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from quicknat.synthesis.tissues import tissue_table

FWHM = 2 * math.sqrt(2 * math.log(2))  # full width at half maximum of a Gaussian, in its SDs
KNOTS = 6  # control points of the displacement field per side: 40 mm apart in 192 mm
BIAS_KNOTS = 4  # of the bias field, as in SynthSeg
REFERENCE = 1 / 1.6  # value of the 75th percentile of the foreground after `conform.to_uint8`


@dataclass(frozen=True)
class Ranges:
    """Ranges of the parameters that vary from slice to slice.

    Intensities are in units of the scaled image, 0 … 1. *SynthSeg* marks its published ranges; ours
    are narrower, since all scans are conformed T1w, or wider, since slices have only one plane.

    Attributes:
        rotation: largest angle, degrees (SynthSeg 15; later 20).
        scaling: largest change of size along an axis (SynthSeg 0.15; later 0.2).
        shear: largest shear (SynthSeg 0.012; ours 0.05, about 3 degrees).
        shift: largest shift, fraction of the side (ours: as in the augmentation of real slices).
        displacement: largest SD of the smooth displacement, fraction of the side: 4 mm of 192
            (SynthSeg: 3 to 4 voxels of 1 mm). With knots 40 mm apart it does not fold.
        t1w: fraction of slices with T1w-like tissue intensities; in the others they are arbitrary,
            as in SynthSeg. Ours is 1, since only T1w is segmented: after 407 steps on 20 maps at
            2 mm the validation Dice of real T1w slices was 0.30, and 0.22 with a half. Tissues
            without a usual intensity are arbitrary in all slices.
        t1w_spread: SD of a tissue's intensity about its usual one in these (ours: it differs by
            0.02 to 0.06 between the heads that ``tissues.tsv`` was measured on).
        texture: largest SD within a tissue, before smoothing (SynthSeg 0.14; real white matter has
            0.06, bias included).
        bias: largest SD of the logarithm of the bias field (SynthSeg 0.5).
        gamma: SD of the logarithm of gamma (SynthSeg 0.4; ours 0.2 for T1w only).
        blur: FWHM of the scanner's blur, pixels; causes partial volume at borders.
        coarse: probability that an axis is acquired more coarsely than the image is stored.
        thickness: largest sample spacing, pixels (`quicknat check` warns above 2.5 mm).
        noise: largest SD of Rician noise (ours: 10 of 255).
        gain: SD of the logarithm of intensity, since a slice is scaled with its whole scan.
        stripped: fraction of skull-stripped slices; half of them keep the CSF.
    """

    rotation: float = 15
    scaling: float = 0.15
    shear: float = 0.05
    shift: float = 0.04
    displacement: float = 0.02
    t1w: float = 1
    t1w_spread: float = 0.06
    texture: float = 0.1
    bias: float = 0.5
    gamma: float = 0.2
    blur: tuple[float, float] = (0.8, 1.6)
    coarse: float = 0.3
    thickness: float = 2.5
    noise: float = 0.04
    gain: float = 0.1
    stripped: float = 0.3


class Draw:
    """Draw random tensors on the generator's device; the first axis is the slice."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count, self.generator, self.device = count, generator, generator.device

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers between 0 and 1."""
        size = (self.count, *shape)
        return torch.rand(size, generator=self.generator, device=self.device)

    def symmetric(self, *shape: int) -> Tensor:
        """Return numbers between -1 and 1."""
        return 2 * self.uniform(*shape) - 1

    def normal(self, *shape: int) -> Tensor:
        size = (self.count, *shape)
        return torch.randn(size, generator=self.generator, device=self.device)


def random_grid(draw: Draw, shape: Sequence[int], ranges: Ranges, fraction: float = 1) -> Tensor:
    """Return where to sample a batch (B, C, H, W), for ``grid_sample``, float32 (B, H, W, 2).

    A random affine map and a smooth displacement; a random `fraction` of slices is warped.
    """
    angle = ranges.rotation * math.pi / 180 * draw.symmetric()
    scale = ranges.scaling * draw.symmetric(2)
    shear = ranges.shear * draw.symmetric()
    shift = 2 * ranges.shift * draw.symmetric(2, 1)  # the side of a slice is 2 in grid_sample
    strength = 2 * ranges.displacement * draw.uniform(1, 1, 1)
    field = strength * draw.normal(2, KNOTS, KNOTS)
    if fraction < 1:
        some = (draw.uniform() < fraction).float()
        angle, shear, scale = angle * some, shear * some, scale * some[:, None]
        shift, field = shift * some[:, None, None], field * some[:, None, None, None]
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)
    shearing = torch.eye(2, device=draw.device).repeat(draw.count, 1, 1)
    shearing[:, 0, 1] = shear
    linear = rotation @ shearing * (1 + scale)[:, None]
    grid = F.affine_grid(torch.cat([linear, shift], dim=2), list(shape), align_corners=False)
    field = F.interpolate(field, tuple(shape[2:]), mode="bicubic", align_corners=True)
    return grid + field.movedim(1, -1)


def bias_field(draw: Draw, shape: Sequence[int], largest: float) -> Tensor:
    """Return smooth positive factors (B, 1, H, W), with SD up to `largest` of the logarithm."""
    log_bias = largest * draw.uniform(1, 1, 1) * draw.normal(1, BIAS_KNOTS, BIAS_KNOTS)
    size = tuple(shape[-2:])
    return F.interpolate(log_bias, size, mode="bicubic", align_corners=True).exp()


@cache  # an upload in each step would make a GPU wait
def _tissues(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return of each tissue the usual intensity, float32, and whether it is outside, or CSF."""
    table = tissue_table()
    usual = torch.tensor(table["t1w"].to_numpy() / 255, dtype=torch.float32, device=device)
    outside, csf = (
        torch.tensor((table["region"] == name).to_numpy(), device=device)
        for name in ("outside", "csf")
    )
    return usual, outside, csf


def _brightness(draw: Draw, ranges: Ranges) -> tuple[Tensor, Tensor]:
    """Draw mean and SD of each tissue in each slice, both (B, T); air is dark."""
    usual = _tissues(draw.device)[0]
    anything = draw.uniform(len(usual))
    likely = (usual + ranges.t1w_spread * draw.normal(len(usual))).clamp(0, 1)
    as_t1w = (draw.uniform(1) < ranges.t1w) & usual.isfinite()
    mean = torch.where(as_t1w, likely, anything)
    spread = ranges.texture * draw.uniform(len(usual))
    mean[:, 0] = spread[:, 0] = 0
    return mean, spread


def _acquisition(side: int, draw: Draw, ranges: Ranges) -> Tensor:
    """Return a matrix that simulates acquisition along one axis of pixels, (B, side, side).

    It blurs a line of pixels, samples it with random spacing and phase, and interpolates linearly
    back to the pixels. Each slice has a matrix of its own.
    """
    least, most = ranges.blur
    fwhm = least + (most - least) * draw.uniform(1)
    distance = 1 + (ranges.thickness - 1) * draw.uniform(1)
    coarse = draw.uniform(1) < ranges.coarse
    distance = torch.where(coarse, distance, torch.ones_like(distance))
    # pixels acquired at full resolution keep their position; only coarser ones have a phase
    phase = torch.where(coarse, draw.uniform(1) * distance, torch.zeros_like(distance))
    sigma = (fwhm**2 + distance**2 - 1).sqrt()[..., None] / FWHM
    pixels = torch.arange(side, device=draw.device, dtype=torch.float32)
    position = (pixels - phase) / distance  # in samples
    before = position.floor()
    fraction = (position - before)[..., None]

    def sampled(number: Tensor) -> Tensor:
        centre = (number * distance + phase)[..., None].clamp(0, side - 1)
        weight = (-0.5 * ((pixels - centre) / sigma) ** 2).exp()
        return weight / weight.sum(dim=-1, keepdim=True)

    return (1 - fraction) * sampled(before) + fraction * sampled(before + 1)


def _rescale(image: Tensor, head: Tensor) -> Tensor:
    """Scale the intensities of slices (B, slices, H, W) like those of conformed scans."""
    bright = head & (image > 0.1 * image.amax(dim=(1, 2, 3), keepdim=True))
    # every third pixel suffices for a percentile, and sorting is slow
    values = torch.where(bright, image, torch.nan).flatten(1)[:, ::3]
    reference = values.nanquantile(0.75, dim=1).nan_to_num(1).clamp(min=0.05)
    return image * (REFERENCE / reference)[:, None, None, None]


@torch.no_grad()
def synthesize(
    tissues: Tensor, classes: Tensor, generator: torch.Generator, ranges: Ranges | None = None
) -> tuple[Tensor, Tensor]:
    """Synthesize an image for each slice of a batch, reproducibly.

    Args:
        tissues: tissue indices (B, slices, H, W), any type; see ``tissues.py``. All slices of one
            of the batch are made in one way.
        classes: class indices of the same slices, uint8 (B, slices, H, W).
        generator: on the device of both.
        ranges: of the random parameters.

    Returns:
        Images float32 (B, slices, H, W) in 0 … 1 like real slices, and the classes of the middle
        ones, uint8 (B, H, W).
    """
    ranges = ranges or Ranges()
    draw, (count, height, width) = Draw(len(tissues), generator), tissues.shape[1:]
    maps = torch.cat([tissues, classes], dim=1).float()
    # nearest neighbour: the image is made from the result, so image and classes match
    maps = F.grid_sample(
        maps, random_grid(draw, maps.shape, ranges), mode="nearest", align_corners=False
    )
    tissue, classes = maps[:, :count].long(), maps[:, count:].byte()

    beyond, fluid = (where[tissue] for where in _tissues(tissue.device)[1:])
    strip, dry = (draw.uniform(1, 1, 1) < fraction for fraction in (ranges.stripped, 0.5))
    removed = strip & (beyond | dry & fluid) & (classes == 0)  # never a structure to segment
    tissue = tissue.masked_fill(removed, 0)

    mean, spread = (
        table.gather(1, tissue.flatten(1)).view_as(tissue) for table in _brightness(draw, ranges)
    )
    image = (mean + spread * draw.normal(count, height, width)).clamp(min=0)
    image = image * bias_field(draw, image.shape, ranges.bias)
    rows, columns = (_acquisition(side, draw, ranges)[:, None] for side in (height, width))
    image = rows @ image @ columns.mT

    image = _rescale(image, tissue > 0).clamp(min=0)
    # relative to the reference, which stays fixed
    gamma = (ranges.gamma * draw.normal(1, 1, 1)).exp()
    image = REFERENCE * (image / REFERENCE) ** gamma * (ranges.gain * draw.normal(1, 1, 1)).exp()
    noise = ranges.noise * draw.uniform(1, 1, 1) * draw.normal(2 * count, height, width)
    image = ((image + noise[:, :count]) ** 2 + noise[:, count:] ** 2).sqrt()
    return image.clamp(0, 1), classes[:, count // 2]
