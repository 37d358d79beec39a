"""Steps of many jobs: their order, what runs meanwhile, and failures."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from quicknat.errors import InputError
from quicknat.segmentation.pipeline import Job, after


@pytest.mark.parametrize("background", [False, True])
def test_a_failure_ends_its_job_alone_and_the_order_stays(background):
    def read(task, _):
        if task == 1:
            raise InputError("b.nii", "is damaged", "fetch it again")
        return None if task == 3 else [task]

    def write(task, value):
        if task == 4:
            raise MemoryError
        return [*value, "written"]

    pool = ThreadPoolExecutor(2) if background else None
    jobs = list(after(write, after(read, map(Job, range(6)), pool), pool))
    assert [job.task for job in jobs] == list(range(6))
    assert [job.value for job in jobs] == [
        [0, "written"], None, [2, "written"], None, None, [5, "written"],
    ]  # fmt: skip
    assert [job.skipped for job in jobs] == [False, False, False, True, False, False]
    assert [type(job.error) for job in jobs if job.error] == [InputError, MemoryError]


def test_a_step_in_the_background_is_one_job_ahead_and_no_further():
    begun = [threading.Event() for _ in range(4)]

    def read(task, _):
        begun[task].set()
        # the next one has begun before this one is through
        return [begun[following].wait(30) for following in range(task + 1, min(task + 2, 4))]

    with ThreadPoolExecutor(2) as pool:
        for number, job in enumerate(after(read, map(Job, range(4)), pool)):
            assert all(job.value)
            assert sum(event.is_set() for event in begun) <= number + 2


def test_an_interruption_ends_all_steps_and_leaves_what_is_written_whole():
    written = []

    def predict(task, _):
        if task == 2:
            raise KeyboardInterrupt
        return task

    def interrupted():
        with ThreadPoolExecutor(2) as pool:
            readings = after(lambda task, _: task, map(Job, range(9)), pool)
            for _ in after(
                lambda task, _: written.append(task), after(predict, readings, None), pool
            ):
                pass

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(written) == [0, 1]
