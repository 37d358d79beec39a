"""Collect the failed jobs of a run from Snakemake's log, and write their reasons to a table."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quicknat.errors import InputError
from quicknat.files import read_records, write_records

INTERRUPTED = "Terminating processes on user request"
MISSING = re.compile(r"Job (\d+)\s+completed successfully, but some output files are missing")
Stamp = tuple[int, int] | None  # of a file: modification time in ns, bytes; None: no file
SILENT = "ended without a message: killed, or out of memory?"
NOT_BEGUN = "ended before it started"
NO_OUTPUT = "its command succeeded, but an output is missing"
READ_BYTES = 100_000  # of the end of a log
EXCERPT_LINES, LINE_LENGTH = 15, 300
PRINTED = 20  # failures at the end of a run
NEXT = (
    "Fix the problem, or remove the scan from the sheet, and run the same command again: "
    "finished work is kept."
)

COMMANDS_LAST_WORD = re.compile(r"(?:error|interrupted): (.+)")  # of quicknat.cli.app.main
TRACEBACK = "Traceback (most recent call last):"
# from the step daemon, which may be named after its node, or from the executor
SLURMS_WORD = re.compile(r"^slurmstepd\S*: error: (.+)|SLURM status is: '(?!FAILED)(\w+)'")
# colours, and all control characters but the tab
UNPRINTABLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0a-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class FailedJob:
    """A job whose last attempt failed."""

    rule: str
    log: str  # its own log
    before: Stamp = None  # of that log when the attempt started: it may be of an earlier one
    outputs: Sequence[str] = ()
    group: int = 0  # the first job of its submission; Snakemake counts all as failed
    said: str = ""  # the executor's message
    executor_logs: Sequence[str] = ()  # the cluster's
    ended_well: bool = False  # succeeded, but an output is missing

    @property
    def name(self) -> str:
        """Return the scan, view or source of the job, after which its log is named."""
        return Path(self.log).stem

    @property
    def began(self) -> bool:
        """Return whether the last attempt wrote to its log."""
        return stamp(self.log) not in (None, self.before)


def stamp(path: str) -> Stamp:
    """Return modification time and size of a file, to detect changes."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


class RunHandler(logging.Handler):
    """Handle log records as ``snakemake_interface_logger_plugins`` describes them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of a log record."""
        try:
            self._note(record)
        except Exception:  # an error here must not end the run
            self.handleError(record)

    def _note(self, record: Any) -> None:  # Snakemake's records have extra fields
        raise NotImplementedError


class JobLog(RunHandler):
    """Record which jobs fail, independent of what Snakemake prints (``--quiet``).

    Add it to ``snakemake.logging.logger`` when a run starts.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, FailedJob] = {}  # as they started, by job number
        self._failed: dict[int, FailedJob] = {}
        self._interrupted = False

    @property
    def failed(self) -> list[FailedJob]:
        """Return jobs whose last attempt failed, in order; without those that Ctrl-C ended."""
        return list(self._failed.values())

    def _note(self, record: Any) -> None:
        event = getattr(record, "event", None)
        if event == "job_info":
            path = next(iter(record.log), "")
            job = FailedJob(record.rule_name, path, stamp(path), tuple(record.output))
            self._known[record.jobid] = job
            self._failed.pop(record.jobid, None)  # it is retried
        elif str(record.msg).startswith(INTERRUPTED):
            self._interrupted = True
        elif self._interrupted:
            return
        elif event == "group_error":
            numbers = [info["jobid"] for info in record.job_error_info]
            for number in numbers:
                self._fail(number, group=min(numbers), executor_logs=record.aux_logs)
        elif event == "job_error" and record.jobid not in self._failed:  # groups report jobs twice
            said = record.rule_msg or ""
            self._fail(record.jobid, said=said, executor_logs=record.log[1:])
        elif event == "error" and (found := MISSING.search(str(record.msg))):
            self._fail(int(found[1]), ended_well=True)

    def _fail(self, number: int, **facts: Any) -> None:
        self._failed[number] = replace(self._known[number], **{"group": number, **facts})


@dataclass(frozen=True)
class Failure:
    """One row of the table."""

    stage: str  # the rule
    scan: str  # of the job; the view of a training, the source of a download
    reason: str  # one line
    log: str
    excerpt: str  # its last lines


def last_lines(path: str) -> list[str]:
    """Return the last non-empty lines of a log, made printable; none if it cannot be read."""
    try:
        with Path(path).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - READ_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    # keep the last state of progress bars, which return to the start of the line
    lines = (line.rstrip().rpartition("\r")[2] for line in text.split("\n"))
    return [line for line in (UNPRINTABLE.sub("", line) for line in lines) if line.strip()]


def message(lines: Sequence[str]) -> str:
    """Return the reason for failure at the end of a command's log, "" if none.

    That is the error line that commands print on bad input, or a Python exception.
    """
    # the last lines, since an interpreter may print more as it shuts down
    for line in reversed(lines[-20:]):
        if found := COMMANDS_LAST_WORD.match(line):
            return found[1]
    if TRACEBACK in lines:
        last = len(lines) - 1 - lines[::-1].index(TRACEBACK)
        return next((line for line in lines[last + 1 :] if not line.startswith(" ")), "")
    return ""


def slurms_word(job: FailedJob) -> str:
    """Return SLURM's reason for the end of a job; "" if there is none, or no SLURM."""
    lines = [line for path in job.executor_logs for line in last_lines(path)]
    for line in (*lines, job.said):
        if found := SLURMS_WORD.search(line):
            return f"SLURM: {found[1] or found[2]}"
    return ""


def describe(job: FailedJob) -> Failure:
    """Return a failed job's reason: its own message, or else what is known about its end."""
    log, lines = job.log, last_lines(job.log) if job.began else []
    reason = message(lines) or (NO_OUTPUT if job.ended_well else "")
    if not reason:
        detail = slurms_word(job) or (f"last line: {lines[-1]}" if lines else "")
        reason = (SILENT if job.began else NOT_BEGUN) + (f" ({detail})" if detail else "")
    if not lines:  # the cluster's logs may say more
        logs = ((path, last_lines(path)) for path in job.executor_logs)
        log, lines = next((found for found in logs if found[1]), (log, []))
    excerpt = [line[:LINE_LENGTH] for line in lines[-EXCERPT_LINES:]]
    return Failure(job.rule, job.name, reason[:LINE_LENGTH], log, "\n".join(excerpt))


def guilty(jobs: Sequence[FailedJob]) -> list[FailedJob]:
    """Return the jobs of a submission that failed themselves; others had ended or not started.

    These are the jobs that gave a reason, else those that were running, else all.
    """
    begun = [job for job in jobs if job.began]
    explained = [job for job in begun if message(last_lines(job.log))]
    running = [job for job in begun if not all(Path(path).exists() for path in job.outputs)]
    return explained or running or list(jobs)


def find_failures(jobs: Sequence[FailedJob]) -> list[Failure]:
    """Return the actual failures among the jobs that Snakemake counts as failed, in order."""
    groups: dict[int, list[FailedJob]] = {}
    for job in jobs:
        groups.setdefault(job.group, []).append(job)
    return [describe(job) for members in groups.values() for job in guilty(members)]


def write_failed(path: str | Path, failures: Sequence[Failure]) -> None:
    """Write the table as TSV; if nothing failed, remove an old one."""
    if failures:
        write_records(path, Failure, failures)
    else:
        Path(path).unlink(missing_ok=True)


def read_failed(path: str | Path) -> list[Failure]:
    """Read the table of :func:`write_failed`; no table means that nothing failed.

    Raises:
        InputError: the file is not such a table.
    """
    try:
        return read_records(path, Failure)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        problem = f"is not a table of failed jobs ({error})"
        raise InputError(path, problem, "delete it; the next failed run writes it") from error


def as_text(failures: Sequence[Failure]) -> str:
    """Return stage, scan and reason in aligned columns, each with its log below."""
    stage = max((len(failure.stage) for failure in failures), default=0)
    scan = max((len(failure.scan) for failure in failures), default=0)
    return "\n".join(
        f"  {failure.stage:<{stage}}  {failure.scan:<{scan}}  {failure.reason}\n"
        f"  {'':<{stage}}  {'':<{scan}}  log: {failure.log}"
        for failure in failures
    )


def close_run(jobs: Sequence[FailedJob], table: str | Path) -> str:
    """Write the table of failed jobs at the end of a run.

    Args:
        jobs: failed jobs.
        table: TSV to write, or to remove.

    Returns:
        A message: the first failures and what to do; "" if nothing failed.
    """
    failures = find_failures(jobs)
    more = len(failures) - PRINTED
    where = shlex.quote(str(Path(table).absolute()))  # Snakemake may work in another folder
    hint = f"to see their logs: quicknat failures {where}"
    try:
        write_failed(table, failures)
    except (OSError, InputError) as error:  # a full disk may be the reason for the failures
        hint = f"error: {error}"
    if not failures:
        return ""
    lines = [f"\n{len(failures)} failed:", as_text(failures[:PRINTED])]
    lines += [f"  and {more} more, see {table}"] if more > 0 else []
    return "\n".join([*lines, hint, NEXT])
