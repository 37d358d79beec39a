"""What failed in a run: found among the jobs, explained by their logs, left in a table."""

import hashlib
import json
import logging
import os
from pathlib import Path

import pytest

from in_process import quicknat
from quicknat.errors import InputError
from quicknat.failures import (
    NO_OUTPUT,
    NOT_BEGUN,
    SILENT,
    Failure,
    JobLog,
    close_run,
    find_failures,
    read_failed,
    write_failed,
)
from quicknat.report.inputs import complete_scans

TRACEBACK = """epoch 1
Traceback (most recent call last):
  File "train.py", line 3, in step
    loss.backward()
torch.OutOfMemoryError: CUDA out of memory.
  Tried to allocate 2 GiB
"""


class Run:
    """A Snakemake at work in a folder, as far as its log handlers hear of it."""

    def __init__(self):
        self.jobs, self.numbers = JobLog(), {}
        self.snakemake = logging.Logger("snakemake")
        self.snakemake.addHandler(self.jobs)

    def begin(self, rule, name, log=None, outputs=()):
        """Start a job; `log` is what it writes while it runs. Returns its number."""
        path = f"logs/{rule}/{name}.log"
        number = self.numbers.setdefault(path, len(self.numbers))
        # attributes as in Snakemake 9.27; here those that matter
        said = {"event": "job_info", "jobid": number, "rule_name": rule, "log": [path]}
        self.snakemake.info("Rule", extra={**said, "output": list(outputs)})
        if log is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(log)
        return number

    def error(self, number, said=None, cluster_logs=()):
        log = [next(path for path, n in self.numbers.items() if n == number), *cluster_logs]
        extra = {"event": "job_error", "jobid": number, "rule_msg": said, "log": log}
        self.snakemake.error("Error in rule", extra=extra)

    def group_error(self, *numbers, cluster_logs=()):
        members = [{"jobid": number} for number in numbers]
        extra = {"event": "group_error", "job_error_info": members, "aux_logs": list(cluster_logs)}
        self.snakemake.error("Error in group", extra=extra)
        for number in numbers:
            self.error(number)

    def fail(self, rule, name, log=None):
        self.error(self.begin(rule, name, log))

    def failures(self):
        return find_failures(self.jobs.failed)

    def reasons(self):
        return {(failure.stage, failure.scan): failure.reason for failure in self.failures()}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Run()


def test_failed_job_is_told_with_stage_scan_reason_and_the_end_of_its_log(run):
    lines = [f"line {number}" for number in range(100)]
    run.begin("convert", "sub-good", "done\n")
    run.fail("convert", "sub-bad", "\n".join([*lines, "error: a.nii: is empty; copy it again\n"]))
    (failure,) = run.failures()
    assert (failure.stage, failure.scan) == ("convert", "sub-bad")
    assert failure.reason == "a.nii: is empty; copy it again"
    assert failure.log == "logs/convert/sub-bad.log"
    assert failure.excerpt.splitlines()[-2:] == ["line 99", f"error: {failure.reason}"]
    assert len(failure.excerpt.splitlines()) == 15


REASONS = {
    "error: x: is bad\nException ignored in: <function f>\n": "x: is bad",
    "interrupted: axial: stopped in epoch 2 by a signal\n": "axial: stopped in epoch 2 by a signal",
    TRACEBACK: "torch.OutOfMemoryError: CUDA out of memory.",
    TRACEBACK
    + "\nDuring handling:\n\nTraceback (most recent call last):\nKeyError: 7\n": "KeyError: 7",
    "": SILENT,
    " 10%\r 20%\r 30%\r\n": f"{SILENT} (last line:  30%)",
    # of a program that a command started, long before its end
    "error: no display\n" + "at work\n" * 30: f"{SILENT} (last line: at work)",
    "\x1b[31merror: red\x1b[0m\x00\n": "red",
    "x" * 300_000 + "\nerror: small\n": "small",
}


@pytest.mark.parametrize("log", REASONS, ids=range(len(REASONS)))
def test_reason_is_the_last_word_of_the_log(run, log):
    run.fail("segment", "sub-1", log)
    (failure,) = run.failures()
    assert failure.reason == REASONS[log]
    assert len(failure.excerpt) < 10_000


def test_only_the_last_attempt_counts(run):
    for attempt in range(3):
        run.fail("finetune", "axial", f"error: attempt {attempt}\n")
        run.group_error(run.begin("slice", "sub-1", "error: x\n"))
    assert run.reasons() == {("finetune", "axial"): "attempt 2", ("slice", "sub-1"): "x"}
    run.fail("finetune", "axial")  # before it wrote to its log
    run.begin("slice", "sub-1", "done\n")
    (failure,) = run.failures()
    assert failure.reason == NOT_BEGUN and failure.excerpt == ""
    run.begin("finetune", "axial", "done\n")
    assert run.failures() == []


def test_cluster_says_why_a_job_ended(run, tmp_path):
    log = "rule x\nslurmstepd-n1: error: exceeded memory limit\nslurmstepd-n1: error: CANCELLED\n"
    (tmp_path / "7.log").write_text(log)
    said = "SLURM-job '7' failed, SLURM status is: 'TIMEOUT'. Detailed failure reason unavailable"
    run.error(run.begin("finetune", "axial", "epoch 1\n"), said, ["7.log"])
    run.error(run.begin("finetune", "coronal"), said, ["absent.log"])
    run.error(run.begin("finetune", "sagittal"), said, ["7.log"])
    assert run.reasons() == {
        ("finetune", "axial"): f"{SILENT} (SLURM: exceeded memory limit)",
        ("finetune", "coronal"): f"{NOT_BEGUN} (SLURM: TIMEOUT)",
        ("finetune", "sagittal"): f"{NOT_BEGUN} (SLURM: exceeded memory limit)",
    }
    axial, _, sagittal = run.failures()
    assert (axial.log, axial.excerpt) == ("logs/finetune/axial.log", "epoch 1")
    assert sagittal.log == "7.log" and sagittal.excerpt.startswith("rule x\nslurmstepd")
    run.error(run.begin("bundle", "model", "at work\n"), said.replace("TIMEOUT", "FAILED"))
    assert run.reasons()[("bundle", "model")] == f"{SILENT} (last line: at work)"


def test_job_that_left_no_output_is_a_failure(run):
    number = run.begin("convert", "sub-1", "done\n")
    text = f"MissingOutputException in rule convert\nJob {number}  completed successfully, but some"
    text += " output files are missing. Missing files after 5 seconds."
    run.snakemake.error(text, extra={"event": "error", "exception": "MissingOutputException"})
    assert run.reasons() == {("convert", "sub-1"): NO_OUTPUT}


LIMIT = "*** JOB 7 CANCELLED AT noon DUE TO TIME LIMIT"
GROUPS = {  # logs of a submission's jobs, whether they have their outputs; reasons of the failed
    "one has a reason": (
        {"sub-1": ("done\n", True), "sub-2": ("error: is empty\n", False),
         "sub-3": ("reading\n", False), "sub-4": (None, False)},
        {"sub-2": "is empty"},
    ),
    "killed while one was at work": (
        {"sub-1": ("done\n", True), "sub-2": ("reading\n", False), "sub-3": (None, False)},
        {"sub-2": f"{SILENT} (SLURM: {LIMIT})"},
    ),
    "never began": (
        {"sub-1": (None, False), "sub-2": (None, False)},
        dict.fromkeys(("sub-1", "sub-2"), f"{NOT_BEGUN} (SLURM: {LIMIT})"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", GROUPS)
def test_of_a_submission_those_jobs_failed_that_say_so_or_were_at_work(run, tmp_path, what):
    jobs, failed = GROUPS[what]
    (tmp_path / "made").touch()
    (tmp_path / "7.log").write_text(f"slurmstepd: error: {LIMIT}\n")
    numbers = [
        run.begin("convert", name, log, outputs=["made" if made else "absent"])
        for name, (log, made) in jobs.items()
    ]
    other = [run.begin("slice", "sub-3", "error: x\n"), run.begin("slice", "sub-4")]
    run.group_error(*numbers, cluster_logs=["7.log"])
    run.group_error(*other)  # which stands by itself
    expected = {("convert", name): reason for name, reason in failed.items()}
    assert run.reasons() == expected | {("slice", "sub-3"): "x"}


def test_jobs_that_the_user_interrupts_are_no_failures(run, monkeypatch):
    """Nor do records of an unknown kind end the run."""
    monkeypatch.setattr(logging, "raiseExceptions", False)  # no traceback among the tests' output
    run.snakemake.info("what is this", extra={"event": "job_info"})
    run.snakemake.info(None)
    run.fail("convert", "sub-1", "error: x\n")
    number = run.begin("finetune", "axial", "epoch 1\n")
    run.snakemake.info("Terminating processes on user request, this might take some time.")
    run.error(number)
    assert list(run.reasons()) == [("convert", "sub-1")]


ROWS = [
    Failure("convert", "sub-1", 'a "b"\tis\nbad', "logs/convert/sub-1.log", "one\n\n\t'two'\n"),
    Failure("finetune", "axial", "größer <b>", "logs/finetune/axial.log", ""),
]


def test_table_is_read_and_shown_as_written_and_goes_when_nothing_failed(tmp_path):
    table = tmp_path / "failed.tsv"
    write_failed(table, ROWS)
    assert read_failed(table) == ROWS and list(tmp_path.iterdir()) == [table]
    done = quicknat("failures", table)
    assert done.status == 0 and done.out[-1] == "2 failed" and "    | one" in done.out
    assert any("finetune  axial  größer <b>" in line for line in done.out)
    for _ in range(2):
        assert close_run([], table) == "" and read_failed(table) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "scan\tverdict\n", "stage\tscan\treason\tlog\texcerpt\na\tb\n"]
)
def test_another_table_is_refused(tmp_path, text):
    (tmp_path / "failed.tsv").write_text(text)
    with pytest.raises(InputError, match=r"failed\.tsv: is not a table of failed jobs"):
        read_failed(tmp_path / "failed.tsv")


def test_end_of_a_run_tells_the_first_failures_and_where_the_rest_is(run):
    for number in range(25):
        run.fail("convert", f"sub-{number:02}", f"error: bad {number}\n")
    text = close_run(run.jobs.failed, "results/failed.tsv")
    assert text.startswith("\n25 failed:\n  convert  sub-00  bad 0\n")
    assert "logs/convert/sub-19.log" in text and "sub-20" not in text
    assert "and 5 more, see results/failed.tsv" in text
    assert "run the same command again" in text
    # the command works in any folder, also with --directory
    assert f"quicknat failures {Path.cwd()}/results/failed.tsv\n" in text
    assert [failure.scan for failure in read_failed("results/failed.tsv")][-1] == "sub-24"
    text = close_run(run.jobs.failed, "results/failed.tsv/table.tsv")  # in no folder
    assert "\n  convert  sub-00  bad 0\n" in text
    assert "error: results/failed.tsv/table.tsv: cannot be written" in text


RECORD = "segmentations/{0}/anat/{0}_desc-quicknat_dseg.json"
PICTURE, SCORES = "report/figures/{0}/thumbnail.jpg", "metrics/{0}.tsv"
ENDS = ("dseg.nii.gz", "dseg.stats", "volumes.tsv", "qc.json")
FILES = [*(RECORD.replace("dseg.json", end) for end in ENDS), RECORD, PICTURE, SCORES]
INCOMPLETE = {  # what has become of a file of scan b
    **{f"no {path}": (Path.unlink, path) for path in FILES},
    **{
        f"{path} of the segmentation before": (lambda path: os.utime(path, (1, 1)), path)
        for path in (PICTURE, SCORES)
    },
    **{
        f"provenance {text}": (lambda path, text=text: path.write_text(text), RECORD)
        for text in ('{"model": {"sha256": "of the model before"}}', "{")
    },
}


@pytest.mark.parametrize("what", INCOMPLETE)
def test_scan_without_a_current_file_is_not_complete(tmp_path, what):
    made_by = {"model": {"sha256": hashlib.sha256(b"{}").hexdigest()}}
    for file in ("model/bundle.json", *(file.format(name) for name in "abc" for file in FILES)):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("{}" if "bundle" in file else json.dumps(made_by))
    names, tested = ["a", "b", "c", "d"], ["a", "b", "d"]
    assert complete_scans(tmp_path, names, tested) == ["a", "b", "c"]
    change, path = INCOMPLETE[what]
    change(tmp_path / path.format("b"))
    assert complete_scans(tmp_path, names, tested) == ["a", "c"]
    assert complete_scans(tmp_path, names) == (["a", "b", "c"] if path == SCORES else ["a", "c"])
