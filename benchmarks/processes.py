"""Time and memory of a process."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple


class Measured(NamedTuple):
    """What a process took, and what it wrote to its standard output."""

    seconds: float
    cpu_seconds: float
    peak_gib: float
    printed: str


def measure(command: Sequence[object], log: int | None = None) -> Measured:
    """Run a command until it ends; `log`: where its standard error goes, as subprocess has it."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=log, text=True
    )
    printed = process.stdout.read()  # type: ignore[union-attr]  # it is a pipe
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed\n{printed[-3000:]}")
    cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20
    return Measured(time.perf_counter() - start, cpu, peak, printed)
