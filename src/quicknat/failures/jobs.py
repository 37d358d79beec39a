"""Which jobs of a run failed, as Snakemake tells the handlers of its log."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

INTERRUPTED = "Terminating processes on user request"
MISSING = re.compile(r"Job (\d+)\s+completed successfully, but some output files are missing")
Stamp = tuple[int, int] | None  # of a file: time of its last change in ns, bytes; None: no file


@dataclass(frozen=True)
class FailedJob:
    """A job of which the last attempt failed.

    ``log`` is its own log, ``before`` the stamp of that when the attempt began: the file may be an
    earlier one's. ``group`` is a number that all jobs of one submission share, None for a job by
    itself; Snakemake counts all of them as failed when one is. ``said`` is what the executor has to
    say, ``executor_logs`` are the cluster's own logs. ``ended_well``: but an output is missing.
    """

    rule: str
    log: str
    before: Stamp = None
    outputs: Sequence[str] = ()
    group: int | None = None
    said: str = ""
    executor_logs: Sequence[str] = ()
    ended_well: bool = False

    @property
    def name(self) -> str:
        """The scan, view or source that the job was for: jobs' logs are named by it."""
        return Path(self.log).stem

    @property
    def began(self) -> bool:
        """Whether the last attempt wrote to its log."""
        return stamp(self.log) not in (None, self.before)


def stamp(path: str) -> Stamp:
    """What tells one state of a file from the next."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


class JobLog(logging.Handler):
    """Notes which jobs fail, whatever Snakemake prints: ``--quiet`` leaves handlers alone.

    Add it to ``snakemake.logging.logger`` when a run starts. It reads the attributes of log records
    that ``snakemake_interface_logger_plugins`` describes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, FailedJob] = {}  # as they began, by job number
        self._failed: dict[int, FailedJob] = {}
        self._interrupted = False

    @property
    def failed(self) -> list[FailedJob]:
        """Jobs whose last attempt failed, in that order; none that Ctrl-C ended."""
        return list(self._failed.values())

    def emit(self, record: logging.LogRecord) -> None:
        """Note what a record says of jobs; the rest of the log passes by."""
        try:
            self._note(record)
        except Exception:  # a fault here must not end the run
            self.handleError(record)

    def _note(self, record: Any) -> None:  # Snakemake's records have fields of their own
        event = getattr(record, "event", None)
        if event == "job_info":
            path = next(iter(record.log), "")
            job = FailedJob(record.rule_name, path, stamp(path), tuple(record.output))
            self._known[record.jobid] = job
            self._failed.pop(record.jobid, None)  # it is tried again
        elif str(record.msg).startswith(INTERRUPTED):
            self._interrupted = True
        elif self._interrupted:
            return
        elif event == "group_error":
            numbers = [info["jobid"] for info in record.job_error_info]
            for number in numbers:
                self._fail(number, group=min(numbers), executor_logs=record.aux_logs)
        elif event == "job_error" and record.jobid not in self._failed:  # groups say all twice
            said = record.rule_msg or ""
            self._fail(record.jobid, said=said, executor_logs=record.log[1:])
        elif event == "error" and (found := MISSING.search(str(record.msg))):
            self._fail(int(found[1]), ended_well=True)

    def _fail(self, number: int, **facts: Any) -> None:
        self._failed[number] = replace(self._known[number], **facts)
