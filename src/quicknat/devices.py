"""What a training runs on: processor or GPUs, arithmetic, threads, loader processes."""

from __future__ import annotations

import ctypes

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment

from quicknat.optimizers import TrainingSettings
from quicknat.slices import VIEWS

MAX_WORKERS = 8  # more cost memory and start-up time


def choose_precision(wanted: str) -> str:
    """`wanted`, or for ``auto`` bf16 autocast where the hardware computes in it, else fp32."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        features = torch.cpu.get_capabilities()
        native = features.get("avx512_bf16", False) or features.get("amx_bf16", False)
    return "bf16-mixed" if native else "32-true"


def make_fabric(view: str, settings: TrainingSettings) -> Fabric:
    """One device, or with `settings.devices` above 1 as many processes that train together.

    Trainings of the three views on one machine take a GPU each where there are several.
    """
    cuda = torch.cuda.is_available()
    together = settings.devices > 1
    one = [VIEWS.index(view) % torch.cuda.device_count()] if cuda else 1
    return Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=settings.devices if together else one,
        # not the default "ddp", which would start our own command line once more
        strategy="ddp_spawn" if together else "auto",
        precision=choose_precision(settings.precision),
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


def keep_freed_memory() -> None:
    """Let glibc reuse the large blocks that a training step frees.

    By default it hands each of them back to the kernel, which then has to clear the same pages
    again at every layer of every step. Has no effect without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        mallopt(mmap_threshold, 32 << 20)  # the largest that glibc takes
        mallopt(trim_threshold, 2**31 - 1)
