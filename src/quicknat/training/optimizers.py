"""How a training is set up: its settings, its optimiser, its learning rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from quicknat.errors import InputError
from quicknat.model.losses import DiceOver
from quicknat.model.network import NetworkSettings, QuickNAT


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; the keys of ``training`` and of one stage in ``config.yaml``."""

    epochs: int
    learning_rate: float
    optimizer: Literal["adamw", "sgd"] = "sgd"
    momentum: float = 0.95
    weight_decay: float = 1e-4
    warmup: float = 0.1
    step_epochs: int = 10
    batch_size: int = 4
    accumulate: int = 1
    devices: int = 1
    workers: int | None = None
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    compile: bool = True
    checkpoint_minutes: float = 10
    patience: int | None = None
    augment: bool = True
    mirror: bool = False
    slice_stride: int = 1
    dice_over: DiceOver = "batch"
    class_weight_power: float = 1.0
    class_weight_cap: float | None = None
    seed: int = 0
    network: NetworkSettings = field(default_factory=NetworkSettings)

    @classmethod
    def from_dict(cls, values: dict) -> TrainingSettings:
        """Build from plain values, such as parsed JSON, with ``network`` a dict of its own.

        Raises:
            InputError: a key is unknown or a required one missing.
        """
        try:
            return cls(**{**values, "network": NetworkSettings(**values.get("network", {}))})
        except TypeError as error:
            reason = str(error).replace("__init__() ", "")
            fix = "compare them with 'training' in config.yaml"
            raise InputError("training settings", reason, fix) from error


def learning_rate_factor(step: int, steps_per_epoch: int, settings: TrainingSettings) -> float:
    """Factor on the initial learning rate at an optimiser step.

    SGD: the paper's, divided by ten every `step_epochs` epochs. AdamW: linear warm-up over the
    share `warmup` of all steps, then polynomial decay (power 0.9) to zero.
    """
    if settings.optimizer == "sgd":
        return 0.1 ** (step // steps_per_epoch // settings.step_epochs)
    total = settings.epochs * steps_per_epoch
    warm = max(1, round(settings.warmup * total))
    if step < warm:
        return (step + 1) / warm
    return max(0.0, 1 - (step - warm) / max(1, total - warm)) ** 0.9


def make_optimizer(network: QuickNAT, settings: TrainingSettings) -> torch.optim.Optimizer:
    """SGD with momentum as in the paper, or AdamW, which short trainings need."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
    return torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
