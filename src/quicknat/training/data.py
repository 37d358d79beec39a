"""View stacks as torch datasets, their augmentation, their order, and the workers that load them.

Nothing here has a random state that advances: what is drawn depends on the seed, the epoch and the
slice alone. So a training that resumes in the middle of an epoch, with another number of workers,
sees exactly what it would have seen.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from torch.utils.data import DataLoader, Dataset, Sampler

from quicknat.errors import InputError
from quicknat.images.slices import open_stack
from quicknat.images.training_stats import ScanStatistics, describe_scan
from quicknat.synthesis.tissue_table import tissue_table

MAX_WORKERS = 8  # more cost memory and start-up time
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
    when left and right change places, half of the items at random are flipped. Each item is a dict:
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

    Set `epoch` before each pass, and `start` to leave out the first batches of it.
    """

    def __init__(self, n_slices: int, batch_size: int, seed: int) -> None:
        self.n_slices, self.batch_size, self.seed = n_slices, batch_size, seed
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        return max(1, self.n_slices // self.batch_size)  # the rest waits for the next epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.n_slices)
        order = np.resize(order, len(self) * self.batch_size)  # repeats a set smaller than a batch
        for batch in order.reshape(len(self), -1)[self.start :]:
            yield (self.epoch * self.n_slices + batch).tolist()


class Loader:
    """Batches of a dataset on a device, loaded by worker processes.

    Args:
        slices: a dataset whose items are dicts of tensors.
        device: where the batches go.
        workers: processes; 0: this one loads.
        how: how batches are formed, keywords of :class:`torch.utils.data.DataLoader`.
    """

    def __init__(self, slices: Dataset, device: torch.device, workers: int, **how: Any) -> None:
        self.device = device
        self.loader: DataLoader = DataLoader(
            slices,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            worker_init_fn=outlive_termination,
            **how,
        )

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for batch in self.loader:
            yield {key: part.to(self.device, non_blocking=True) for key, part in batch.items()}

    def end(self) -> None:
        """End the workers; the interpreter would ask them by SIGTERM, and wait."""
        iterator: Any = self.loader._iterator  # nothing here has a public name
        if iterator:
            iterator._shutdown_workers()
            for worker in iterator._workers:  # one that still waits for a disk
                worker.kill()


def outlive_termination(worker: int) -> None:
    """Begin a worker: a SIGTERM that a scheduler sends to all of a job does not end it.

    The training that it serves gets the same signal, has yet to save its state, and ends its
    workers itself.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def share_threads(threads: int, workers: int | None) -> int:
    """Give torch the job's CPU threads that no worker needs; return how many workers to use.

    Threads beyond the job's own are ruinous where jobs run side by side.

    Args:
        threads: of the job.
        workers: as the settings have it; None: as many as suit the device.
    """
    if workers is None:  # a GPU leaves the CPU to the workers; a CPU does all in turn
        workers = min(threads - 1, MAX_WORKERS) if torch.cuda.is_available() else 0
    torch.set_num_threads(max(1, threads - workers))
    return workers
