"""Show progress: a bar on a terminal, occasional lines in a log."""

from __future__ import annotations

import logging
import os
import sys
import time

from tqdm import tqdm

log = logging.getLogger(__name__)


def no_bar() -> bool | None:
    """Return tqdm's `disable`: no bar with ``--quiet``, else a bar only on a terminal."""
    return True if os.environ.get("QUICKNAT_QUIET") else None


class ByteProgress(tqdm):
    """A progress bar of bytes, to use as a context manager.

    Args:
        name: what is transferred.
        done: bytes transferred earlier.
        total: total bytes, None if unknown.
        every: seconds between log lines.
    """

    def __init__(self, name: str, done: int, total: int | None, every: float) -> None:
        self.name, self.every, self.before, self.size = name, every, done, total
        self.new, self.start = 0, time.monotonic()
        self.logged = self.start
        super().__init__(
            desc=name, initial=done, total=total, unit="B", unit_scale=True, leave=False,
            disable=no_bar() or not sys.stderr.isatty(),
        )  # fmt: skip

    def add(self, n_bytes: int) -> None:
        """Count `n_bytes` more."""
        self.new += n_bytes
        self.update(n_bytes)
        now = time.monotonic()
        if self.disable and now - self.logged >= self.every:
            self.logged = now
            whole = "" if self.size is None else f" of {self.size / 1e6:.1f}"
            done, seconds = self.before + self.new, max(now - self.start, 1e-9)
            log.info(
                "%s: %.1f%s MB, %.1f MB/s", self.name, done / 1e6, whole, self.new / seconds / 1e6
            )
