"""MONAI's 2-D U-Nets in place of our networks, one per view.

They see the same slices in the same order with the same augmentation, batch size and precision.
They are trained with AdamW at the usual rate of 0.001, warmed up and lowered over the time as ours
is, and MONAI's DiceCELoss, its Dice over the batch as nnU-Net has it in 2-D. They are not compiled:
with torch 2.13 that makes their steps slower on a CPU, where it makes ours faster.

Their widths follow from ours, so that a slice costs about as many multiplications. With 24 filters,
28 classes and slices of 96 × 96, and seconds of one thread for a training step of four slices:

| network | filters | parameters, million | multiplications, 10⁹ | seconds |
|---|---|---|---|---|
| QuickNAT, compiled | 24 | 0.50 | 1.21 | 0.17 |
| BasicUNet | 40, 40, 80, 160, 320 | 3.09 | 1.10 | 0.18 |
| DynUNet | 24, 48, 96, 192, 384 | 4.37 | 0.96 | 0.12 |
"""

from __future__ import annotations

from itertools import chain, count
from typing import Any

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet, DynUNet
from our_run import OurRun, Stopwatch, parameters
from torch import nn

from quicknat.config import TrainingSettings
from quicknat.training.data import Batches, SliceSet
from quicknat.training.train_step import (
    AUTOCAST,
    choose_device,
    choose_precision,
    learning_rate_factor,
)

LEARNING_RATE = 0.001
STEPS = 10_000  # that the time is divided into, for the learning rate


def make_network(peer: str, classes: int, filters: int) -> nn.Module:
    """``basicunet`` or ``dynunet``, about as costly as QuickNAT with `filters` filters."""
    if peer == "basicunet":
        width = 8 * round(filters * 5 / 3 / 8)  # multiples of eight are fast
        features = (width, width, 2 * width, 4 * width, 8 * width, width)
        return BasicUNet(spatial_dims=2, in_channels=1, out_channels=classes, features=features)
    return DynUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=classes,
        kernel_size=[3] * 5,
        strides=[1, 2, 2, 2, 2],
        upsample_kernel_size=[2] * 4,
        filters=[filters * 2**level for level in range(5)],
    )


def train_network(
    peer: str, run: OurRun, view: str, classes: int, threads: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Train a network on the view stacks of a run until its time is up.

    Args:
        peer: ``basicunet`` or ``dynunet``.
        run: gives the stacks, the settings and the time.
        view: to train.
        classes: of that view.
        threads: CPU threads.

    Returns:
        The network in evaluation mode, and facts of its training.
    """
    settings = run.settings(view)
    device, precision = choose_device(view), choose_precision(settings.precision)
    torch.set_num_threads(threads)
    slices = SliceSet(run.stacks(view))
    slices.load(device)
    batches = Batches(slices, settings, None, device)
    torch.manual_seed(settings.seed)
    network = make_network(peer, classes, run.views[view]["network"]["filters"]).to(device)
    optimizer: Any = torch.optim.AdamW(
        network.parameters(), lr=LEARNING_RATE, weight_decay=settings.weight_decay
    )
    dtype = AUTOCAST.get(precision)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "16-mixed")
    loss = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
    schedule = TrainingSettings(
        epochs=1, learning_rate=LEARNING_RATE, optimizer="adamw", warmup=settings.warmup
    )
    network.train()
    steps, stopwatch = 0, Stopwatch(run.budget(view), run.on_gpu)
    for image, labels in chain.from_iterable(map(batches.epoch, count(1))):
        fraction = stopwatch.fraction()
        if fraction >= 1:
            break
        for group in optimizer.param_groups:
            factor = learning_rate_factor(int(fraction * STEPS), STEPS, schedule)
            group["lr"] = LEARNING_RATE * factor
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = network(image)
        scaler.scale(loss(logits.float(), labels[:, None])).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        steps += 1
    return network.eval(), {
        "parameters": parameters(network),
        **stopwatch.times(),
        "steps": steps,
        "batch_size": settings.batch_size,
        "precision": precision,
    }
