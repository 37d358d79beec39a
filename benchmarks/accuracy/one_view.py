"""What one view's network learns in some minutes with another loss, rate, or more slices to see.

    python benchmarks/accuracy/one_view.py /scratch/cv/mirror/0 --output one_view.tsv
    python benchmarks/accuracy/one_view.py /scratch/cv/mirror/0 --output one_view.tsv --loss slice

RUN_FOLDER is an arm and fold of ``cross_validate.py`` whose scans are converted. Its training
persons are learnt from, its test persons segmented, all on the networks' grid: no other views, no
way back to the scan's own grid. Each call adds a row to OUTPUT, after five minutes of a core. What
is told apart here is worth trying in the workflow, no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from monai.losses import DiceCELoss
from our_run import OurRun
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from quicknat.cohort.sheet import Scan
from quicknat.config import TrainingSettings
from quicknat.images.conform import head_window, load_conformed
from quicknat.images.labels import Protocol
from quicknat.images.slices import crop, filled_enough, to_slices
from quicknat.images.volumes import read_volume
from quicknat.model.losses import CombinedLoss, class_weights, edge_weight
from quicknat.model.network import DenseBlock, NetworkSettings, QuickNAT
from quicknat.model.views import filled_slices
from quicknat.package_data import label_table
from quicknat.training.data import EpochBatches, augmentation
from quicknat.training.train_step import learning_rate_factor

VIEW, SPACING_MM, SIZE = "coronal", 2.0, 96
ROOT = Path(__file__).parents[2]


class Loss(StrEnum):
    """``batch`` and ``slice``: ours, see ``training.dice_reduction``; ``monai``: its DiceCELoss."""

    batch = "batch"
    slice = "slice"
    monai = "monai"


def window(run: OurRun, scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """Image and class indices of a scan, uint8, the cube that the networks see."""
    image, _, _ = load_conformed(run.conformed(scan, "T1w"))
    labels = read_volume(run.conformed(scan, "dseg")).data.astype(np.uint8)
    first = head_window(image, SPACING_MM, SIZE)
    return crop(image, first, SIZE), crop(labels, first, SIZE)


def slabs(image: np.ndarray, neighbours: int) -> np.ndarray:
    """Each slice between its neighbours, (n, 2 · neighbours + 1, H, W)."""
    slices = to_slices(image, VIEW)
    padded = np.pad(slices, ((neighbours, neighbours), (0, 0), (0, 0)), mode="edge")
    return np.stack([padded[i : i + len(slices)] for i in range(2 * neighbours + 1)], axis=1)


class Slabs(Dataset):
    """Training slices with their neighbours as channels; half of them mirrored, all augmented."""

    def __init__(self, run: OurRun, neighbours: int, protocol: Protocol) -> None:
        images, labels = [], []
        for scan in run.scans("train"):
            image, classes = window(run, scan)
            classes = to_slices(classes, VIEW)
            kept = filled_enough(classes)
            images.append(slabs(image, neighbours)[kept])
            labels.append(classes[kept])
        self.images, self.labels = np.concatenate(images), np.concatenate(labels)
        self.transform, self.swapped = augmentation(SIZE), protocol.swapped

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        image, labels = (part[number % len(self)] for part in (self.images, self.labels))
        if np.random.default_rng((0, number)).random() < 0.5:
            image, labels = image[:, ::-1], self.swapped[labels[::-1]]
        self.transform.set_random_state(number)
        item = {
            "image": torch.from_numpy(image.astype(np.float32) / 255),
            "labels": torch.from_numpy(labels[None].astype(np.float32)),
        }
        item = self.transform(item)
        return item["image"].as_tensor().clamp(0, 1), item["labels"].as_tensor()[0].long()


def make_loss(kind: Loss, counts: np.ndarray, power: float, edge: float) -> Callable:
    """From logits and labels to one number."""
    if kind is Loss.monai:
        theirs = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
        return lambda logits, labels: theirs(logits, labels[:, None])
    weights, omega = class_weights(counts, power, 10), edge * edge_weight(counts, power, 10)
    ours = CombinedLoss(weights, omega, "slice" if kind is Loss.slice else "batch")
    return lambda logits, labels: sum(ours(logits, labels))


def endless(data: Slabs, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one epoch after the other."""
    batches = EpochBatches(len(data), batch_size, 0)
    while True:
        batches.epoch += 1
        yield from DataLoader(data, batch_sampler=batches)


@torch.inference_mode()
def dice(network: QuickNAT, run: OurRun, neighbours: int, classes: int) -> list[float]:
    """Mean Dice over the structures of each test person, on the networks' grid."""
    means = []
    for scan in run.scans("test"):
        image, labels = window(run, scan)
        truth = to_slices(labels, VIEW)
        found, slices = np.zeros_like(truth), slabs(image, neighbours)
        for some in np.array_split(filled_slices(torch.from_numpy(image), VIEW).numpy(), 20):
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(torch.from_numpy(slices[some].astype(np.float32) / 255))
            found[some] = logits.float().argmax(dim=1).numpy()
        both = [np.sum((found == c) & (truth == c)) for c in range(1, classes)]
        sizes = [np.sum(found == c) + np.sum(truth == c) for c in range(1, classes)]
        means.append(float(np.mean(2 * np.array(both) / np.maximum(sizes, 1))))
    return means


def main(
    run_folder: Annotated[Path, typer.Argument(help="Of cross_validate.py: FOLDER/ARM/FOLD.")],
    output: Annotated[Path, typer.Option(help="Table that a row is added to.")],
    loss: Annotated[Loss, typer.Option(help="What to minimise.")] = Loss.batch,
    power: Annotated[float, typer.Option(help="Of the class weights; 0: all alike.")] = 0.33,
    edge: Annotated[float, typer.Option(help="Times the paper's weight of edges.")] = 1.0,
    learning_rate: Annotated[float, typer.Option()] = 0.003,
    neighbours: Annotated[int, typer.Option(help="Slices seen on either side.")] = 0,
    filters: Annotated[int, typer.Option()] = 24,
    dropout: Annotated[float, typer.Option(help="Share of channels dropped.")] = 0.1,
    steps: Annotated[int, typer.Option(help="Of four slices each.")] = 1500,
) -> None:
    """Train the coronal network, and measure it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    run = OurRun(run_folder.resolve(), run_folder, on_gpu=False)
    protocol = Protocol.read(label_table("quicknat28"))
    classes = protocol.n_classes(VIEW)
    data = Slabs(run, neighbours, protocol)
    network = QuickNAT(classes, NetworkSettings(filters=filters, dropout=dropout))
    network.encoders[0] = DenseBlock(2 * neighbours + 1, filters)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = torch.compile(network, dynamic=False)
    criterion = make_loss(loss, np.bincount(data.labels.ravel(), minlength=classes), power, edge)
    settings = TrainingSettings(epochs=1, learning_rate=learning_rate, optimizer="adamw")
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps, settings)
    )
    started = time.process_time()
    for _, (image, labels) in zip(range(steps), endless(data, 4), strict=False):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(image.to(memory_format=torch.channels_last))
        criterion(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    seconds = time.process_time() - started
    means = dice(network.eval(), run, neighbours, classes)
    row = {
        "loss": loss.value, "power": power, "edge": edge, "learning_rate": learning_rate,
        "neighbours": neighbours, "filters": filters, "dropout": dropout, "steps": steps,
        "dice": np.mean(means), "dice_sd": np.std(means), "persons": len(means),
        "seconds": round(seconds),
    }  # fmt: skip
    pd.DataFrame([row]).to_csv(
        output, sep="\t", index=False, mode="a", header=not output.exists(), float_format="%.4f"
    )
    print(row)


if __name__ == "__main__":
    typer.run(main)
