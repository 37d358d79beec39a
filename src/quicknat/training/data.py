"""Load, augment and order the training slices.

No random state advances here: random numbers depend only on seed, epoch and slice. So a training
that resumes within an epoch, or with another number of workers, sees exactly the same data.
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
    """Return a random rotation, scaling, shift, contrast, gain, blur and noise of one slice.

    It does not flip, since left and right are different classes; see :class:`SliceDataset`.
    """
    # nearest label: with random rotation and scaling no pixel lies half-way between two, so
    # neither side is preferred
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

    With `stride` n, every n-th slice of a scan is used. With `swapped` (what each class becomes
    in a left–right flip), a random half of the items is flipped. Each item is a dict:
    ``image`` float32 (1, H, W) in 0 … 1, ``labels`` uint8 (H, W). Item `k` is slice ``k % len``;
    with a transform, ``k // len`` is the epoch it is augmented for.

    With `tissues` stacks, which follow the others, items have ``tissues`` (bool): true if the image
    is not augmented and holds tissue indices, from which
    :func:`quicknat.synthesis.synthesize.synthesize_batch` makes an image.

    Raises:
        InputError: a file is not a view stack, or slice shapes differ.
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
        self.images = len(paths)  # number of scans with an image
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
        synthetic = scan >= self.images
        image = torch.from_numpy(pair[:1].astype(np.float32) / (1 if synthetic else 255))
        kind = {"tissues": torch.tensor(synthetic)} if len(self.paths) > self.images else {}
        # "is None": the truth value of a Compose is its length, and computing that reseeds it
        if synthetic or self.transform is None:
            return {"image": image, "labels": torch.from_numpy(pair[1].copy()), **kind}
        draw = np.random.SeedSequence((self.seed, number)).generate_state(1)[0]
        self.transform.set_random_state(int(draw))
        item = self.transform({"image": image, "labels": torch.from_numpy(pair[1:].astype("f4"))})
        # a MetaTensor would carry its metadata through every layer of the network
        image, labels = (convert_to_tensor(item[key], track_meta=False) for key in item)
        return {"image": image.clamp(0, 1), "labels": labels[0].byte(), **kind}

    def survey(self, n_classes: int) -> tuple[list[ScanStatistics], dict[str, str]]:
        """Read all stacks; return statistics of each scan, and SHA-256 of each stack by name.

        The intensity of synthetic images varies, so it is NaN.

        Raises:
            InputError: a stack holds an unknown class or tissue.
        """
        statistics, checksums = [], {}
        for number, (path, stack) in enumerate(zip(self.paths, self.stacks, strict=True)):
            synthetic = number >= self.images
            top = int(stack[:, 1].max(initial=0))
            if top >= n_classes:
                raise InputError(path, f"holds class {top}, but there are {n_classes}", AGAIN)
            if synthetic and (top := int(stack[:, 0].max(initial=0))) >= len(tissue_table()):
                raise InputError(path, f"holds tissue {top}", "delete it and rerun")
            # tissue is bright
            slices = (((pair[0] > 0) * np.uint8(255), pair[1]) for pair in stack)
            found = describe_scan(slices if synthetic else stack, n_classes)
            if synthetic:
                found = replace(found, intensity=np.full(n_classes, np.nan))
            # estimate for all slices
            statistics.append(replace(found, voxels=found.voxels * self.stride))
            contents = np.ascontiguousarray(stack).data
            checksums[Path(path).stem] = hashlib.sha256(contents).hexdigest()
        return statistics, checksums


class EpochBatches(Sampler[list[int]]):
    """Shuffled batches of one epoch, as item indices of a :class:`SliceDataset`.

    Set `epoch` before each pass, and `start` to skip its first batches.
    """

    def __init__(self, n_slices: int, batch_size: int, seed: int) -> None:
        self.n_slices, self.batch_size, self.seed = n_slices, batch_size, seed
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        return max(1, self.n_slices // self.batch_size)  # the remainder is left to later epochs

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.n_slices)
        order = np.resize(order, len(self) * self.batch_size)  # repeat a set smaller than a batch
        for batch in order.reshape(len(self), -1)[self.start :]:
            yield (self.epoch * self.n_slices + batch).tolist()


class Loader:
    """Load batches of a dataset to a device, with worker processes.

    Args:
        slices: a dataset whose items are dicts of tensors.
        device: where the batches go.
        workers: number of worker processes; 0: load in this process.
        how: keywords of :class:`torch.utils.data.DataLoader`, on how to form batches.
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
        """Stop the workers, which ignore the SIGTERM that the interpreter would send."""
        iterator: Any = self.loader._iterator  # no public API for this
        if iterator:
            iterator._shutdown_workers()
            for worker in iterator._workers:  # one that still waits for the disk
                worker.kill()


def outlive_termination(worker: int) -> None:
    """Make a worker ignore SIGTERM, which schedulers send to all processes of a job.

    The training process gets the same signal, saves its state first, and then stops its workers.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def share_threads(threads: int, workers: int | None) -> int:
    """Give torch the CPU threads that workers do not need; return the number of workers.

    More threads than the job's would slow down parallel jobs badly.

    Args:
        threads: of the job.
        workers: from the settings; None: as many as suit the device.
    """
    if workers is None:  # with a GPU, CPU threads are free for workers
        workers = min(threads - 1, MAX_WORKERS) if torch.cuda.is_available() else 0
    torch.set_num_threads(max(1, threads - workers))
    return workers
