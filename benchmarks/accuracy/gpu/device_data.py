"""What a GPU learns from, all of it in its memory: scans, copies in other shapes, synthetic slices.

A GPU learns from slices faster than sixteen processors can augment them, so that happens here on
the GPU, a batch at a time, as ``quicknat.training.data`` does it slice by slice (and with a smooth
deformation and a bias field besides).
"""

from __future__ import annotations

import io
import lzma
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from quicknat.images.slices import AXIS, MIN_FOREGROUND, MIN_OF_LARGEST
from quicknat.images.training_stats import BRIGHT
from quicknat.synthesis.synthesize import synthesize

UNIT_MM = 0.25  # of the fields in a pack
KNOTS, BIAS_KNOTS = 6, 4  # as in quicknat.synthesis.synthesize


def read_pack(path: Path) -> dict[str, np.ndarray]:
    """All parts of a file of ``pack.py``."""
    with np.load(io.BytesIO(lzma.decompress(path.read_bytes()))) as parts:
        return {name: parts[name] for name in parts.files}


def bent(both: Tensor, field: np.ndarray, begin: np.ndarray) -> Tensor:
    """A scan and its labels in another shape, as ``quicknat reshape`` makes it.

    Args:
        both: uint8 (2, S, S, S), image and classes, 1 mm.
        field: (48, 48, 48, 3) of ``pack.py``.
        begin: where the field's cube begins, from the first voxel of `both`.
    """
    side = both.shape[-1]
    away = torch.from_numpy(np.cumsum(field, axis=0, dtype=np.int16)).to(both.device)
    away = UNIT_MM * away.movedim(-1, 0)[None].float()
    away = F.interpolate(away, (side,) * 3, mode="trilinear", align_corners=False)[0]
    half = torch.arange(side, device=both.device) + 0.5
    points = torch.stack(torch.meshgrid(half, half, half, indexing="ij")) + away
    points += torch.from_numpy(begin).to(both.device)[:, None, None, None]
    grid = ((2 * points + 1) / side - 1).flip(0).movedim(0, -1)[None]  # grid_sample names z first

    def carried(values: Tensor) -> Tensor:
        return F.grid_sample(values[None, None].float(), grid, align_corners=False)[0, 0]

    best, found = 1 - carried(both[1] > 0), torch.zeros_like(both[1])
    for index in range(1, int(both[1].max()) + 1):
        share = carried(both[1] == index)
        found[share > best] = index
        best = torch.maximum(best, share)
    return torch.stack([carried(both[0]).round().byte(), found])


def halved(both: Tensor) -> Tensor:
    """The same at half the resolution: mean brightness, most frequent class."""
    image = F.avg_pool3d(both[0][None, None].float(), 2)[0, 0].round().byte()
    best = torch.zeros_like(image, dtype=torch.float32)
    found = torch.zeros_like(image)
    for index in range(int(both[1].max()) + 1):
        share = F.avg_pool3d((both[1] == index)[None, None].float(), 2)[0, 0]
        found[share > best] = index
        best = torch.maximum(best, share)
    return torch.stack([image, found])


class Slices:
    """Batches of augmented slices of one view, as many as wanted.

    Args:
        volumes: uint8 (2, S, S, S) each, image (or tissues) and classes.
        groups: numbers of volumes, and the share of slices that they give together.
        view: which axis is cut.
        sagittal, swapped: the label table's columns.
        synthetic: images are synthesized from the tissues, not augmented.
        seed: of everything random.
    """

    def __init__(
        self,
        volumes: Tensor,
        groups: Sequence[tuple[Sequence[int], float]],
        view: str,
        sagittal: Tensor,
        swapped: Tensor,
        synthetic: bool = False,
        seed: int = 0,
    ) -> None:
        self.volumes, self.view, self.synthetic = volumes, view, synthetic
        self.sagittal, self.swapped = sagittal, swapped
        self.generator = torch.Generator(volumes.device).manual_seed(seed)
        self.classes = int((sagittal if view == "sagittal" else swapped).max()) + 1
        counts = torch.zeros(self.classes, dtype=torch.int64, device=volumes.device)
        pairs, weights = [], []
        for numbers, share in groups:
            found = []
            for number in numbers:
                labels = volumes[number, 1].movedim(AXIS[view], 0)
                filled = (labels > 0).float().mean(dim=(1, 2))
                least = min(MIN_FOREGROUND, MIN_OF_LARGEST * float(filled.max()))
                kept = (filled > least).nonzero()[:, 0]
                found.append(torch.stack([torch.full_like(kept, number), kept], dim=1))
                counts += torch.bincount(
                    self.merged(labels[kept]).flatten().long(), minlength=self.classes
                )
            pairs.append(torch.cat(found))
            weights.append(torch.full((len(pairs[-1]),), share / len(pairs[-1])))
        self.pairs, self.weights = torch.cat(pairs), torch.cat(weights).to(volumes.device)
        self.counts = counts.cpu().numpy()

    def __len__(self) -> int:
        return len(self.pairs)

    def described(self) -> list[dict]:
        """Of each scan what :func:`quicknat.images.training_stats.describe_scan` says of it."""
        found = []
        for number in self.pairs[:, 0].unique().tolist():
            kept = self.pairs[self.pairs[:, 0] == number, 1]
            image, labels = (
                part.movedim(AXIS[self.view], 0)[kept] for part in self.volumes[number]
            )
            labels = self.merged(labels).long()
            voxels = torch.bincount(labels.flatten(), minlength=self.classes)
            sums = torch.bincount(labels.flatten(), image.flatten().double(), self.classes)
            bright = image > BRIGHT
            outside = (bright & (labels == 0)).sum() / bright.sum()
            found.append({"number": number, "voxels": voxels.tolist(), "sums": sums.tolist(),
                          "outside": float(outside)})  # fmt: skip
        return found

    def merged(self, labels: Tensor) -> Tensor:
        """Classes as this view has them."""
        return self.sagittal[labels.long()].byte() if self.view == "sagittal" else labels

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Images float32 (N, 1, H, W) in 0 … 1, and their classes uint8 (N, H, W)."""
        chosen = torch.multinomial(self.weights, count, True, generator=self.generator)
        scan, number = self.pairs[chosen].unbind(dim=1)
        here: Any = (scan, slice(None), *[slice(None)] * AXIS[self.view], number)
        image, labels = self.volumes[here].unbind(dim=1)
        labels = self.merged(labels)
        if self.view != "sagittal":
            half = self._uniform(count, 1, 1) < 0.5
            image = torch.where(half, image.flip(1), image)
            labels = torch.where(half, self.swapped[labels.flip(1).long()].byte(), labels)
        if self.synthetic:
            return synthesize(image, labels, self.generator)
        return self._augmented(image.float()[:, None] / 255, labels)

    def _uniform(self, *size: int) -> Tensor:
        return torch.rand(size, generator=self.generator, device=self.volumes.device)

    def _normal(self, *size: int) -> Tensor:
        return torch.randn(size, generator=self.generator, device=self.volumes.device)

    def _augmented(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        count, side = len(image), image.shape[-1]
        angle, (height, width) = 0.3 * self._uniform(count) - 0.15, image.shape[2:]
        scale = 1 + 0.24 * self._uniform(count, 2) - 0.12
        shift = 0.16 * self._uniform(count, 2, 1) - 0.08  # the side is 2 in grid_sample
        rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1)
        linear = rotation.view(-1, 2, 2) * scale[:, None]
        grid = F.affine_grid(
            torch.cat([linear, shift], dim=2), list(image.shape), align_corners=False
        )
        knots = 0.03 * self._uniform(count, 1, 1, 1) * self._normal(count, 2, KNOTS, KNOTS)
        field = F.interpolate(knots, (height, width), mode="bicubic", align_corners=True)
        grid = grid + field.movedim(1, -1)
        image = F.grid_sample(image, grid, align_corners=False)
        labels = F.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)
        some = self._uniform(4, count, 1, 1, 1)
        gamma = torch.where(some[0] < 0.5, 0.75 + 0.6 * self._uniform(count, 1, 1, 1), 1.0)
        image = image.clamp(1e-6, 1) ** gamma
        image = image * torch.where(some[1] < 0.5, 0.85 + 0.3 * self._uniform(count, 1, 1, 1), 1.0)
        bias = 0.15 * self._uniform(count, 1, 1, 1) * self._normal(count, 1, *[BIAS_KNOTS] * 2)
        image = (
            image * F.interpolate(bias, (height, width), mode="bicubic", align_corners=True).exp()
        )
        kernel = torch.tensor([0.25, 0.5, 0.25], device=image.device)
        smooth = F.conv2d(image, kernel.outer(kernel)[None, None], padding=1)
        blur = torch.where(some[2] < 0.3, self._uniform(count, 1, 1, 1), 0.0)
        noise = torch.where(some[3] < 0.4, 0.04 * self._uniform(count, 1, 1, 1), 0.0)
        image = torch.lerp(image, smooth, blur) + noise * self._normal(count, 1, side, side)
        return image.clamp(0, 1), labels[:, 0].byte()


@torch.inference_mode()
def aggregate(
    networks: Mapping[str, torch.nn.Module],
    image: Tensor,
    sagittal: Tensor,
    offsets: Mapping[str, Tensor],
    mirror: Tensor | None = None,
    batch: int = 32,
) -> Tensor:
    """Mean probabilities (C, S, S, S) of the views, as ``quicknat segment`` has them.

    Args:
        networks: by view, in evaluation mode.
        image: uint8 (S, S, S).
        sagittal: the label table's column.
        offsets: what to add to the logits, by view.
        mirror: the label table's column, where slices are to be seen from both sides.
        batch: slices at a time.
    """
    total = torch.zeros(len(sagittal), *image.shape, device=image.device)
    for view, network in networks.items():
        slices = image.movedim(AXIS[view], 0)
        sums = total.movedim(1 + AXIS[view], 1)
        seen = (slices > BRIGHT).float().mean(dim=(1, 2)) > 0.005
        sums[0, ~seen] += 1 / len(networks)
        for some in seen.nonzero()[:, 0].split(batch):
            values = slices[some].float()[:, None] / 255

            def found(
                values: Tensor, network: torch.nn.Module = network, view: str = view
            ) -> Tensor:
                # sides of batches differ: to look for the fastest way each time takes longest
                with (
                    torch.backends.cudnn.flags(enabled=True, benchmark=False),
                    torch.autocast("cuda", torch.bfloat16, enabled=image.is_cuda),
                ):
                    logits = network(values.to(memory_format=torch.channels_last))
                return (logits.float() + offsets[view][:, None, None]).softmax(dim=1)

            shares = found(values)
            if view == "sagittal":
                shares = shares[:, sagittal]
            elif mirror is not None:
                shares = (shares + found(values.flip(2)).flip(2)[:, mirror]) / 2
            sums[:, some] += shares.movedim(0, 1) / len(networks)
    return total


def dice(found: Tensor, truth: Tensor, classes: int) -> list[float]:
    """Dice of each structure of two maps of classes."""
    both = torch.bincount(
        (truth.long() * classes + found.long()).flatten(), minlength=classes**2
    ).view(classes, classes)
    sizes = both.sum(0) + both.sum(1)
    values = 2 * both.diagonal() / sizes
    return [value if math.isfinite(value) else 0.0 for value in values[1:].tolist()]
