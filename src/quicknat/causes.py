"""What lies behind an error of torch, where users can do something about it."""

from __future__ import annotations

import errno
from pathlib import Path

import torch

from quicknat.errors import InputError

SHARED_MEMORY = "give more shared memory (docker run --shm-size=8g), or set 'workers: 0'"
# words in the message -> what to do; torch has no exceptions of their own for these
REMEDIES = {
    "shared memory": SHARED_MEMORY,
    "</torch_": SHARED_MEMORY,  # its files there
    "DataLoader worker": "give the job more memory, or set 'workers: 0' under 'training'",
    "allocate memory": "give the job more memory, or lower the batch size",
    "busy or unavailable": "wait for the GPU, take another one, or hide it (CUDA_VISIBLE_DEVICES=)",
}
SMALLER = "lower the batch size (in training raise 'accumulate' by as much), or use a larger GPU"


def explained(error: Exception, where: str | Path) -> InputError | None:
    """Full memory or disk, a killed loader process or a busy GPU in one line; else None.

    Args:
        error: as torch raised it.
        where: what was worked on.
    """
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, torch.OutOfMemoryError):
        return InputError(where, f"the GPU's memory is full ({reason})", SMALLER)
    if isinstance(error, MemoryError):
        return InputError(where, f"memory is full ({reason})", REMEDIES["allocate memory"])
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and not error.filename:
        full = "no space is left on the disk, or in shared memory"
        return InputError(where, f"stopped: {full}", f"make room there; or {SHARED_MEMORY}")
    if isinstance(error, RuntimeError):
        for words, remedy in REMEDIES.items():
            if words in reason:
                return InputError(where, f"stopped: {reason}", remedy)
    return None
