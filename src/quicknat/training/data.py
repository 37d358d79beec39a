"""View stacks as torch datasets, their augmentation, and the order in which they are seen.

Nothing here has a random state that advances: what is drawn depends on the seed, the epoch and the
slice alone. So a training that goes on in the middle of an epoch, in another number of loader
processes, sees exactly what it would have seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
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
from monai.utils import convert_to_tensor
from torch.utils.data import Dataset, Sampler

from quicknat.errors import InputError
from quicknat.images.slices import open_stack
from quicknat.images.training_stats import ScanStatistics, describe_scan
from quicknat.synthesis.tissue_table import tissue_table

AGAIN = "slice all scans again with one label table and size"


def augmentation(size: int) -> Compose:
    """Random rotation, scaling, shift, contrast, gain, blur and noise of one slice.

    Flips are no part of it: left and right are different classes, see :class:`SliceDataset`.
    """
    # the nearest label: where every slice is turned and scaled by a random amount, no pixel lies
    # half-way and no side is preferred
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
    )


class SliceDataset(Dataset):
    """All slices of several memory-mapped view stacks.

    With a `stride`, every so many-th slice of a scan only. With `swapped`, what each class becomes
    in a mirror, a half of the items at random is mirrored left–right. Each item is a dict:
    ``image`` float32 (1, H, W) in 0 … 1, ``labels`` uint8 (H, W). Item `k` is slice ``k % len``;
    with a transform, ``k // len`` is the epoch it is augmented for.

    Where there are stacks of `tissues`, after the others, an item says by ``tissues`` (bool)
    whether it is out of one. Then its image is not augmented and holds tissue indices, which
    :func:`quicknat.synthesis.synthesize.synthesize_batch` turns into an image.

    Raises:
        InputError: a file is no view stack, or its slices have another shape than the others'.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        transform: Compose | None = None,
        seed: int = 0,
        stride: int = 1,
        tissues: Sequence[str | Path] = (),
        swapped: np.ndarray | None = None,
    ) -> None:
        self.images = len(paths)  # so many scans have one
        self.paths = [*paths, *tissues]
        self.stacks = [open_stack(path)[::stride] for path in self.paths]
        for path, stack in zip(self.paths, self.stacks, strict=True):
            shape, first = stack.shape[2:], self.stacks[0].shape[2:]
            if shape != first:
                raise InputError(
                    path, f"slices are {shape}, those of {self.paths[0]} {first}", AGAIN
                )
        self.ends = np.cumsum([len(stack) for stack in self.stacks])
        self.transform = transform
        self.seed = seed
        self.stride = stride
        self.swapped = None if swapped is None else swapped.astype(np.uint8)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        index = number % len(self)
        scan = int(np.searchsorted(self.ends, index, side="right"))
        pair = self.stacks[scan][index - (self.ends[scan - 1] if scan else 0)]
        if self.swapped is not None and np.random.default_rng((self.seed, number)).random() < 0.5:
            pair = np.stack(
                [pair[0, ::-1], self.swapped[pair[1, ::-1]].astype(np.uint8)]
            )  # (2, X, …), RAS+ axes
        painted = scan >= self.images
        image = torch.from_numpy(pair[:1].astype(np.float32) / (1 if painted else 255))
        kind = {"tissues": torch.tensor(painted)} if len(self.paths) > self.images else {}
        # "is not None": the truth value of a Compose is its length, and taking that reseeds it
        if painted or self.transform is None:
            return {"image": image, "labels": torch.from_numpy(pair[1].copy()), **kind}
        draw = np.random.SeedSequence((self.seed, number)).generate_state(1)[0]
        self.transform.set_random_state(int(draw))
        item = self.transform({"image": image, "labels": torch.from_numpy(pair[1:].astype("f4"))})
        # a MetaTensor would carry its metadata through every layer of the network
        image, labels = (convert_to_tensor(item[key], track_meta=False) for key in item)
        return {"image": image.clamp(0, 1), "labels": labels[0].byte(), **kind}

    def survey(self, n_classes: int) -> tuple[list[ScanStatistics], dict[str, str]]:
        """Read everything once: statistics of each scan, and the SHA-256 of its stack by name.

        Painted images have no brightness of their own: theirs is NaN.

        Raises:
            InputError: a stack holds a class that the network does not have, or a tissue that there
                is not.
        """
        statistics, checksums = [], {}
        for number, (path, stack) in enumerate(zip(self.paths, self.stacks, strict=True)):
            painted = number >= self.images
            top = int(stack[:, 1].max(initial=0))
            if top >= n_classes:
                raise InputError(path, f"holds class {top}, but there are {n_classes}", AGAIN)
            if painted and (top := int(stack[:, 0].max(initial=0))) >= len(tissue_table()):
                raise InputError(path, f"holds tissue {top}", "delete it and rerun")
            # where there is tissue there is brightness
            slices = (((pair[0] > 0) * np.uint8(255), pair[1]) for pair in stack)
            found = describe_scan(slices if painted else stack, n_classes)
            if painted:
                found = replace(found, intensity=np.full(n_classes, np.nan))
            # volumes as if every slice had been looked at
            statistics.append(replace(found, voxels=found.voxels * self.stride))
            contents = np.ascontiguousarray(stack).data
            checksums[Path(path).stem] = hashlib.sha256(contents).hexdigest()
        return statistics, checksums


class EpochBatches(Sampler[list[int]]):
    """Shuffled batches of one epoch, as item numbers of a :class:`SliceDataset`.

    Several processes take every `world`-th slice each of a batch `world` times as large. Set
    `epoch` before each pass, and `start` to leave out the first batches of it.
    """

    def __init__(
        self, n_slices: int, batch_size: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        self.n_slices, self.seed, self.rank, self.world = n_slices, seed, rank, world
        self.together = batch_size * world
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        return max(1, self.n_slices // self.together)  # what is left over waits for the next epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.n_slices)
        order = np.resize(order, len(self) * self.together)  # repeats a set too small for one batch
        for batch in order.reshape(len(self), -1)[self.start :, self.rank :: self.world]:
            yield (self.epoch * self.n_slices + batch).tolist()
