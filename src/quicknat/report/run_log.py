"""Show a run on the terminal: a line per finished job with the time left, and a summary."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from quicknat.failures import RunHandler
from quicknat.training.history import duration

NOTHING = "Nothing to be done"


class Terminal(RunHandler):
    """Print a line per finished job, instead of Snakemake's lines, which remain in its log.

    Args:
        summary: returns what to print where nothing has to be done.
    """

    def __init__(self, summary: Callable[[], str]) -> None:
        super().__init__()
        self._summary, self._left = summary, Counter[str]()
        self._jobs: dict[int, tuple[str, str]] = {}  # rule and log's name, by job number
        self._begun: dict[int, float] = {}
        self._seconds: dict[str, list[float]] = defaultdict(list)  # of finished jobs, by rule
        self.total, self.start = 0, time.monotonic()

    def begin(self, rules: Sequence[str], handlers: Sequence[logging.Handler]) -> None:
        """Start with a job of each of `rules`, and make Snakemake's own handler print less."""
        self._left, self.total, self.start = Counter(rules), len(rules), time.monotonic()
        for handler in handlers:
            if handler.name == "DefaultStreamHandler":
                handler.addFilter(lambda record: record.levelno > logging.INFO)

    def _note(self, record: Any) -> None:
        event = getattr(record, "event", None)
        if event == "job_info":
            log = next(iter(record.log), "")
            self._jobs[record.jobid] = (record.rule_name, Path(log).stem)
            self._begun[record.jobid] = time.monotonic()
        elif event == "job_finished" and record.job_id in self._jobs:
            self._finish(record.job_id)
        elif str(record.msg).startswith(NOTHING):
            self.print(self._summary())

    def _finish(self, number: int) -> None:
        rule, name = self._jobs.pop(number)
        if rule not in self._left:  # `all`, which does nothing
            return
        seconds = time.monotonic() - self._begun[number]
        self._seconds[rule].append(seconds)
        self._left[rule] -= 1
        left = sum(count for count in self._left.values() if count > 0)
        self.print(
            f"[{self.total - left:>{len(str(self.total))}}/{self.total}] {rule} {name}"
            f" ({duration(seconds)}){self._time_left()}"
        )

    def _time_left(self) -> str:
        """Return the time left, as far as rules are known: a job has the mean time of its rule."""
        known, unknown = 0.0, False
        for rule, count in (+self._left).items():
            times = self._seconds.get(rule)
            unknown |= not times
            known += count * sum(times) / len(times) if times else 0.0
        if not known:
            return ""
        worked = sum(map(sum, self._seconds.values()))
        at_once = max(1.0, worked / max(time.monotonic() - self.start, 1e-9))
        return f", {'at least' if unknown else 'about'} {duration(known / at_once)} left"

    @staticmethod
    def print(text: str) -> None:
        """Print to where Snakemake's messages go."""
        print(text, file=sys.stderr, flush=True)


def box(lines: Sequence[str]) -> str:
    """Return lines in a box."""
    width = max(map(len, lines))
    body = [f"│ {line:<{width}} │" for line in lines]
    return "\n".join([f"╭{'─' * (width + 2)}╮", *body, f"╰{'─' * (width + 2)}╯"])


def _s(number: int) -> str:
    return "" if number == 1 else "s"


def summary(
    results: str | Path,
    first: str,
    participants: Mapping[str, str],
    segmented: int,
    logs: Sequence[str] = (),
) -> str:
    """Return the box at the end of a run: the `first` line, Dice, paths of results and logs.

    `participants` are those of the test scans, `segmented` is the number of segmented ones.
    """
    results, lines = Path(results), [first]
    metrics, page = results / "metrics.tsv", results / "report/index.html"
    model = results / "model/bundle.json"

    def of_this_model(table: Path) -> bool:  # with --until, tables may be of an earlier one
        made = table.exists() and model.exists()
        return made and table.stat().st_mtime >= model.stat().st_mtime

    if participants and of_this_model(metrics):
        import pandas as pd

        from quicknat.evaluation.scores import mean_dice

        table = pd.read_csv(metrics, sep="\t")
        mean, low, high = mean_dice(table, participants)
        number = len({participants.get(scan, scan) for scan in table["subject"]})
        interval = f" (95 % interval {low:.3f} to {high:.3f})" if low == low else ""
        lines.append(f"Dice    {mean:.3f} over {number} participant{_s(number)}{interval}")
    volumes = results / "segmentations/volumes.tsv"
    if segmented and of_this_model(volumes):
        lines.append(f"Volumes {segmented} scan{_s(segmented)}: {volumes}")
    if page.exists():  # with --until there may be none yet
        lines.append(f"Report  {page.absolute()}")
    lines += [f"Log     {log}" for log in logs]
    return box(lines)
