"""The terminal shows a line per finished job, and a summary at the end."""

import logging
import os
from types import SimpleNamespace

import pytest

from quicknat.report import run_log
from quicknat.report.run_log import Terminal, box, summary


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(run_log.time, "monotonic", lambda: now.seconds)
    return now


def record(**fields):
    made = logging.makeLogRecord({"msg": "", "levelno": logging.INFO})
    made.__dict__.update(fields)
    return made


def test_line_per_job_with_progress_and_time_left(clock, capsys):
    terminal = Terminal(lambda: "")
    terminal.begin(["segment", "segment", "segment", "report"], [])
    for number, rule in enumerate(["segment", "segment", "all"], 1):  # `all` does nothing
        log = [f"results/logs/segment/sub-{number}.log"]
        terminal.emit(record(event="job_info", jobid=number, rule_name=rule, log=log))
        clock.seconds += 60
        terminal.emit(record(event="job_finished", job_id=number))
    assert capsys.readouterr().err.splitlines() == [
        "[1/4] segment sub-1 (60 s), at least 2 min left",
        "[2/4] segment sub-2 (60 s), at least 60 s left",
    ]


def test_snakemakes_own_lines_are_left_out_but_not_warnings(capsys):
    (handler := logging.StreamHandler()).name = "DefaultStreamHandler"
    (terminal := Terminal(lambda: "all there")).begin([], [handler])
    assert not handler.filter(record())
    assert handler.filter(record(levelno=logging.WARNING))
    terminal.emit(record(msg="Nothing to be done (all requested files …)."))
    assert capsys.readouterr().err == "all there\n"


def test_summary_names_results_but_no_scores_of_an_earlier_model(tmp_path):
    names = {"sub-1": "1", "sub-2": "2"}
    assert summary(tmp_path, "Finished", names, 2) == box(["Finished"])
    (tmp_path / "metrics.tsv").write_text("subject\tdice\nsub-1\t0.8\nsub-2\t0.9\n")
    for name in ("model/bundle.json", "report/index.html", "segmentations/volumes.tsv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    os.utime(tmp_path / "model/bundle.json", (0, 0))
    text = summary(tmp_path, "Finished", names, 2, ["full.log"])
    assert "Dice    0.850 over 2 participants" in text and "Volumes 2 scans" in text
    assert f"Report  {tmp_path}/report/index.html" in text and "full.log" in text
    assert len({len(line) for line in text.splitlines()}) == 1
    (tmp_path / "model/bundle.json").touch()
    os.utime(tmp_path / "metrics.tsv", (0, 0))
    assert "Dice" not in summary(tmp_path, "Finished", names, 2)
