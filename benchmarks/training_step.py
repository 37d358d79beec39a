"""Training steps per second, against a plain fp32 eager loop of the same network.

    python benchmarks/training_step.py --output results/benchmarks/training_step.json

All variants take turns in one process, so that a machine whose speed drifts is fair to each.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer

from quicknat.config import Network, TrainingSettings
from quicknat.hardware import keep_freed_memory
from quicknat.model.losses import CombinedLoss, class_weights, edge_weight
from quicknat.model.network import NetworkSettings, QuickNAT
from quicknat.training.setup import TrainingSetup
from quicknat.training.train_step import TrainStep, choose_device, choose_precision, make_optimizer


def plain_step(setup: TrainingSetup, device: torch.device) -> Callable[[dict], Any]:
    """What one would write first: fp32, default memory format, nothing compiled."""
    shape = NetworkSettings(**setup.settings.network.model_dump())
    network = QuickNAT(len(setup.classes), shape).to(device)
    loss = CombinedLoss(class_weights(setup.counts), edge_weight(setup.counts)).to(device)
    optimizer = make_optimizer(network, setup.settings)

    def step(batch: dict) -> None:
        optimizer.zero_grad()
        sum(loss(network(batch["image"]), batch["labels"])).backward()
        optimizer.step()

    return step


def our_step(setup: TrainingSetup, **changes: Any) -> Callable[[dict], torch.Tensor]:
    """The step of ``quicknat train`` with these settings."""
    settings = setup.settings.model_copy(update=changes)
    train_step = TrainStep(replace(setup, settings=settings), steps_per_epoch=100)
    if settings.compile and not train_step.compile():
        raise SystemExit("the network cannot be compiled here")
    numbers = iter(range(10**9))
    return lambda batch: train_step.step(batch, (next(numbers),))


def main(
    filters: Annotated[int, typer.Option(help="Channels of each convolution.")] = 64,
    size: Annotated[int, typer.Option(help="Side of the slices.")] = 256,
    classes: Annotated[int, typer.Option(help="Classes to tell apart.")] = 28,
    batch_size: Annotated[int, typer.Option(help="Slices per step.")] = 4,
    rounds: Annotated[int, typer.Option(help="Steps of each variant that count.")] = 3,
    threads: Annotated[int, typer.Option(help="Processor threads.")] = torch.get_num_threads(),
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Time a training step: plain fp32, and ours in fp32, in bf16, and compiled."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    random = np.random.default_rng(0)
    coarse = random.integers(0, classes, (batch_size, size // 16, size // 16))
    labels = coarse.repeat(16, axis=1).repeat(16, axis=2).astype(np.uint8)
    setup = TrainingSetup(
        view="coronal",
        protocol="none",
        classes=[str(k) for k in range(classes)],
        train=[],
        validation=[],
        settings=TrainingSettings(
            epochs=1,
            learning_rate=0.01,
            batch_size=batch_size,
            network=Network(filters=filters),
        ),
        output=Path(),
        initial=None,
        threads=threads,
        slice_shape=(size, size),
        counts=np.bincount(labels.ravel(), minlength=classes),
        training_stats={},
        fingerprint={},
        warm_start=None,
    )
    device = choose_device(setup.view)
    batch = {
        "image": torch.rand(batch_size, 1, size, size, device=device),
        "labels": torch.as_tensor(labels, device=device),
    }
    fast = choose_precision("auto")
    steps = {
        "plain fp32 eager loop": plain_step(setup, device),
        "32-true": our_step(setup, precision="32-true", compile=False),
        fast: our_step(setup, precision=fast, compile=False),
        f"{fast}, compiled": our_step(setup, precision=fast, compile=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step(batch)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - start)
    plain = median(seconds["plain fp32 eager loop"])
    rows = [
        {
            "variant": name,
            "seconds_per_step": median(times),
            "slices_per_second": batch_size / median(times),
            "times_plain": plain / median(times),
            "all_seconds": times,
        }
        for name, times in seconds.items()
    ]
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else f"{threads} thread(s)"
    print(f"{filters} filters, {classes} classes, {batch_size} x {size} x {size}, {hardware}")
    print(f"{'variant':26}{'s/step':>9}{'slices/s':>10}{'x plain':>9}")
    for row in rows:
        print(
            f"{row['variant']:26}{row['seconds_per_step']:9.3f}"
            f"{row['slices_per_second']:10.2f}{row['times_plain']:9.2f}"
        )
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "filters": filters, "classes": classes, "batch_size": batch_size, "size": size,
            "hardware": hardware, "torch": torch.__version__, "variants": rows,
        }  # fmt: skip
        output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
