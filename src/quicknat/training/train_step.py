"""Run one training step: device, precision, loss, optimizer, learning rate; and validation."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from quicknat.config import TrainingSettings
from quicknat.hardware import computes_in_bfloat16
from quicknat.images.slices import VIEWS
from quicknat.model.losses import CombinedLoss, class_weights, edge_weight
from quicknat.model.network import NetworkSettings, QuickNAT
from quicknat.model.weights import load_weights
from quicknat.synthesis.synthesize import synthesize_batch
from quicknat.training.history import duration
from quicknat.training.setup import TrainingSetup

log = logging.getLogger(__name__)

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
NOT_COMPILED = "the network cannot be compiled here"
REMEDY = "Install a C++ compiler (g++), or set 'compile: false' under 'training'"


def choose_device(view: str) -> torch.device:
    """Return the CPU, or a GPU: a different one for each view if there are several."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", VIEWS.index(view) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def choose_precision(wanted: str) -> str:
    """Return `wanted`; for ``auto``, bf16 if the hardware supports it, else fp32."""
    if wanted != "auto":
        return wanted
    return "bf16-mixed" if computes_in_bfloat16(torch.cuda.is_available()) else "32-true"


def make_optimizer(network: QuickNAT, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Return SGD with momentum as in the paper, or AdamW, which converges in fewer steps."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(), lr=rate, momentum=settings.momentum, weight_decay=decay
        )
    return torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay)


def learning_rate_factor(step: int, steps_per_epoch: int, settings: TrainingSettings) -> float:
    """Return the factor on the initial learning rate at an optimizer step.

    SGD: divide by ten every `lr_step_epochs` epochs, as in the paper. AdamW: linear warm-up over
    the fraction `warmup` of all steps, then polynomial decay (power 0.9) to zero.
    """
    if settings.optimizer == "sgd":
        return 0.1 ** (step // steps_per_epoch // settings.lr_step_epochs)
    total = settings.epochs * steps_per_epoch
    warm = max(1, round(settings.warmup * total))
    if step < warm:
        return (step + 1) / warm
    return max(0.0, 1 - (step - warm) / max(1, total - warm)) ** 0.9


class TrainStep:
    """A network and all state that training steps change.

    Args:
        setup: of the training.
        steps_per_epoch: batches per epoch, for the learning rate.
    """

    def __init__(self, setup: TrainingSetup, steps_per_epoch: int) -> None:
        self.settings = settings = setup.settings
        self.slice_shape, self.steps_per_epoch = setup.slice_shape, steps_per_epoch
        self.device = choose_device(setup.view)
        torch.manual_seed(settings.seed)
        network = QuickNAT(len(setup.classes), NetworkSettings(**settings.network.model_dump()))
        if setup.initial:
            load_weights(network, setup.initial, setup.view, setup.classes)
        # torch accepts this for modules, but its type hints do not
        self.network: QuickNAT = network.to(  # type: ignore[call-overload]
            self.device, memory_format=torch.channels_last
        )
        self.model: Any = torch.compile(network, dynamic=False) if settings.compile else network
        self.optimizer = make_optimizer(network, settings)
        self.scheduler = LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, steps_per_epoch, settings)
        )
        precision = choose_precision(settings.precision)
        self.dtype = AUTOCAST.get(precision)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "16-mixed")
        power, cap = settings.class_weight_power, settings.class_weight_cap
        self.loss = CombinedLoss(
            class_weights(setup.counts, power, cap),
            edge_weight(setup.counts, power, cap),
            settings.dice_reduction,
        ).to(self.device)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits (N, C, H, W) of slices (N, 1, H, W), in the chosen precision."""
        if self.dtype is None:
            return self.model(image)
        with torch.autocast(self.device.type, self.dtype):
            return self.model(image.to(self.dtype))

    def step(self, batch: dict[str, Tensor], position: tuple[int, ...]) -> Tensor:
        """Train on one batch; return its weighted cross-entropy and Dice loss, float32 (2,).

        Args:
            batch: ``image`` (N, 1, H, W) and ``labels`` (N, H, W); with ``tissues``, the input of
                :func:`quicknat.synthesis.synthesize.synthesize_batch`.
            position: numbers that seed synthesis and dropout, together with the settings' seed.
        """
        # the 0 was a process rank; kept so that trainings stay reproducible
        key = (self.settings.seed, *position, 0)
        draw = int(np.random.SeedSequence(key).generate_state(1)[0])
        torch.manual_seed(draw)
        image, labels = batch["image"], batch["labels"]
        if "tissues" in batch:
            image, labels = synthesize_batch(batch, draw)
        losses = torch.stack(self.loss(self.forward(image), labels))
        self.scaler.scale(losses.sum()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        return losses.detach()

    def rate(self, epoch: int) -> float:
        """Return the learning rate at the start of an epoch, counted from 1."""
        first = (epoch - 1) * self.steps_per_epoch
        factor = learning_rate_factor(first, self.steps_per_epoch, self.settings)
        return self.settings.learning_rate * factor

    def finite(self) -> Tensor:
        """Return whether every weight is a finite number, bool ()."""
        return (
            torch.stack([weight.detach().sum() for weight in self.network.parameters()])
            .isfinite()
            .all()
        )

    def compile(self) -> bool:
        """Compile the network on a trial batch, without side effects; return whether it worked."""
        shape = (self.settings.batch_size, 1, *self.slice_shape)
        image = torch.rand(shape, device=self.device)
        state = {key: value.clone() for key, value in self.network.state_dict().items()}
        start = time.perf_counter()
        log.info("compiling the network, which takes a minute or two")
        try:
            self.forward(image).float().mean().backward()
        except Exception as error:  # many kinds, e.g. for a missing C++ compiler
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            log.warning("%s (%s); training continues, slower. %s", NOT_COMPILED, reason, REMEDY)
            return False
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            self.network.load_state_dict(state)  # batch norm has updated its statistics
        log.info("compiled in %s", duration(time.perf_counter() - start))
        return True

    def state_dict(self) -> dict:
        """Return the state that later steps depend on."""
        return {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore the state of :meth:`state_dict`."""
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])


@torch.no_grad()
def validate(
    train_step: TrainStep, batches: Iterable[dict[str, Tensor]], n_classes: int
) -> tuple[float, np.ndarray]:
    """Return the mean loss and the Dice per class over all slices.

    Returns:
        The loss, and Dice, float (C,); NaN for classes absent from prediction and labels.
    """
    # pixels per class: correct, predicted, true; then sum and number of the losses
    sums = torch.zeros(3 * n_classes + 2, dtype=torch.float64, device=train_step.device)
    for batch in batches:
        logits, labels = train_step.forward(batch["image"]), batch["labels"].long()
        predicted = logits.argmax(dim=1)
        maps = labels[predicted == labels], predicted, labels
        counts = [torch.bincount(pixels.flatten(), minlength=n_classes) for pixels in maps]
        slices = torch.tensor(len(labels), device=train_step.device)
        loss = sum(train_step.loss(logits, labels)) * slices
        sums += torch.cat([*counts, torch.stack((loss, slices))])
    *pixels, total, number = sums.cpu().numpy()
    right, predicted, true = np.reshape(pixels, (3, n_classes))
    size = predicted + true
    dice = np.divide(2 * right, size, out=np.full(n_classes, np.nan), where=size > 0)
    return float(total / number), dice
