"""What a killed run leaves in its folder, locks and half-written files: the next run removes it.

Snakemake locks a folder by files that outlive a killed run and do not say whose they are. So each
run also holds an ``flock``, which ends with its process: whoever can have that alone knows that no
other run is at work here, and that what lies about belongs to nobody.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import socket
from pathlib import Path
from typing import TextIO

import psutil

from quicknat.files import TEMPORARY

log = logging.getLogger(__name__)

PROGRAMS = {"quicknat", "snakemake"}
FILE = "quicknat.lock"


def remove_temporaries(folder: str | Path) -> int:
    """Remove the temporary files and folders of writers that were killed; returns how many.

    Only where nobody writes: those of a living writer have the same names.
    """
    count = 0
    for place, folders, files in os.walk(folder):
        for name in filter(re.compile(TEMPORARY).match, [*folders, *files]):
            path, count = Path(place, name), count + 1
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        folders[:] = [name for name in folders if Path(place, name).exists()]
    return count


def others_at_work(folder: str | Path) -> list[int]:
    """Numbers of this machine's processes of Snakemake or quicknat, but this, that work there."""
    here = str(Path(folder).resolve())
    me = psutil.Process()
    own = {me.pid, *(parent.pid for parent in me.parents())}
    return [
        process.pid
        for process in psutil.process_iter(["cwd", "cmdline"])
        if process.info["cwd"] == here
        and process.pid not in own
        and PROGRAMS & {Path(word).name for word in (process.info["cmdline"] or [])[:3]}
    ]


class RunHold:
    """A run's hold on the folder that it works in, for as long as its process lives.

    Args:
        folder: that Snakemake runs in.
        results: below it, where temporaries are looked for.
    """

    def __init__(self, folder: str | Path = ".", results: str = "results") -> None:
        self.folder, self.results = Path(folder), Path(folder, results)
        self._stream: TextIO | None = None
        try:
            (self.folder / ".snakemake").mkdir(exist_ok=True)
            stream = (self.folder / ".snakemake" / FILE).open("a+")
            if self._alone(stream):
                self._take_over(stream)
            fcntl.flock(stream, fcntl.LOCK_SH)  # now others are not alone
            self._stream = stream
        except OSError as error:  # a file system without such locks, or one that is read-only
            log.debug("%s: not held (%s)", folder, error)

    @staticmethod
    def _alone(stream: TextIO) -> bool:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _take_over(self, stream: TextIO) -> None:
        """Remove what a killed run has left; this run's machine is noted."""
        locks = list((self.folder / ".snakemake/locks").glob("*.lock"))
        stream.seek(0)
        machine = socket.gethostname()
        if locks and stream.read() != machine:
            return  # some file systems keep an flock from other machines; or see `keep_locks`
        if locks and (others := others_at_work(self.folder)):
            log.warning(
                "%s: jobs of a killed run still work here (process %s); wait until they end, or "
                "end them", self.folder.resolve(), ", ".join(map(str, others)),
            )  # fmt: skip
            return
        stream.truncate(0)
        stream.write(machine)
        stream.flush()
        for lock in locks:
            lock.unlink()
        if locks:
            count = remove_temporaries(self.results)
            log.warning(
                "The last run was killed: its lock and %d half-written files removed", count
            )

    def keep_locks(self) -> None:
        """Let nobody remove this run's locks: its jobs run elsewhere, and outlive it."""
        if self._stream:
            self._stream.truncate(0)

    def end(self) -> None:
        """Remove the temporaries of jobs that were killed, as the run is over."""
        if self._stream and self._alone(self._stream) and not others_at_work(self.folder):
            remove_temporaries(self.results)
