"""Run one training step: device, precision, loss, optimizer, learning rate; and validation."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quicknat.config import TrainingSettings
from quicknat.errors import SMALLER
from quicknat.hardware import computes_in_bfloat16
from quicknat.images.slices import VIEWS
from quicknat.model.losses import CombinedLoss, class_weights, edge_weight
from quicknat.model.network import NetworkSettings, QuickNAT
from quicknat.model.weights import load_weights
from quicknat.training.data import SliceSet
from quicknat.training.history import duration
from quicknat.training.setup import TrainingSetup

log = logging.getLogger(__name__)

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
NOT_COMPILED = "the network cannot be compiled here"
REMEDY = (
    "Install a C++ compiler (g++) and Python's headers (python3-dev), "
    "or set 'compile: false' under 'training'"
)


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
    weights, rate, decay = network.parameters(), settings.learning_rate, settings.weight_decay
    fused = next(network.parameters()).is_cuda  # one kernel for all weights
    if settings.optimizer == "sgd":
        return torch.optim.SGD(weights, rate, settings.momentum, weight_decay=decay, fused=fused)
    return torch.optim.AdamW(weights, rate, weight_decay=decay, fused=fused)


def learning_rate_factor(step: float, steps: int, settings: TrainingSettings) -> float:
    """Return the factor on the initial learning rate at optimizer step `step` of `steps`.

    SGD: divide by ten every `lr_step_epochs` epochs, as in the paper. AdamW: linear warm-up over
    the fraction `warmup` of all steps, then polynomial decay (power 0.9) to zero.
    """
    if settings.optimizer == "sgd":
        epoch = int(step * settings.epochs / steps + 1e-9)
        return 0.1 ** (epoch // settings.lr_step_epochs)
    warm = max(1, round(settings.warmup * steps))
    if step < warm:
        return (step + 1) / warm
    return max(0.0, 1 - (step - warm) / max(1, steps - warm)) ** 0.9


def keep_compiled_code() -> None:
    """Keep compiled code between training runs: other views, stages and resumed jobs start fast.

    In the user's cache, by kind of machine: home folders are shared, and code compiled for one CPU
    may not run on another.
    """
    kind = [torch.__version__, str(torch.cpu.get_capabilities())]
    kind += [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    name = hashlib.sha256("".join(kind).encode()).hexdigest()[:12]
    try:  # without a home, or with one that cannot be written to, torch takes the temporary folder
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        folder = cache / "quicknat/compiled" / name
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return
    if os.access(folder, os.W_OK):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


class TrainStep:
    """A network and all state that training steps change."""

    def __init__(self, setup: TrainingSetup) -> None:
        self.settings = settings = setup.settings
        self.device = choose_device(setup.view)
        torch.manual_seed(settings.seed)
        network = QuickNAT(len(setup.classes), NetworkSettings(**settings.network.model_dump()))
        if setup.initial:
            load_weights(network, setup.initial, setup.view, setup.classes, to_train=True)
        # torch accepts this for modules, but its type hints do not
        self.network: QuickNAT = network.to(  # type: ignore[call-overload]
            self.device, memory_format=torch.channels_last
        )
        self.optimizer = make_optimizer(network, settings)
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
        """Return the logits (N, C, H, W) of slices (N, slices, H, W), in the chosen precision."""
        if self.dtype is None:
            return self.network(image)
        with torch.autocast(self.device.type, self.dtype):
            return self.network(image.to(self.dtype))

    def step(self, image: Tensor, labels: Tensor, position: tuple[int, ...], rate: float) -> Tensor:
        """Train on one batch; return its weighted cross-entropy and Dice loss, float32 (2,).

        Args:
            image: float32 (N, slices, H, W).
            labels: uint8 (N, H, W).
            position: numbers that seed dropout, together with the settings' seed.
            rate: learning rate.
        """
        # the 0 was a process rank; kept so that training stays reproducible
        key = (self.settings.seed, *position, 0)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = torch.stack(self.loss(self.forward(image), labels))
        self.scaler.scale(losses.sum()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return losses.detach()

    def finite(self) -> Tensor:
        """Return whether every weight is a finite number, bool ()."""
        return (
            torch.stack([weight.detach().sum() for weight in self.network.parameters()])
            .isfinite()
            .all()
        )

    def compile(self, batches: Sequence[tuple[Tensor, Tensor]]) -> bool:
        """Compile what takes most time, on a batch of each shape; return whether it worked.

        That is the full resolution, three quarters of a network's work, and the loss. With the
        other levels it would gain a quarter more, and take nearly three times as long to compile.
        """
        keep_compiled_code()
        network = self.network
        for part in (
            network.encoders[0], network.encoder_gates[0], network.decoders[0],
            network.decoder_gates[0], self.loss,
        ):  # fmt: skip
            part.compile(dynamic=False)
        state = {key: value.clone() for key, value in network.state_dict().items()}
        start = time.perf_counter()
        log.info("compiling the network")
        try:
            for image, labels in batches:
                sum(self.loss(self.forward(image), labels)).backward()
        except Exception as error:  # many kinds, e.g. for a missing C++ compiler
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            remedy = SMALLER if isinstance(error, torch.OutOfMemoryError) else REMEDY
            log.warning("%s (%s); training continues, slower. %s", NOT_COMPILED, reason, remedy)
            return False
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            network.load_state_dict(state)  # batch norm has updated its statistics
        log.info("compiled in %s", duration(time.perf_counter() - start))
        return True

    def state_dict(self) -> dict:
        """Return the state that later steps depend on."""
        return {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore the state of :meth:`state_dict`, saved on this kind of device or another."""
        self.network.load_state_dict(state["model"])
        for group in state["optimizer"]["param_groups"]:
            group["fused"] = self.optimizer.defaults["fused"]  # of this device
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


@torch.no_grad()
def validate(train_step: TrainStep, slices: SliceSet, n_classes: int) -> tuple[float, np.ndarray]:
    """Return the mean loss and the Dice per class over all slices.

    Returns:
        The loss, and Dice, float (C,); NaN for classes absent from prediction and labels.
    """
    device, n = train_step.device, n_classes
    confusion = torch.zeros(n, n, dtype=torch.int64, device=device)
    total = torch.zeros((), device=device)
    for start in range(0, len(slices), train_step.settings.batch_size):
        numbers = np.arange(start, min(start + train_step.settings.batch_size, len(slices)))
        image, labels = slices.take(numbers, device).unbind(dim=2)
        labels = labels[:, labels.shape[1] // 2].long()
        logits = train_step.forward(image.float() / 255)
        pairs = n * labels + logits.argmax(dim=1)
        confusion += torch.bincount(pairs.flatten(), minlength=n * n).view(n, n)
        total += sum(train_step.loss(logits, labels)) * len(numbers)
    right, size = confusion.diagonal(), confusion.sum(0) + confusion.sum(1)
    dice = torch.where(size > 0, 2 * right / size, torch.nan)
    return float(total / len(slices)), dice.cpu().numpy()
