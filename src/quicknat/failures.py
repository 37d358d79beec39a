"""Failed jobs of a run: what Snakemake's log says of them, and the table with the reasons."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quicknat.errors import InputError
from quicknat.records import read_records, write_records

INTERRUPTED = "Terminating processes on user request"
MISSING = re.compile(r"Job (\d+)\s+completed successfully, but some output files are missing")
Stamp = tuple[int, int] | None  # of a file: time of its last change in ns, bytes; None: no file
SILENT = "ended without a message: killed, or out of memory?"
NOT_BEGUN = "ended before it began"
NO_OUTPUT = "its command ended well, but an output is missing"
READ_BYTES = 100_000  # of the end of a log
EXCERPT_LINES, LINE_LENGTH = 15, 300
PRINTED = 20  # failures at the end of a run
NEXT = (
    "Correct what is wrong, or take the scan out of the sheet, and run the same command again: "
    "finished work is kept."
)

COMMANDS_LAST_WORD = re.compile(r"(?:error|interrupted): (.+)")  # of quicknat.cli.app.main
TRACEBACK = "Traceback (most recent call last):"
# the step daemon's, which may be named by its node, or the executor's where that tells anything
SLURMS_WORD = re.compile(r"^slurmstepd\S*: error: (.+)|SLURM status is: '(?!FAILED)(\w+)'")
# colours, and all control characters but the tab
UNPRINTABLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0a-\x1f\x7f-\x9f]")


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


@dataclass(frozen=True)
class Failure:
    """One line of the table.

    ``stage`` is the rule; ``scan`` what the job was for: a scan, the view of a training, the source
    of a download. ``reason`` is one line, ``excerpt`` the last lines of ``log``.
    """

    stage: str
    scan: str
    reason: str
    log: str
    excerpt: str


def last_lines(path: str) -> list[str]:
    """Printable lines at the end of a log, the empty ones left out; none if it cannot be read."""
    try:
        with Path(path).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - READ_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    # of a progress bar, which returns to the beginning of its line, the last state
    lines = (line.rstrip().rpartition("\r")[2] for line in text.split("\n"))
    return [line for line in (UNPRINTABLE.sub("", line) for line in lines) if line.strip()]


def message(lines: Sequence[str]) -> str:
    """The reason that a command gave at the end of its log, "" if none.

    That is the line which every command ends with on bad input, or a Python exception.
    """
    # its last words, but for what an interpreter may say as it shuts down
    for line in reversed(lines[-20:]):
        if found := COMMANDS_LAST_WORD.match(line):
            return found[1]
    if TRACEBACK in lines:
        last = len(lines) - 1 - lines[::-1].index(TRACEBACK)
        return next((line for line in lines[last + 1 :] if not line.startswith(" ")), "")
    return ""


def slurms_word(job: FailedJob) -> str:
    """What SLURM says of a job's end, the cause first; "" if nothing, or if there is no SLURM."""
    lines = [line for path in job.executor_logs for line in last_lines(path)]
    for line in (*lines, job.said):
        if found := SLURMS_WORD.search(line):
            return f"SLURM: {found[1] or found[2]}"
    return ""


def describe(job: FailedJob) -> Failure:
    """A failed job with its reason: its own word, else what is known of its end."""
    log, lines = job.log, last_lines(job.log) if job.began else []
    reason = message(lines) or (NO_OUTPUT if job.ended_well else "")
    if not reason:
        told = slurms_word(job) or (f"last line: {lines[-1]}" if lines else "")
        reason = (SILENT if job.began else NOT_BEGUN) + (f" ({told})" if told else "")
    if not lines:  # then the cluster's logs may show more
        logs = ((path, last_lines(path)) for path in job.executor_logs)
        log, lines = next((found for found in logs if found[1]), (log, []))
    excerpt = [line[:LINE_LENGTH] for line in lines[-EXCERPT_LINES:]]
    return Failure(job.rule, job.name, reason[:LINE_LENGTH], log, "\n".join(excerpt))


def guilty(jobs: Sequence[FailedJob]) -> list[FailedJob]:
    """Those jobs of one submission that failed themselves; the others had ended, or never began.

    Those that gave a reason, else those that were at work, else all: it was ended before.
    """
    begun = [job for job in jobs if job.began]
    explained = [job for job in begun if message(last_lines(job.log))]
    at_work = [job for job in begun if not all(Path(path).exists() for path in job.outputs)]
    return explained or at_work or list(jobs)


def find_failures(jobs: Sequence[FailedJob]) -> list[Failure]:
    """The failures behind the jobs that Snakemake counts as failed, in their order."""
    groups: dict[int, list[FailedJob]] = {}
    for job in jobs:
        if job.group is not None:
            groups.setdefault(job.group, []).append(job)
    kept = {id(job) for members in groups.values() for job in guilty(members)}
    return [describe(job) for job in jobs if job.group is None or id(job) in kept]


def write_failed(path: str | Path, failures: Sequence[Failure]) -> None:
    """Write the table as TSV; where nothing failed there is none, and an old one goes."""
    if not failures:
        Path(path).unlink(missing_ok=True)
        return
    write_records(path, Failure, failures)


def read_failed(path: str | Path) -> list[Failure]:
    """Read what :func:`write_failed` wrote; without a table nothing failed.

    Raises:
        InputError: another table.
    """
    try:
        return read_records(path, Failure)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        problem = f"is no table of failed jobs ({error})"
        raise InputError(path, problem, "delete it; the next run that fails writes it") from error


def as_text(failures: Sequence[Failure]) -> str:
    """Stage, scan and reason in aligned columns, each with its log below."""
    stage = max((len(failure.stage) for failure in failures), default=0)
    scan = max((len(failure.scan) for failure in failures), default=0)
    return "\n".join(
        f"  {failure.stage:<{stage}}  {failure.scan:<{scan}}  {failure.reason}\n"
        f"  {'':<{stage}}  {'':<{scan}}  log: {failure.log}"
        for failure in failures
    )


def close_run(jobs: Sequence[FailedJob], table: str | Path) -> str:
    """Leave the table of a run that is over.

    Args:
        jobs: that failed.
        table: TSV to write, or to remove.

    Returns:
        What to tell the user: the first failures and what to do; "" if nothing failed.
    """
    failures = find_failures(jobs)
    more, hint = len(failures) - PRINTED, f"ends of their logs: quicknat failures {table}"
    try:
        write_failed(table, failures)
    except (OSError, InputError) as error:  # a full disk may be why they failed: say it at least
        hint = f"error: {error}"
    if not failures:
        return ""
    lines = [f"\n{len(failures)} failed:", as_text(failures[:PRINTED])]
    lines += [f"  and {more} more, see {table}"] if more > 0 else []
    return "\n".join([*lines, hint, NEXT])
