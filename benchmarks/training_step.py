"""Training slices per second, against a plain loop as one would write it first.

    python benchmarks/training_step.py --output results/benchmarks/training_step.json

All variants take turns in one process, so that a machine whose speed drifts is fair to each. The
same on a GPU; on an H100 with the figures of a large model, in two minutes:

    python benchmarks/training_step.py --filters 48 --size 192 --batch-size 16 --rounds 100
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
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
from quicknat.synthesis.tissues import tissue_table
from quicknat.training.data import Batches, SliceSet
from quicknat.training.setup import TrainingSetup
from quicknat.training.train_step import TrainStep, choose_device, choose_precision, make_optimizer

SLICES = 64  # on the disk, of each kind


def made_up_slices(folder: Path, size: int, classes: int) -> tuple[Path, Path]:
    """Write a view stack and one of tissues, both of random patches."""
    random = np.random.default_rng(0)
    patches = random.integers(0, classes, (SLICES, 1, size // 16, size // 16))
    labels = patches.repeat(16, axis=2).repeat(16, axis=3).astype(np.uint8)
    image = np.clip(3 * labels + random.normal(60, 10, labels.shape), 0, 255).astype(np.uint8)
    paths = folder / "scan.npy", folder / "tissues.npy"
    for path, values in zip(paths, (image, labels % len(tissue_table())), strict=True):
        np.save(path, np.concatenate([values, labels], axis=1))
    return paths


def plain_step(setup: TrainingSetup, device: torch.device) -> Callable[[Any], Any]:
    """What one would write first: fp32, default memory format, nothing compiled."""
    shape = NetworkSettings(**setup.settings.network.model_dump())
    network = QuickNAT(len(setup.classes), shape).to(device)
    loss = CombinedLoss(class_weights(setup.counts), edge_weight(setup.counts)).to(device)
    optimizer = make_optimizer(network, setup.settings)

    def step(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        optimizer.zero_grad()
        sum(loss(network(batch[0]), batch[1])).backward()
        optimizer.step()

    return step


def our_step(setup: TrainingSetup, batches: Batches, **changes: Any) -> Callable[[Any], Any]:
    """The step of ``quicknat train`` with these settings."""
    train_step = TrainStep(replace(setup, settings=setup.settings.model_copy(update=changes)))
    if changes["compile"]:
        start = time.perf_counter()
        if not train_step.compile([next(batches.epoch(1))]):
            raise SystemExit("the network cannot be compiled here")
        print(f"compiling took {time.perf_counter() - start:.1f} s")
    return lambda batch: train_step.step(batch[0], batch[1], (0, 0), 0.001)


def main(
    filters: Annotated[int, typer.Option(help="Channels of each convolution.")] = 64,
    size: Annotated[int, typer.Option(help="Side of the slices.")] = 256,
    classes: Annotated[int, typer.Option(help="Number of classes.")] = 28,
    batch_size: Annotated[int, typer.Option(help="Slices per step.")] = 4,
    rounds: Annotated[int, typer.Option(help="Steps of each variant that count.")] = 3,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = torch.get_num_threads(),
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Time making a batch, training on it, and both together."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    keep_freed_memory()
    device = choose_device("coronal")
    settings = TrainingSettings(
        epochs=1, learning_rate=0.01, batch_size=batch_size, network=Network(filters=filters)
    )
    with tempfile.TemporaryDirectory() as folder:
        scan, tissues = made_up_slices(Path(folder), size, classes)
        real, synthetic = SliceSet([scan]), SliceSet([], [tissues])
        for slices in (real, synthetic):
            slices.load(device)
        counts = np.bincount(np.load(scan)[:, 1].ravel(), minlength=classes)
        ways = {
            "taken": Batches(real, settings.model_copy(update={"augment": False}), None, device),
            "augmented": Batches(real, settings, np.arange(classes), device),
            "synthesized": Batches(synthetic, settings, None, device),
        }
        setup = TrainingSetup(
            view="coronal",
            protocol="none",
            classes=[str(k) for k in range(classes)],
            train=[],
            validation=[],
            settings=settings,
            output=Path(),
            initial=None,
            threads=threads,
            slice_shape=(size, size),
            counts=counts,
            training_stats={},
            fingerprint={},
            warm_start=None,
        )
        fast = choose_precision("auto")
        numbers = np.arange(batch_size) % SLICES
        batch = ways["augmented"].batch(numbers, (1, 0))
        compiled = our_step(setup, ways["augmented"], precision=fast, compile=True)
        steps: dict[str, Callable[[], Any]] = {
            f"batch, {name}": partial(way.batch, numbers, (1, 0)) for name, way in ways.items()
        }
        for name, step in {
            "plain fp32 eager loop": plain_step(setup, device),
            "32-true": our_step(setup, ways["augmented"], precision="32-true", compile=False),
            fast: our_step(setup, ways["augmented"], precision=fast, compile=False),
            f"{fast}, compiled": compiled,
        }.items():
            steps[f"step, {name}"] = partial(step, batch)
        steps["augmented, compiled step"] = lambda: compiled(
            ways["augmented"].batch(numbers, (1, 0))
        )
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        peaks = dict.fromkeys(steps, 0.0)  # GiB of a GPU
        cuda = device.type == "cuda"
        for number in range(rounds + 1):
            for name, act in steps.items():
                if cuda:
                    torch.cuda.reset_peak_memory_stats()
                start = time.perf_counter()
                act()
                if cuda:
                    torch.cuda.synchronize()
                    peaks[name] = torch.cuda.max_memory_allocated() / 2**30
                if number:  # the first is a warm-up
                    seconds[name].append(time.perf_counter() - start)
    plain = median(seconds["step, plain fp32 eager loop"])
    rows = [
        {
            "variant": name,
            "seconds": median(times),
            "slices_per_second": batch_size / median(times),
            "times_plain": plain / median(times),
            "all_seconds": times,
            "gpu_peak_gib": peaks[name],
        }
        for name, times in seconds.items()
    ]
    hardware = torch.cuda.get_device_name() if cuda else f"{threads} thread(s)"
    print(f"{filters} filters, {classes} classes, {batch_size} x {size} x {size}, {hardware}")
    print(f"{'variant':30}{'s':>9}{'slices/s':>10}{'x plain':>9}{'GPU GiB':>9}")
    for row in rows:
        print(
            f"{row['variant']:30}{row['seconds']:9.4f}"
            f"{row['slices_per_second']:10.2f}{row['times_plain']:9.2f}{row['gpu_peak_gib']:9.2f}"
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
