"""Query and configure CPUs and GPUs, for training and segmentation."""

from __future__ import annotations

import ctypes
import logging
import platform
from pathlib import Path

import torch

log = logging.getLogger(__name__)


def gpu_works() -> bool:
    """Return whether there is a usable GPU; warn about one that is not, e.g. a busy one."""
    if not torch.cuda.is_available():
        return False
    try:
        torch.zeros(1, device="cuda")
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        log.warning("the GPU cannot be used (%s); using the CPU", reason)
        return False
    return True


def computes_in_bfloat16(gpu: bool) -> bool:
    """Return whether the GPU, or else the CPU, has bf16 instructions; emulation is slower."""
    if gpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities()
    return features.get("avx512_bf16", False) or features.get("amx_bf16", False)


def device_name(device: torch.device) -> str:
    """Return the vendor's name of the GPU or CPU."""
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
