"""Progress of long work: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import logging
import os
import sys
import time

from tqdm import tqdm

log = logging.getLogger(__name__)


def no_bar() -> bool | None:
    """What tqdm takes for `disable`: never a bar with ``--quiet``, else one on a terminal only."""
    return True if os.environ.get("QUICKNAT_QUIET") else None


class ByteProgress(tqdm):
    """Counts bytes; use as a context.

    Args:
        name: what is transferred.
        done: bytes that are there already.
        total: bytes in all, None if unknown.
        every: seconds between two lines in a log.
    """

    def __init__(self, name: str, done: int, total: int | None, every: float) -> None:
        self.name, self.every, self.before, self.size = name, every, done, total
        self.came, self.start = 0, time.monotonic()
        self.said = self.start
        super().__init__(
            desc=name, initial=done, total=total, unit="B", unit_scale=True, leave=False,
            disable=no_bar() or not sys.stderr.isatty(),
        )  # fmt: skip

    def add(self, n_bytes: int) -> None:
        """Note that so many more have come."""
        self.came += n_bytes
        self.update(n_bytes)
        now = time.monotonic()
        if self.disable and now - self.said >= self.every:
            self.said = now
            whole = "" if self.size is None else f" of {self.size / 1e6:.1f}"
            done, seconds = self.before + self.came, max(now - self.start, 1e-9)
            log.info(
                "%s: %.1f%s MB, %.1f MB/s", self.name, done / 1e6, whole, self.came / seconds / 1e6
            )
