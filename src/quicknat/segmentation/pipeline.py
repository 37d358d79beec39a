"""Do the steps of many jobs, some of them in the background; a failure ends its job alone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

Step = Callable[[Any, Any], Any]  # from a job's task and value to its next value


@dataclass
class Job:
    """A task, what its last step returned, and the error that ended it.

    A step that returns None says that there is nothing to do. ``seconds``: of all steps.
    """

    task: Any
    value: Any = ()
    error: Exception | None = None
    seconds: float = 0.0

    @property
    def skipped(self) -> bool:
        """Whether there was nothing to do."""
        return self.value is None and self.error is None

    def attempt(self, step: Step) -> Job:
        """Replace the value by what the step makes of it, unless the job has ended."""
        start = time.perf_counter()
        try:
            if self.value is not None:
                self.value = step(self.task, self.value)
        except Exception as error:  # whatever it is, the other jobs go on
            self.value, self.error = None, error
        self.seconds += time.perf_counter() - start
        return self


def after(step: Step, jobs: Iterable[Job], pool: Executor | None) -> Iterator[Job]:
    """Yield jobs after a step, in their order; with a pool, it is one job ahead."""
    pending: deque[Future[Job]] = deque()
    for job in jobs:
        if pool is None:
            yield job.attempt(step)
            continue
        pending.append(pool.submit(job.attempt, step))
        if len(pending) > 1:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
