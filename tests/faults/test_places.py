"""Disks that are full, files that vanish, folders that two runs want (51, 47)."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import psutil
import pytest
import torch
import yaml
from safetensors.torch import save_file

from helpers import (
    ROOT,
    add_source,
    job_counts,
    run_snakemake,
    save,
    tiny_cohort,
    tiny_scan,
    training_arguments,
    write_conformed,
)
from in_process import quicknat
from quicknat.cohort.check import read_verdicts
from quicknat.errors import InputError
from quicknat.failures import read_failed
from quicknat.files import written_whole
from quicknat.model import bundle
from quicknat.training import checkpoint

pytestmark = pytest.mark.slow  # half a second each, some more


@contextlib.contextmanager
def full_disk(room):
    """Files cannot grow beyond a number of bytes: writing fails in the midst, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


ASIDE = {"dataset_description.json", "labels", "scans.tsv", "tensorboard"}  # whole, but no results


def files(folder):
    """Results, and what is half-written."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    kept = (path for path in found if not ASIDE & set(path.parts) and path.suffix != ".lock")
    return sorted(map(str, kept))


@pytest.fixture
def commands(tmp_path, stand_in, stack, monkeypatch):
    """Commands of the workflow's stages by name, each of which writes to a folder."""
    scan = tiny_scan(tmp_path / "sub-1_T1w.nii.gz", 48)
    conformed = tmp_path / "conformed.nii.gz"
    image, grid = write_conformed(scan, conformed, 2, 48)
    classes = save(tmp_path / "classes.nii.gz", (image > 0).astype(np.uint8), grid.affine)
    model = stand_in(lambda x: (x > 0.3).long())
    monkeypatch.setattr(bundle, "load_bundle", lambda folder, device, bf16: model)
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(scan, "scan.nii.gz")
    table = add_source(tmp_path, archive)

    def run(name, folder):
        return quicknat(*{
            "download": ("download", table, "a", "--output", folder / "a.archive"),
            "unpack": ("unpack", archive, "--member", "*.nii.gz", "--folder", folder / "a",
                       "--manifest", folder / "a.txt"),
            "convert": ("convert", scan, "--output", folder / "sub-1.nii.gz", "--size", 48,
                        "--spacing", 2),
            "slice": ("slice", conformed, classes, "--protocol", "quicknat28", "--folder", folder,
                      "--name", "sub-1", "--size", 48),
            "train": training_arguments(tmp_path, [stack], folder / "model", epochs=2),
            "segment": ("segment", scan, "--model", "./stand-in", "--output", folder,
                        "--threads", 1),
        }[name])  # fmt: skip

    return run


STAGES = ("download", "unpack", "convert", "slice", "train", "segment")


@pytest.mark.case(51)
@pytest.mark.parametrize("stage", STAGES[1:])  # `download` asks first how much room there is
def test_full_disk_stops_a_stage_which_ends_well_once_there_is_room(commands, tmp_path, stage):
    folder = tmp_path / "out"
    with full_disk(1000 if stage == "segment" else 8192):  # of each file
        done = commands(stage, folder)
    assert done.status == 1
    (message,) = (line for line in done.err if line.startswith("error: "))
    assert message.startswith(f"error: {folder}") and "room" in message, message
    assert files(folder) == []
    done = commands(stage, folder)
    assert done.status == 0, done.err
    assert files(folder)


@pytest.mark.case(51)
def test_full_disk_is_named_for_weights_too_whose_library_has_errors_of_its_own(tmp_path):
    path = tmp_path / "model.safetensors"
    refusal = pytest.raises(InputError, match="model.*cannot be written.*room")
    with full_disk(4096), refusal, written_whole(path) as (temporary,):
        save_file({"weight": torch.zeros(10_000)}, temporary)
    assert not list(tmp_path.iterdir())


@pytest.mark.case(43, 51)
def test_training_whose_disk_fills_up_goes_on_from_its_last_state(commands, tmp_path, monkeypatch):
    save, saved = checkpoint.save_state, []

    def save_once(folder, name, *rest):
        with full_disk(4096) if saved else contextlib.nullcontext():
            save(folder, name, *rest)
        saved.append(name)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_state", save_once)
        done = commands("train", tmp_path / "out")
    assert done.status == 1 and "cannot be written (" in done.err[-1], done.err
    states = [f"model/state/{saved[0]}{end}" for end in (".json", ".pt")]
    states += ["model/state/end.txt"]  # why it ended
    assert files(tmp_path / "out") == states
    done = commands("train", tmp_path / "out")
    assert done.status == 0 and "resuming in epoch 1" in "\n".join(done.err), done.err
    assert "model/model.safetensors" in files(tmp_path / "out")


@pytest.mark.case(51)
@pytest.mark.parametrize("stage", STAGES)
def test_folder_that_cannot_be_made_is_refused_by_every_stage(commands, tmp_path, stage):
    (tmp_path / "file").write_text("mine")
    done = commands(stage, tmp_path / "file/out")
    message = done.err[-1]
    assert done.status == 1 and message.startswith(f"error: {tmp_path / 'file'}")
    assert "Not a directory" in message or "File exists" in message


CONFORMED = "results/scans/sub-{0}/anat/sub-{0}_space-conformed_T1w.nii.gz"
# `quicknat` on PATH that does something before the conversion of scan s
WRAPPER = '#!/bin/sh\ncase "$*" in convert*sub-s_*) {};; esac\nexec {} "$@"\n'
WAITING = "touch at-work; while [ -e hold ]; do sleep 0.05; done"


class Project:
    """Scans t, v and s, of which the workflow converts images."""

    def __init__(self, folder):
        self.folder, self.env = folder, None
        sheet = tiny_cohort(folder, t="train", v="val", s="segment")
        self.overlay = {"sheet": sheet, "conform": {"size": 64}, "slices": {"size": 48}}
        self.wanted = [CONFORMED.format(name) for name in ("t", "v", "s")]

    def before_converting(self, command):
        """Have a shell command run before the conversion of scan s."""
        (self.folder / "bin").mkdir()
        program = self.folder / "bin/quicknat"
        program.write_text(WRAPPER.format(command, shutil.which("quicknat")))
        program.chmod(0o755)
        self.env = os.environ | {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}

    def run(self, *arguments):
        return run_snakemake(
            self.folder, *arguments, *self.wanted, overlay=self.overlay, env=self.env
        )

    def start(self):
        """Start a run; it is at the conversion of s, which waits while there is a file `hold`."""
        self.before_converting(WAITING)
        (self.folder / "hold").touch()
        (self.folder / "overlay.yaml").write_text(yaml.safe_dump(self.overlay))
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--cores", "2", *self.wanted, "--configfile", "overlay.yaml"]
        with (self.folder / "first.txt").open("w") as output:
            first = subprocess.Popen(
                command, cwd=self.folder, stdout=output, stderr=output, env=self.env
            )
        deadline = time.monotonic() + 240  # on a busy machine
        while not (self.folder / "at-work").exists():
            assert time.monotonic() < deadline and first.poll() is None, self.output()
            time.sleep(0.02)
        return first

    def leave_half_written(self):
        """A file as a killed job leaves it."""
        path = self.folder / "results/scans/.tmp-01ab_9yzT1w.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
        return path

    def wait_for_jobs(self):
        """Wait until no process works in the folder."""
        deadline, here = time.monotonic() + 240, str(self.folder)
        while any(p.info["cwd"] == here for p in psutil.process_iter(["cwd"])):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def output(self):
        return (self.folder / "first.txt").read_text()

    def made(self):
        return [(self.folder / path).is_file() for path in self.wanted]


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def test_run_on_other_outputs_leaves_the_temporaries_of_the_first_one_alone(project):
    first = project.start()
    half = project.leave_half_written()
    tiny_scan(project.folder / "other.nii.gz")
    sheet = "subject\timage\tsplit\nother\tother.nii.gz\tsegment\n"
    (project.folder / "other.tsv").write_text(sheet)
    overlay = project.overlay | {"sheet": str(project.folder / "other.tsv"), "model": "small"}
    second = run_snakemake(project.folder, CONFORMED.format("other"), overlay=overlay)
    assert second.returncode == 0 and half.exists(), second.text
    (project.folder / "hold").unlink()
    assert first.wait(240) == 0, project.output()
    assert project.made() == [True] * 3


@pytest.mark.case(47)
def test_killed_run_is_unlocked_and_then_the_same_command_finishes_it(project):
    first = project.start()
    first.send_signal(signal.SIGKILL)
    first.wait()
    half = project.leave_half_written()
    early = project.run()
    assert early.returncode != 0 and "--unlock" in early.text, early.text
    (project.folder / "hold").unlink()
    project.wait_for_jobs()
    unlocked = project.run("--unlock")
    assert unlocked.returncode == 0 and half.exists(), unlocked.text
    done = project.run()
    assert done.returncode == 0 and not half.exists(), done.text
    assert project.made() == [True] * 3
    assert {v.scan for v in read_verdicts(project.folder / "results/check.tsv")} == {
        "sub-t", "sub-v", "sub-s",
    }  # fmt: skip
    assert job_counts(project.run("--dry-run").text) == {}


@pytest.mark.case(1)
def test_scan_that_vanishes_after_the_check_fails_alone_with_its_name(project):
    """And the end of the run removes what a killed job has left."""
    half = project.leave_half_written()
    project.before_converting(f"rm -f s.nii.gz; echo half > {half}")
    done = project.run("--keep-going")
    assert done.returncode != 0 and not half.exists(), done.text
    (failure,) = read_failed(project.folder / "results/failed.tsv")
    assert (failure.stage, failure.scan) == ("convert", "sub-s")
    assert "s.nii.gz: no such file" in failure.reason
    assert project.made() == [True, True, False]
    again = project.run()
    assert again.returncode != 0 and "sub-s: " in again.text and "no such file" in again.text


@pytest.mark.case(51)
def test_workflow_that_cannot_write_its_results_stops_before_its_first_job(project):
    (project.folder / "results").write_text("mine")
    done = project.run()
    assert done.returncode != 0
    assert "results/check.cache.json: cannot be written (" in done.text
    assert "Traceback" not in done.text and "quicknat convert" not in done.text
