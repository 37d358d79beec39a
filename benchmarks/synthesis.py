"""Seconds to synthesize a batch of images from label maps, against the training step that follows.

    python benchmarks/synthesis.py --output results/benchmarks/synthesis.json

Both take turns in one process, so that a machine whose speed drifts is fair to each.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer

from quicknat.config import Network, TrainingSettings
from quicknat.hardware import keep_freed_memory
from quicknat.synthesis.synthesize import synthesize
from quicknat.synthesis.tissue_table import tissue_table
from quicknat.training.setup import TrainingSetup
from quicknat.training.train_step import TrainStep


def main(
    filters: Annotated[int, typer.Option(help="Channels of each convolution.")] = 16,
    size: Annotated[int, typer.Option(help="Side of the slices.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Slices per step.")] = 8,
    rounds: Annotated[int, typer.Option(help="Times of each that count.")] = 7,
    threads: Annotated[int, typer.Option(help="Processor threads.")] = torch.get_num_threads(),
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Time synthesis and a training step on slices of random patches of all tissues."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    random = np.random.default_rng(0)
    shape = (batch_size, size // 8, size // 8)
    patches = random.integers(0, len(tissue_table()), shape).astype(np.uint8)
    setup = TrainingSetup(
        view="coronal",
        protocol="none",
        classes=[str(k) for k in range(28)],
        train=[],
        validation=[],
        settings=TrainingSettings(
            epochs=1,
            learning_rate=0.001,
            optimizer="adamw",
            batch_size=batch_size,
            compile=False,
            network=Network(filters=filters),
        ),
        output=Path(),
        initial=None,
        threads=threads,
        slice_shape=(size, size),
        counts=np.ones(28),
        training_stats={},
        fingerprint={},
        warm_start=None,
    )
    train_step = TrainStep(setup, steps_per_epoch=100)
    device = train_step.device
    tissues = torch.as_tensor(patches.repeat(8, axis=1).repeat(8, axis=2), device=device)
    classes = torch.where(tissues < 28, tissues, 0)
    generator = torch.Generator(device).manual_seed(0)
    batch = {"image": torch.rand(batch_size, 1, size, size, device=device)}
    batch["labels"] = classes
    numbers = iter(range(10**9))
    steps = {
        "synthesize": lambda: synthesize(tissues, classes, generator),
        "training step": lambda: train_step.step(batch, (next(numbers),)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - start)
    cuda = device.type == "cuda"
    hardware = torch.cuda.get_device_name() if cuda else f"{threads} thread(s)"
    print(f"{filters} filters, {batch_size} x {size} x {size}, {hardware}")
    for name, times in seconds.items():
        print(f"{name:16}{median(times):9.4f} s")
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "filters": filters, "batch_size": batch_size, "size": size, "hardware": hardware,
            "torch": torch.__version__, "seconds": seconds,
        }  # fmt: skip
        output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
