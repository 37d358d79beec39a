"""Train networks for a given time, several of them side by side on one GPU."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from device_data import Slices
from torch import multiprocessing, nn

from quicknat.config import TrainingSettings
from quicknat.model.losses import CombinedLoss, class_weights, edge_weight
from quicknat.model.network import NetworkSettings, QuickNAT
from quicknat.training.train_step import learning_rate_factor

POWER, CAP = 0.33, 10  # of the class weights
RATE, WARMUP = 0.006, 0.05
STEPS = 10_000  # that the time is divided into, for the learning rate


def arguments(about: str | None) -> argparse.ArgumentParser:
    """What both scripts are told."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("pack", type=Path, help="File of pack.py.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=16, help="Slices of a step.")
    parser.add_argument("--scored", type=int, default=99, help="At most so many scans.")
    parser.add_argument("--device", default="cuda")
    return parser


def set_up() -> None:
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    torch.set_num_threads(1)


def our_loss(slices: Slices) -> CombinedLoss:
    """Loss with the weights that these slices give."""
    return CombinedLoss(
        class_weights(slices.counts, POWER, CAP), edge_weight(slices.counts, POWER, CAP), "batch"
    ).to(slices.volumes.device)


def added(loss: CombinedLoss) -> Callable:
    return lambda logits, labels: sum(loss(logits, labels))


def quicknat_of(filters: int, dropout: float, slices: Slices, device: str) -> QuickNAT:
    network = QuickNAT(slices.classes, NetworkSettings(filters=filters, dropout=dropout))
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def warm_up(network: nn.Module, slices: Slices, loss: Callable, batch: int) -> None:
    """Two steps without learning, in which cuDNN finds out how each layer is computed fastest."""
    network.train()
    for _ in range(2):
        image, labels = slices.batch(batch)
        with torch.autocast("cuda", torch.bfloat16, enabled=image.is_cuda):
            logits = network(image.to(memory_format=torch.channels_last))
        loss(logits, labels).backward()
        for weights in network.parameters():
            weights.grad = None
    if image.is_cuda:
        torch.cuda.synchronize()


def learn(
    network: nn.Module, slices: Slices, loss: Callable, seconds: float, rate: float, batch: int
) -> dict[str, Any]:
    """Train for so many seconds; the learning rate falls to zero in that time."""
    device = slices.volumes.device
    network.train()
    fused = True if device.type == "cuda" else None
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-4, fused=fused)
    settings = TrainingSettings(epochs=1, learning_rate=rate, optimizer="adamw", warmup=WARMUP)
    start, steps, losses, told = time.perf_counter(), 0, [], 0.1
    while (share := (time.perf_counter() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * learning_rate_factor(int(share * STEPS), STEPS, settings)
        image, labels = slices.batch(batch)
        with torch.autocast("cuda", torch.bfloat16, enabled=image.is_cuda):
            logits = network(image.to(memory_format=torch.channels_last))
        value = loss(logits, labels)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps += 1
        if steps % 10 == 0 and share > told:  # this waits for the GPU too
            losses.append(round(value.item(), 4))
            told += 0.1
        elif steps % 10 == 0 and device.type == "cuda":
            torch.cuda.synchronize()
    return {"steps": steps, "slices": steps * batch, "of": len(slices), "losses": losses,
            "seconds": round(time.perf_counter() - start, 1)}  # fmt: skip


def together(jobs: Sequence[tuple]) -> None:
    """Run jobs (function, arguments) in processes of their own; all must end well."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=job, args=arguments) for job, *arguments in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit(f"ended with {[process.exitcode for process in processes]}")
