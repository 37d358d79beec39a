"""What a training runs on: processor or GPUs, arithmetic, threads, loader processes."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import nn
from torch.optim import Optimizer

from quicknat.hardware import computes_in_bfloat16
from quicknat.images.slices import VIEWS
from quicknat.training.history import duration
from quicknat.training.optimizers import TrainingSettings

log = logging.getLogger(__name__)

MAX_WORKERS = 8  # more cost memory and start-up time
FIRST_PORT, PORTS = 10_000, 11_000  # all below those that systems give to outgoing connections
NOT_COMPILED = "the network cannot be compiled here"
REMEDY = "Install a C++ compiler (g++), or set 'compile: false' under 'training'"


def choose_precision(wanted: str) -> str:
    """`wanted`, or for ``auto`` bf16 autocast where the hardware computes in it, else fp32."""
    if wanted != "auto":
        return wanted
    return "bf16-mixed" if computes_in_bfloat16(torch.cuda.is_available()) else "32-true"


def own_port() -> int:
    """A free port that no training starting at this moment takes too: it follows from our number.

    Asking the system for any free port gives several processes the same one, since none uses it
    until its processes are up, seconds later.
    """
    first = FIRST_PORT + os.getpid() % PORTS
    for port in range(first, first + PORTS):
        with socket.socket() as candidate:
            try:
                candidate.bind(("", port))
                return port
            except OSError:
                continue
    raise RuntimeError(f"no free port from {first} on")


def make_fabric(view: str, settings: TrainingSettings) -> Fabric:
    """One device, or with `settings.devices` above 1 as many processes that train together.

    Trainings of the three views on one machine take a GPU each where there are several.
    """
    cuda = torch.cuda.is_available()
    together = settings.devices > 1
    if together:
        os.environ["MASTER_PORT"] = str(own_port())
    one = [VIEWS.index(view) % torch.cuda.device_count()] if cuda else 1
    precision: Any = choose_precision(settings.precision)  # one of those that Fabric lists
    return Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=settings.devices if together else one,
        # not the default "ddp", which would start our own command line once more
        strategy="ddp_spawn" if together else "auto",
        precision=precision,
        # SLURM gives this job one task, in which it starts its processes itself
        plugins=[LightningEnvironment()],
    )


def share_threads(threads: int, settings: TrainingSettings) -> int:
    """Give torch its share of the job's processor threads; returns the loader processes to use.

    Threads beyond the job's own are ruinous where jobs run side by side.
    """
    own = max(1, threads // settings.devices)
    workers = settings.workers
    if workers is None:  # a GPU leaves the processor to the loader; a processor does all in turn
        workers = min(own - 1, MAX_WORKERS) if torch.cuda.is_available() else 0
    torch.set_num_threads(max(1, own - workers))
    return workers


def compiles(fabric: Fabric, model: nn.Module, optimizer: Optimizer, image: torch.Tensor) -> bool:
    """Compile a network's training step on a trial batch; whether that works here.

    Args:
        model: network that went through ``torch.compile`` and ``fabric.setup``; left as it was.
        optimizer: its optimiser; gradients are cleared.
        image: float32 (N, 1, H, W), of the shape that training has.
    """
    state = {key: value.clone() for key, value in model.state_dict().items()}
    start = time.perf_counter()
    log.info("compiling the network, which takes a minute or two")
    try:
        fabric.backward(model(image).float().mean())
    except Exception as error:  # a missing C++ compiler, for one; there are many kinds
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        log.warning("%s (%s); training goes on, slower. %s", NOT_COMPILED, reason, REMEDY)
        return False
    finally:
        optimizer.zero_grad(set_to_none=True)
        model.load_state_dict(state)  # batch norm gathered statistics
    log.info("compiled in %s", duration(time.perf_counter() - start))
    return True
