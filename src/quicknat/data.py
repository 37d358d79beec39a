"""View stacks as torch datasets, and their augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
)
from torch.utils.data import Dataset

from quicknat.errors import InputError
from quicknat.slices import open_stack


def augmentation(size: int, seed: int) -> Compose:
    """Random rotation, scaling, shift, contrast, gain, blur and noise of one slice.

    Slices are never flipped: left and right are different classes.
    """
    keys, modes = ("image", "labels"), ("bilinear", "nearest")
    shift = 0.04 * size
    return Compose(
        [
            RandAffined(
                keys,
                prob=0.8,
                rotate_range=0.15,
                scale_range=(0.12, 0.12),
                translate_range=(shift, shift),
                mode=modes,
                padding_mode="zeros",
            ),
            RandAdjustContrastd("image", prob=0.5, gamma=(0.75, 1.35)),
            RandScaleIntensityd("image", prob=0.5, factors=0.15),
            RandGaussianSmoothd("image", prob=0.15, sigma_x=(0.3, 0.8), sigma_y=(0.3, 0.8)),
            RandGaussianNoised("image", prob=0.4, std=0.04),
        ]
    ).set_random_state(seed)


class SliceDataset(Dataset):
    """All slices of several memory-mapped view stacks.

    Each item is a dict: ``image`` float32 (1, H, W) in 0 … 1, ``labels`` int64 (H, W).

    Raises:
        InputError: a file is no view stack, or its slices have another shape than the others'.
    """

    def __init__(self, paths: Sequence[str | Path], transform: Compose | None = None) -> None:
        self.paths = list(paths)
        self.stacks = [open_stack(path) for path in paths]
        for path, stack in zip(self.paths, self.stacks, strict=True):
            shape, first = stack.shape[2:], self.stacks[0].shape[2:]
            if shape != first:
                raise InputError(path, f"slices are {shape}, those of {self.paths[0]} {first}")
        self.ends = np.cumsum([len(stack) for stack in self.stacks])
        self.transform = transform

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        scan = int(np.searchsorted(self.ends, index, side="right"))
        pair = self.stacks[scan][index - (self.ends[scan - 1] if scan else 0)]
        item = {
            "image": torch.from_numpy(pair[:1].astype(np.float32) / 255),
            "labels": torch.from_numpy(pair[1:].astype(np.float32)),
        }
        # "is not None": the truth value of a Compose is its length, and taking that reseeds it
        if self.transform is not None:
            item = self.transform(item)
        # as_tensor drops MONAI's MetaTensor, which default collation would carry along slowly
        return {
            "image": torch.as_tensor(item["image"]).clamp(0, 1),
            "labels": torch.as_tensor(item["labels"])[0].long(),
        }
