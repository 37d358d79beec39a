"""A network with its loss, optimiser and learning rate: one step at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from quicknat.model.losses import CombinedLoss, class_weights, edge_weight
from quicknat.model.network import QuickNAT
from quicknat.model.weights import load_weights
from quicknat.synthesis.synthesize import synthesize_batch
from quicknat.training.devices import compiles
from quicknat.training.optimizers import learning_rate_factor, make_optimizer
from quicknat.training.plan import Plan


class TrainStep:
    """What learns: everything that a training step changes.

    Args:
        fabric: device, arithmetic, and the processes that train together.
        plan: the training.
        steps_per_epoch: batches of an epoch, for the learning rate.
    """

    def __init__(self, fabric: Fabric, plan: Plan, steps_per_epoch: int) -> None:
        settings = plan.settings
        self.fabric, self.settings, self.slice_shape = fabric, settings, plan.slice_shape
        torch.manual_seed(settings.seed)
        network = QuickNAT(len(plan.classes), settings.network)
        if plan.initial:
            load_weights(network, plan.initial, plan.view, plan.classes)
        # torch takes that for modules too, but says so in no type
        self.network: QuickNAT = network.to(  # type: ignore[call-overload]
            memory_format=torch.channels_last
        )
        compiled: Any = torch.compile(network, dynamic=False) if settings.compile else network
        self.model, self.optimizer = fabric.setup(compiled, make_optimizer(network, settings))
        power, cap = settings.class_weight_power, settings.class_weight_cap
        self.loss = CombinedLoss(
            class_weights(plan.counts, power, cap),
            edge_weight(plan.counts, power, cap),
            settings.dice_over,
        ).to(fabric.device)
        self.updates = -(-steps_per_epoch // settings.accumulate)
        self.scheduler = LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, self.updates, settings)
        )

    def rate(self, epoch: int) -> float:
        """The learning rate at the start of an epoch, counted from 1."""
        factor = learning_rate_factor((epoch - 1) * self.updates, self.updates, self.settings)
        return self.settings.learning_rate * factor

    def compile(self) -> bool:
        """Compile now rather than in the first step; False where that does not work."""
        shape = (self.settings.batch_size, 1, *self.slice_shape)
        image = torch.rand(shape, device=self.fabric.device)
        return compiles(self.fabric, self.model, self.optimizer, image)

    def step(self, batch: dict[str, Tensor], position: tuple[int, ...], update: bool) -> Tensor:
        """Learn from one batch; returns its weighted cross-entropy and Dice loss, float32 (2,).

        Args:
            batch: ``image`` (N, 1, H, W) and ``labels`` (N, H, W); with ``tissues`` as well, what
                :func:`quicknat.synthesis.synthesize.synthesize_batch` takes.
            position: numbers that painting and dropout are seeded with, besides the settings' seed.
            update: change the weights, with the gradients of all batches since the last update.
        """
        draw = np.random.SeedSequence((self.settings.seed, *position)).generate_state(1)[0]
        torch.manual_seed(int(draw))
        image, labels = batch["image"], batch["labels"]
        if "tissues" in batch:
            image, labels = synthesize_batch(batch, int(draw))
        with self.fabric.no_backward_sync(self.model, enabled=not update):
            losses = torch.stack(self.loss(self.model(image), labels))
            self.fabric.backward(losses.sum() / self.settings.accumulate)
        if update:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.scheduler.step()
        return losses.detach()

    def finite(self) -> Tensor:
        """Whether no weight has become infinite or no number, bool ()."""
        return (
            torch.stack([weight.detach().sum() for weight in self.network.parameters()])
            .isfinite()
            .all()
        )

    def state_dict(self) -> dict:
        """All that later steps depend on."""
        return {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Go back to what :meth:`state_dict` gave."""
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
