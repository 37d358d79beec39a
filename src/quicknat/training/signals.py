"""Signals that ask a training to end: noted when they come, obeyed where nothing is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # of schedulers, and of Ctrl-C


class StopFlag:
    """Whether a signal asked for an end."""

    requested = False


@contextmanager
def _handled(action: Callable[[int], None]) -> Iterator[None]:
    def handle(number: int, frame: object) -> None:
        action(number)

    previous = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """A flag that the signals raise inside the block, instead of ending the process."""
    flag = StopFlag()
    with _handled(lambda number: setattr(flag, "requested", True)):
        yield flag


def outlive_termination(worker: int) -> None:
    """Begin a loader process: a SIGTERM that a scheduler sends to all of a job does not end it.

    The training that it serves gets the same signal, has yet to save its state, and ends its
    loaders itself.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def forwarded_signals() -> Iterator[None]:
    """Inside the block signals go on to the processes that this one started."""

    def forward(number: int) -> None:
        for child in multiprocessing.active_children():
            if child.pid:
                os.kill(child.pid, number)

    with _handled(forward):
        yield
