"""Train one view's network (Roy et al. 2019, sections 2.3 and 3.2)."""

from __future__ import annotations

import ctypes
import json
import logging
import platform
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import lightning_fabric
import monai
import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import quicknat
from quicknat.data import SliceDataset, augmentation
from quicknat.errors import InputError, written_whole
from quicknat.labels import Protocol
from quicknat.losses import CombinedLoss, class_weights, edge_weight
from quicknat.network import QuickNAT
from quicknat.optimizers import TrainingSettings, learning_rate_factor, make_optimizer
from quicknat.slices import class_counts
from quicknat.volumes import sha256

log = logging.getLogger(__name__)


def keep_freed_memory() -> None:
    """Let glibc reuse the large blocks that a training step frees.

    By default it hands each of them back to the kernel, which then has to clear the same pages
    again at every layer of every step. Has no effect without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        mallopt(mmap_threshold, 32 << 20)  # the largest that glibc takes
        mallopt(trim_threshold, 2**31 - 1)


def _loader(dataset: SliceDataset, settings: TrainingSettings, shuffle: bool) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size=settings.batch_size,
        shuffle=shuffle,
        drop_last=shuffle and len(dataset) >= settings.batch_size,
        num_workers=settings.workers,
        worker_init_fn=monai.data.utils.worker_init_fn if settings.workers else None,
        persistent_workers=settings.workers > 0,
        generator=torch.Generator().manual_seed(settings.seed),
    )


def _epoch(
    fabric: Fabric,
    network: torch.nn.Module,
    loss: CombinedLoss,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    scheduler: LambdaLR,
    accumulate: int,
    label: str,
) -> tuple[float, float]:
    """One pass over the training slices; mean weighted cross-entropy and Dice loss."""
    network.train()
    sums, batches = np.zeros(2), len(loader)
    for number, batch in enumerate(tqdm(loader, desc=label, unit="batch", disable=None), start=1):
        stepping = number % accumulate == 0 or number == batches
        with fabric.no_backward_sync(network, enabled=not stepping):
            entropy, dice = loss(network(batch["image"]), batch["labels"])
            total = entropy + dice
            if not torch.isfinite(total):
                raise InputError(
                    label, f"the loss is {total.item()}", "lower the learning rate and rerun"
                )
            fabric.backward(total / accumulate)
        if stepping:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            scheduler.step()
        sums += (entropy.item(), dice.item())
    return tuple(sums / batches)


@torch.no_grad()
def validate(
    network: torch.nn.Module, loss: CombinedLoss, loader: Iterable, n_classes: int
) -> tuple[float, np.ndarray]:
    """Validation loss and Dice per class over all slices together.

    Returns:
        Mean loss, and float (C,) Dice; NaN for a class that is in neither map.
    """
    network.eval()
    counts = torch.zeros(3, n_classes, dtype=torch.long)
    losses = []
    for batch in loader:
        logits = network(batch["image"])
        losses.append(sum(loss(logits, batch["labels"])).item())
        predicted, truth = logits.argmax(dim=1).cpu(), batch["labels"].cpu()
        for row, labels in enumerate((predicted, truth, truth[predicted == truth])):
            counts[row] += torch.bincount(labels.flatten(), minlength=n_classes)
    size = (counts[0] + counts[1]).double()
    dice = torch.where(size > 0, 2 * counts[2] / size, torch.nan)
    return float(np.mean(losses)), dice.numpy()


def sum_class_counts(dataset: SliceDataset, n_classes: int) -> np.ndarray:
    """Pixels of each class over a whole data set, int64 (C,).

    Raises:
        InputError: a stack holds a class that the network does not have.
    """
    total = np.zeros(n_classes, dtype=np.int64)
    for path, stack in zip(dataset.paths, dataset.stacks, strict=True):
        counts = class_counts(stack, n_classes)
        if len(counts) > n_classes:
            raise InputError(path, f"holds class {len(counts) - 1}, but there are {n_classes}")
        total += counts
    return total


def load_weights(network: torch.nn.Module, path: str | Path) -> None:
    """Load safetensors weights into a network of exactly that shape.

    Raises:
        InputError: the file is damaged or holds another network.
    """
    try:
        network.load_state_dict(load_file(path))
    except Exception as error:  # safetensors and torch raise many kinds; all mean the same here
        raise InputError(
            path, f"does not hold the weights of this network ({str(error).splitlines()[0]})"
        ) from error


def train_view(
    view: str,
    protocol: Protocol,
    train: Sequence[str | Path],
    validation: Sequence[str | Path],
    settings: TrainingSettings,
    output: str | Path,
    initial: str | Path | None = None,
    threads: int = 1,
) -> None:
    """Train one view and write ``model.safetensors``, ``model.json``, ``history.tsv``.

    The weights kept are those of the epoch with the best mean validation Dice over the structures;
    without validation scans, those of the last epoch. TensorBoard logs go to ``tensorboard/``.

    Args:
        view: ``coronal``, ``axial`` or ``sagittal``.
        protocol: gives the classes.
        train, validation: view stacks (``.npy``) of that view.
        settings: network and schedule.
        output: folder of the model.
        initial: weights to start from (safetensors), for fine-tuning.
        threads: processor threads for torch.

    Raises:
        InputError: no training slices, stacks of another shape, or a loss that is not finite.
    """
    if not train:
        raise InputError(
            "training set", f"no scans to train the {view} view on", "add rows with use=train"
        )
    torch.set_num_threads(threads)
    keep_freed_memory()
    output = Path(output)
    shutil.rmtree(output / "tensorboard", ignore_errors=True)  # curves of an earlier training
    fabric = Fabric(accelerator="auto", devices=1, precision=settings.precision)
    fabric.seed_everything(settings.seed, verbose=False)
    names = protocol.class_names(view)

    plain, validating = SliceDataset(train), SliceDataset(validation)
    for what, dataset in (("training", plain), ("validation", validating)):
        if dataset.stacks and not len(dataset):
            raise InputError(f"{what} set", f"no {view} slice of its scans shows a structure")
    counts = sum_class_counts(plain, len(names))
    shape = plain.stacks[0].shape[2:]
    transform = augmentation(shape[0], settings.seed) if settings.augment else None
    train_loader, validation_loader = fabric.setup_dataloaders(
        _loader(SliceDataset(train, transform), settings, shuffle=True),
        _loader(validating, settings, shuffle=False),
    )

    network = QuickNAT(len(names), settings.network)
    if initial:
        load_weights(network, initial)
    power, cap = settings.class_weight_power, settings.class_weight_cap
    loss = CombinedLoss(class_weights(counts, power, cap), edge_weight(counts, power, cap))
    loss = loss.to(fabric.device)
    network = network.to(memory_format=torch.channels_last)
    model, optimizer = fabric.setup(network, make_optimizer(network, settings))
    steps_per_epoch = -(-len(train_loader) // settings.accumulate)
    scheduler = LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps_per_epoch, settings)
    )
    log.info(
        "%s: %d slices of %d scans to train on, %d to validate on; %s, %s, %d thread(s)",
        view, len(plain), len(train), len(validation_loader.dataset), fabric.device,
        settings.precision, threads,
    )  # fmt: skip

    history, best, best_weights = [], (-1.0, 0), {}
    with SummaryWriter(output / "tensorboard") as board:
        for epoch in range(1, settings.epochs + 1):
            rate, start = scheduler.get_last_lr()[0], time.perf_counter()
            entropy, dice_term = _epoch(
                fabric, model, loss, train_loader, optimizer, scheduler, settings.accumulate,
                f"{view} {epoch}/{settings.epochs}",
            )  # fmt: skip
            trained = time.perf_counter() - start
            row = {
                "epoch": epoch,
                "learning_rate": rate,
                "train_loss": entropy + dice_term,
                "train_cross_entropy": entropy,
                "train_dice_loss": dice_term,
            }
            score = float(epoch)  # without validation scans the latest epoch is the best
            if validation:
                row["val_loss"], dice = validate(model, loss, validation_loader, len(names))
                row["val_dice"] = score = float(np.nanmean(dice[1:]))
                row |= {
                    f"dice/{name}": value for name, value in zip(names[1:], dice[1:], strict=True)
                }
            row["seconds"] = time.perf_counter() - start
            row["slices_per_second"] = len(train_loader) * settings.batch_size / trained
            history.append(row)
            for key, value in row.items():
                board.add_scalar(key, value, epoch)
            log.info(
                "%s epoch %d/%d: loss %.3f, validation loss %.3f, validation Dice %.3f, "
                "rate %.2g, %.0f slices/s, %.0f s left",
                view, epoch, settings.epochs, row["train_loss"], row.get("val_loss", np.nan),
                row.get("val_dice", np.nan), rate, row["slices_per_second"],
                row["seconds"] * (settings.epochs - epoch),
            )  # fmt: skip
            if score > best[0]:
                best = (score, epoch)
                best_weights = {k: v.detach().clone() for k, v in network.state_dict().items()}

    description = {
        "view": view,
        "protocol": protocol.name,
        "classes": names,
        "slice_shape": list(shape),
        "network": network.describe(),
        "training": {k: v for k, v in asdict(settings).items() if k != "network"},
        "class_counts": counts.tolist(),
        "class_weights": loss.weights.cpu().numpy().round(4).tolist(),
        "edge_weight": round(loss.edge, 4),
        "initial_sha256": sha256(initial) if initial else None,
        "training_scans": [Path(path).stem for path in train],
        "validation_scans": [Path(path).stem for path in validation],
        "best_epoch": best[1],
        "best_val_dice": best[0] if validation else None,
        "device": str(fabric.device),
        "versions": {
            "quicknat": quicknat.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "monai": monai.__version__,
            "lightning-fabric": lightning_fabric.__version__,
        },
    }
    files = [output / name for name in ("model.safetensors", "model.json", "history.tsv")]
    with written_whole(*files) as (weights, sidecar, table):
        save_file({k: v.contiguous().cpu() for k, v in best_weights.items()}, weights)
        sidecar.write_text(json.dumps(description, indent=2) + "\n")
        pd.DataFrame(history).to_csv(table, sep="\t", index=False, float_format="%.6g")
    log.info("%s: kept epoch %d; wrote %s", view, best[1], files[0])
