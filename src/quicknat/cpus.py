"""Count the CPUs that this process may use, and see whether there is a GPU."""

from __future__ import annotations

import math
import os
from pathlib import Path


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
    devices = Path("/dev")
    return (devices / "kfd").exists() or any(devices.glob("nvidia[0-9]*"))
