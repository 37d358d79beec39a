"""Scans and trainings that fail or are stopped: what is told, and what is kept."""

import re
import shutil
import tarfile
import threading
import time

import pandas as pd
import psutil
import pytest
from project import row

from helpers import add_source, job_counts
from quicknat.failures import SILENT, read_failed

pytestmark = pytest.mark.slow
# the axial training is killed as it begins, as Linux does where memory runs out
KILLER = '#!/bin/sh\n[ "$1 $2" = "train axial" ] && echo at work && kill -KILL $$\nexec "{}" "$@"\n'
MODEL = "results/models/finetune/{}/model.safetensors"
SCAN = "results/scans/sub-{0}/anat/sub-{0}_space-conformed_T1w.nii.gz"


@pytest.mark.case(58)
def test_failures(project):
    """They are told in a table and on a page, until a run succeeds; the other jobs finish."""
    folder, data = project.folder, project.folder / "data"
    (folder / "bad.nii").write_text("no image")
    (folder / "late.nii").write_bytes((data / "s2.nii").read_bytes()[:20_000])
    with tarfile.open(folder / "late.tar", "w") as tar:  # found to be damaged once it is unpacked
        tar.add(folder / "late.nii", "late.nii")
    project.settings["sources"] = add_source(folder, folder / "late.tar")
    project.rows += [row("s2"), row("bad", image="bad.nii")]
    project.rows += [row("slate", image="late.nii", source="late")]
    project.settings["on_bad_scan"] = "skip"
    project.set("finetune", learning_rate=0.002)
    project.program("quicknat", KILLER.format(shutil.which("quicknat")))
    wanted = [*map(MODEL.format, ("coronal", "axial", "sagittal")), SCAN.format("s2")]
    # quiet, since the table must not depend on what is printed
    said = project.run("--quiet", "all", "--keep-going", *wanted, SCAN.format("slate"), fails=True)
    table = project.results / "failed.tsv"
    convert, training = sorted(read_failed(table), key=lambda failure: failure.stage)
    assert (convert.stage, convert.scan) == ("convert", "sub-slate")
    assert "late.nii: is truncated" in convert.reason
    assert convert.reason in (folder / convert.log).read_text()
    assert (training.stage, training.scan) == ("finetune", "axial")
    assert training.reason == f"{SILENT} (last line: at work)" and training.excerpt == "at work"
    assert "2 failed:\n" in said and f"convert   sub-slate  {convert.reason}" in said
    assert "run the same command again" in said
    page = (project.results / "report/incomplete.html").read_text()
    assert "that were left out" in page and "bad.nii" in page and "2 jobs failed" in page
    assert 'href="../logs/convert/sub-slate.log"' in page
    for name in (SCAN.format("s2"), MODEL.format("coronal"), MODEL.format("sagittal")):
        assert (folder / name).is_file(), name
    assert not list(project.results.glob("scans/sub-slate/**/*.nii.gz"))

    project.settings["on_bad_scan"] = "stop"  # now that it is unpacked, the check finds it
    assert re.search(r"sub-slate: .*is truncated", project.run("--dry-run", fails=True))
    project.rows, project.env = project.rows[:-2], None
    assert job_counts(project.run("--dry-run", *wanted)) == {"finetune": 1} and table.exists()
    project.run(*wanted)
    assert not table.exists() and not (project.results / "report/incomplete.html").exists()


@pytest.mark.case(46)
def test_resumed_training(project):
    """A retry of a terminated training resumes where it was."""
    folder, terminated = project.folder, []

    def terminate_when_it_has_a_state():
        while not terminated:
            time.sleep(0.05)
            if list(folder.glob("results/models/finetune/axial/state/00002-*.json")):
                for process in psutil.process_iter(["cmdline", "cwd"]):
                    words = process.info["cmdline"] or []
                    if process.info["cwd"] == str(folder) and words[2:4] == ["train", "axial"]:
                        process.terminate()
                        terminated.append(process.pid)

    threading.Thread(target=terminate_when_it_has_a_state, daemon=True).start()
    project.set("finetune", epochs=3)
    project.set("training", checkpoint_minutes=0)
    text = project.run("--retries", "1", MODEL.format("axial"))
    assert terminated and "axial: stopped in epoch 2" in text
    assert "axial: resuming in epoch 2" in text
    history = pd.read_csv(folder / "results/models/finetune/axial/history.tsv", sep="\t")
    assert history["epoch"].tolist() == [1, 2, 3]
    assert not (folder / "results/models/finetune/axial/state").exists()
