"""Make training batches on the device: order, flip, augment or synthesize slices.

No random state advances here: random numbers depend only on seed, epoch and step. So a training
that resumes within an epoch sees exactly the same data.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quicknat.config import TrainingSettings
from quicknat.errors import InputError
from quicknat.images.slices import open_stack
from quicknat.images.training_stats import ScanStatistics, describe_scan
from quicknat.synthesis.synthesize import synthesize
from quicknat.synthesis.tissues import tissue_table
from quicknat.training.augmentation import augment

log = logging.getLogger(__name__)

# of its free memory for slices: other views may share it, and training needs 5 GB, or 8 in fp32
# (computed for 48 filters, 16 slices of 192 × 192)
MOST_OF_GPU = 0.25
AGAIN = "slice all scans again with one label table and size"
CUT = 3, 4  # three of four batches are cut to the brain
AROUND = 1.08  # a brain's extent, for the side of that window
JITTER = 1 / 16  # of its side


def uploaded(numbers: np.ndarray, device: torch.device) -> Tensor:
    """Copy a few numbers to a device without waiting for a GPU, so that steps can queue up."""
    return torch.from_numpy(numbers).to(device, non_blocking=True)


class SliceSet:
    """All slices of view stacks, numbered through: first those of scans, then those of tissues.

    The stacks stay in their memory-mapped files, unless :meth:`load` copies them to a GPU.

    Args:
        paths: view stacks (``.npy``), uint8 (n, 2, H, W): image and classes.
        tissues: view stacks with tissue indices instead of an image.
        stride: use every n-th slice of a scan.
        count: slices to take at a time, with the one wanted in the middle, see
            :func:`quicknat.model.views.with_neighbours`.

    Raises:
        InputError: a file is not a view stack, or slice shapes differ.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        tissues: Sequence[str | Path] = (),
        stride: int = 1,
        count: int = 1,
    ) -> None:
        self.paths, self.n_images, self.stride = [*paths, *tissues], len(paths), stride
        step = stride if count == 1 else 1  # slices between are neighbours, or not needed
        self.stacks = [open_stack(path)[::step] for path in self.paths]
        stride //= step
        self.offsets = np.arange(count) - count // 2
        for path, stack in zip(self.paths, self.stacks, strict=True):
            shape, first = stack.shape[2:], self.stacks[0].shape[2:]
            if shape != first:
                raise InputError(
                    path, f"slices are {shape}, those of {self.paths[0]} {first}", AGAIN
                )
        chosen = [np.arange(0, len(stack), stride) for stack in self.stacks]
        self.starts = np.cumsum([0, *map(len, self.stacks)])  # of each stack among all
        # of each slice: its scan, and its number in the scan's stack
        self.scans = np.repeat(np.arange(len(chosen)), [len(part) for part in chosen])
        self.within = np.concatenate([np.zeros(0, dtype=int), *chosen])
        self.first_tissues = int(np.searchsorted(self.scans, len(paths)))
        self.resident: Tensor | None = None

    def __len__(self) -> int:
        return len(self.scans)

    def load(self, device: torch.device) -> None:
        """Copy all slices to a GPU, if they take at most a quarter of its free memory."""
        if device.type == "cpu" or not len(self):
            return
        needed, free = sum(stack.size for stack in self.stacks), torch.cuda.mem_get_info(device)[0]
        if needed > MOST_OF_GPU * free:
            log.info(
                "%.1f GB of slices are streamed: the GPU has %.1f GB free", needed / 1e9, free / 1e9
            )
            return
        shape = int(self.starts[-1]), *self.stacks[0].shape[1:]
        self.resident = torch.empty(shape, dtype=torch.uint8, device=device)
        for start, stack in zip(self.starts[:-1], self.stacks, strict=True):
            part = torch.from_numpy(np.array(stack)).to(device)
            self.resident[start : start + len(stack)] = part

    def take(self, numbers: np.ndarray, device: torch.device) -> Tensor:
        """Return some slices with their neighbours on a device, uint8 (n, count, 2, H, W)."""
        scans = self.scans[numbers]
        last = np.diff(self.starts)[scans, None] - 1
        within = (self.within[numbers, None] + self.offsets).clip(0, last)
        if self.resident is not None:
            return self.resident[uploaded(self.starts[scans, None] + within, device)]
        pairs = [self.stacks[scan][some] for scan, some in zip(scans, within, strict=True)]
        taken = torch.from_numpy(np.stack(pairs))
        # a GPU copies pinned memory while it computes earlier steps
        return taken if device.type == "cpu" else taken.pin_memory().to(device, non_blocking=True)

    def survey(self, n_classes: int) -> tuple[list[ScanStatistics], dict[str, str], np.ndarray]:
        """Read all stacks; return statistics of each scan, and SHA-256 of each stack by name.

        The intensity of synthetic images varies, so it is NaN. Last comes the box of each scan's
        structures within the slices, int (scans, 2, 2): first row and column, and those after the
        last.

        Raises:
            InputError: a stack holds an unknown class or tissue.
        """
        statistics, checksums, boxes = [], {}, np.zeros((len(self.paths), 2, 2), dtype=int)
        for number, (path, whole) in enumerate(zip(self.paths, self.stacks, strict=True)):
            stack = whole if len(self.offsets) == 1 else whole[:: self.stride]
            synthetic = number >= self.n_images
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
            for axis, other in enumerate((1, 0)):
                inside = np.flatnonzero(np.any(stack[:, 1], axis=(0, 1 + other)))
                boxes[number, :, axis] = (inside[0], inside[-1] + 1) if len(inside) else 0
        return statistics, checksums, boxes


class Batches:
    """Shuffled, flipped, augmented and synthesized batches of a training.

    Three batches of four are cut to a window as large as the largest brain, placed at random about
    each scan's own, since segmentation cuts its slices, too: that is quicker, and
    squeeze-and-excitation, which averages over a slice, has to know both.

    Args:
        slices: to train on.
        settings: of the training.
        swapped: the class of each class after a left–right flip; None: nothing is flipped.
        device: of the batches.
        boxes: of each scan's structures, see :meth:`SliceSet.survey`; None: nothing is cut.
    """

    def __init__(
        self,
        slices: SliceSet,
        settings: TrainingSettings,
        swapped: np.ndarray | None,
        device: torch.device,
        boxes: np.ndarray | None = None,
    ) -> None:
        self.slices, self.settings, self.device = slices, settings, device
        self.shape = np.array(slices.stacks[0].shape[2:])
        if boxes is None:
            boxes = np.tile([np.zeros(2), self.shape], (len(slices.stacks), 1, 1))
        extent = AROUND * np.diff(boxes, axis=1).max(axis=0)[0]
        self.window = np.minimum(self.shape, 16 * np.ceil(extent / 16).astype(int))
        self.cuts = bool((self.window < self.shape).any())
        self.centres = boxes.mean(axis=1)
        self.swapped = (
            None if swapped is None else torch.from_numpy(swapped.astype("u1")).to(device)
        )

    def __len__(self) -> int:
        """Return the steps of an epoch; slices beyond a whole batch are left to later epochs."""
        return max(1, len(self.slices) // self.settings.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch from step `start` on, see :meth:`batch`."""
        order = np.random.default_rng((self.settings.seed, epoch)).permutation(len(self.slices))
        # repeat a set smaller than a batch
        order = np.resize(order, (len(self), self.settings.batch_size))
        for step in range(start, len(self)):
            yield self.batch(order[step], (epoch, step))

    def batch(self, numbers: np.ndarray, position: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return a batch: slices with neighbours and their classes.

        Args:
            numbers: of the slices (N,).
            position: epoch and step, which with the seed determine the random numbers.

        Returns:
            Images float32 (N, slices, H, W) in 0 … 1, classes of the middle ones uint8 (N, H, W).
        """
        seed = np.random.SeedSequence((self.settings.seed, *position)).generate_state(1)[0]
        generator = torch.Generator(self.device).manual_seed(int(seed))
        image, labels = self.slices.take(numbers, self.device).unbind(dim=2)
        centres = uploaded(self.centres[self.slices.scans[numbers]], self.device)
        if self.swapped is not None:
            half = torch.rand(len(numbers), generator=generator, device=self.device) < 0.5
            mirrored = self.shape[0] - centres[:, 0]
            centres[:, 0] = torch.where(half, mirrored, centres[:, 0])
            half = half[:, None, None, None]  # the left–right axis comes first in (X, …), RAS+ axes
            image = torch.where(half, image.flip(2), image)
            labels = torch.where(half, self.swapped[labels.flip(2).int()], labels)
        elif self.settings.flip:  # sagittal: in the other half of the head neighbours change sides
            half = torch.rand(len(numbers), generator=generator, device=self.device) < 0.5
            image, labels = (
                torch.where(half[:, None, None, None], part.flip(1), part)
                for part in (image, labels)
            )
        synthetic = numbers >= self.slices.first_tissues
        values, middle = image.float() / 255, image.shape[1] // 2
        wanted = labels[:, middle]
        for kind in (False, True):
            if not (synthetic == kind).any() or not (kind or self.settings.augment):
                continue
            which = uploaded(np.flatnonzero(synthetic == kind), self.device)
            if kind:
                changed = synthesize(image[which], labels[which], generator)
            else:
                changed = augment(values[which], wanted[which], generator)
            values = values.index_copy(0, which, changed[0])
            wanted = wanted.index_copy(0, which, changed[1])
        if self.cuts and sum(position) % CUT[1] < CUT[0]:
            return self._cut(values, wanted, centres, generator)
        return values, wanted

    def _cut(
        self, values: Tensor, wanted: Tensor, centres: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Cut a batch to the window, which for each slice lies about its scan's centre (N, 2)."""
        parts = []
        for axis, (side, whole) in enumerate(zip(self.window.tolist(), self.shape, strict=True)):
            random = torch.rand(len(values), generator=generator, device=self.device)
            start = centres[:, axis] - side / 2 + side * JITTER * (2 * random - 1)
            first = start.round().clamp(0, whole - side).long()
            parts.append(first[:, None] + torch.arange(side, device=self.device))
        each = torch.arange(len(values), device=self.device)[:, None, None]
        rows, columns = parts[0][:, :, None], parts[1][:, None, :]
        values = values.movedim(1, -1)[each, rows, columns].movedim(-1, 1)
        return values, wanted[each, rows, columns]
