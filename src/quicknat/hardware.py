"""Count usable CPUs, find and configure CPUs and GPUs."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # else imported where it is used: slow to import
    import torch
    from filelock import FileLock

log = logging.getLogger(__name__)

CLAIMS: list[FileLock] = []  # of this process, see claim_gpu


def available_cpus(own: str = "/proc/self/cgroup", groups: str = "/sys/fs/cgroup") -> int:
    """Return how many CPUs this process may use, at least 1; the machine may have more.

    That is the smallest of its CPU affinity (SLURM, ``taskset``), the CPU quotas of its control
    groups (containers), ``SLURM_CPUS_PER_TASK`` and ``OMP_NUM_THREADS``.

    Args:
        own: the kernel's list of this process's control groups.
        groups: where they are mounted (cgroup v2).
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    counts = [len(affinity(0)) if affinity else os.cpu_count() or 1]
    stated = (os.environ.get(name, "") for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"))
    counts += [int(number) for number in stated if number.isdecimal()]
    try:
        lines = Path(own).read_text("utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("0::/"):  # cgroup v2
            folder = Path(groups) / line.removeprefix("0::/")
            counts += [n for group in (folder, *folder.parents) if (n := _quota(group))]
    return max(1, min(counts))


def _quota(group: Path) -> int:
    """Return a control group's limit in CPUs, 0 if it has none."""
    try:
        quota, period = (group / "cpu.max").read_text("utf-8").split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # ValueError: "max"
        return 0


def has_gpu() -> bool:
    """Return whether this machine has a GPU (NVIDIA's or AMD's driver), without importing torch."""
    drivers = Path("/dev/kfd"), Path("/usr/lib/wsl/lib/libcuda.so.1")  # AMD; NVIDIA in WSL2
    return any(path.exists() for path in drivers) or any(Path("/dev").glob("nvidia[0-9]*"))


def gpu_works() -> bool:
    """Return whether there is a usable GPU; warn about one that is not, e.g. a busy one."""
    import torch

    if not torch.cuda.is_available():
        return False
    try:
        claim_gpu()
        torch.zeros(1, device="cuda")
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        log.warning("the GPU cannot be used (%s); using the CPU", reason)
        return False
    return True


def claim_gpu() -> None:
    """Make current a GPU that no other process of this user has claimed.

    Snakemake starts a job for each GPU, but does not say which job gets which. A claim ends with
    its process.
    """
    import torch
    from filelock import FileLock

    count = torch.cuda.device_count()
    for number in range(count if count > 1 else 0):
        identifier = torch.cuda.get_device_properties(number).uuid
        lock = FileLock(Path(tempfile.gettempdir()) / f"quicknat-{os.getuid()}-{identifier}.lock")
        try:
            lock.acquire(blocking=False)
        except OSError:  # claimed (filelock's Timeout), or another user's file
            continue
        CLAIMS.append(lock)
        torch.cuda.set_device(number)
        return
    if count > 1:  # more processes than GPUs
        torch.cuda.set_device(os.getpid() % count)


def computes_in_bfloat16(gpu: bool) -> bool:
    """Return whether the GPU, or else the CPU, has bf16 instructions; emulation is slower."""
    import torch

    if gpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities()
    return features.get("avx512_bf16", False) or features.get("amx_bf16", False)


def device_name(device: torch.device) -> str:
    """Return the vendor's name of the GPU or CPU."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:  # Linux; elsewhere Python knows the name
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def keep_freed_memory() -> None:
    """Let glibc reuse the large blocks that a training step frees.

    By default it returns each block to the kernel, which then clears the same pages again at every
    layer of every step. Has no effect without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        mallopt(mmap_threshold, 32 << 20)  # the largest value that glibc accepts
        mallopt(trim_threshold, 2**31 - 1)
