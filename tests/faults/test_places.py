"""Disks that are full or read-only, files that vanish, folders that two runs want (51, 47, 59)."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import psutil
import pytest
import yaml

from helpers import (
    ROOT,
    job_counts,
    run_snakemake,
    tiny_cohort,
    tiny_labels,
    tiny_scan,
    training_arguments,
)
from in_process import quicknat
from quicknat.cohort.check import read_verdicts
from quicknat.failures import read_failed
from quicknat.files import sha256
from quicknat.model import bundle
from quicknat.training import trainer

pytestmark = pytest.mark.slow  # half a second each, some more


def mount(folder, *options):
    """Mount a file system in memory, or change the options of one."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def disk(tmp_path):
    """A disk of its own, of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or mount(folder, "size=8m").returncode:
        pytest.skip("needs the right to mount file systems (root)")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk, room):
    """Leave this number of bytes."""
    state = os.statvfs(disk)
    with (disk / "filler").open("ab") as stream:
        stream.write(b"\0" * (state.f_bavail * state.f_frsize - room))


ASIDE = {"filler", "dataset_description.json", "labels", "tensorboard"}  # whole, but no results


def files(disk):
    """Results on the disk, and what is half-written."""
    found = (path.relative_to(disk) for path in disk.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if not ASIDE & set(path.parts))


@pytest.fixture
def commands(tmp_path, stand_in, stack, monkeypatch):
    """Commands of the workflow's stages by name, each of which writes to a folder."""
    scan = tiny_scan(tmp_path / "sub-1_T1w.nii.gz", 48)
    labels = tiny_labels(tmp_path / "labels.nii.gz", 48)
    conformed, native = tmp_path / "conformed.nii.gz", tmp_path / "native.nii.gz"
    protocol = ("--protocol", "quicknat28")
    done = quicknat("-q", "convert", scan, "--output", conformed, "--spacing", 2, "--size", 48)
    assert done.status == 0, done.err
    classes = tmp_path / "classes.nii.gz"
    given = (*protocol, "--scan", conformed, "--label-convention", "freesurfer")
    done = quicknat(
        "-q", "convert-labels", labels, *given, "--output", classes, "--native", native
    )  # fmt: skip
    assert done.status == 0, done.err
    model = stand_in(lambda x: (x > 0.3).long())
    monkeypatch.setattr(bundle, "load_bundle", lambda folder, device, bf16: model)
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(scan, "scan.nii.gz")
    table = tmp_path / "sources.tsv"
    row = f"a\tfile\t{archive.as_uri()}\t*\tsha256:{sha256(archive)}"
    table.write_text(f"source\tkind\turl\tmembers\tchecksum\n{row}\n")

    def run(name, folder):
        return quicknat(*{
            "download": ("download", table, "a", "--output", folder / "a.archive"),
            "unpack": ("unpack", archive, "--member", "*.nii.gz", "--folder", folder / "a",
                       "--manifest", folder / "a.txt"),
            "convert": ("convert", scan, "--output", folder / "sub-1.nii.gz", "--size", 48,
                        "--spacing", 2),
            "slice": ("slice", conformed, classes, *protocol, "--folder", folder, "--name", "sub-1",
                      "--size", 48),
            "train": training_arguments(tmp_path, [stack], folder / "model", epochs=2),
            "segment": ("segment", scan, "--model", "./stand-in", "--output", folder,
                        "--threads", 1),
        }[name])  # fmt: skip

    return run


STAGES = ("download", "unpack", "convert", "slice", "train", "segment")
ROOMS = {"slice": 100_000}  # bytes, where less is enough than of the others


@pytest.mark.case(51)
@pytest.mark.parametrize("stage", STAGES)
def test_full_disk_stops_a_stage_which_ends_well_once_there_is_room(commands, disk, stage):
    fill(disk, ROOMS.get(stage, 8192))
    done = commands(stage, disk)
    assert done.status == 1
    message = done.err[-1]
    assert message.startswith("error: ") and str(disk) in message, message
    assert "room" in message, message
    assert [path for path in files(disk) if not path.endswith(".lock")] == []
    (disk / "filler").unlink()
    done = commands(stage, disk)
    assert done.status == 0, done.err
    assert files(disk)


@pytest.mark.case(43, 51)
def test_training_whose_disk_fills_up_goes_on_from_its_last_state(commands, disk, monkeypatch):
    save, saved = trainer.save_state, []

    def save_and_fill(folder, name, *rest):
        save(folder, name, *rest)
        saved.append(name)
        if len(saved) == 1:
            fill(disk, 4096)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_state", save_and_fill)
        done = commands("train", disk)
    assert done.status == 1 and "cannot be written (" in done.err[-1], done.err
    assert files(disk) == [f"model/state/{saved[0]}{end}" for end in (".json", ".pt")]
    (disk / "filler").unlink()
    done = commands("train", disk)
    assert done.status == 0 and "resuming in epoch 1" in done.err[0], done.err
    assert "model/model.safetensors" in files(disk)


@pytest.mark.case(51)
@pytest.mark.parametrize("stage", STAGES)
def test_read_only_folder_is_refused_by_every_stage(commands, disk, stage):
    assert mount(disk, "remount", "ro").returncode == 0
    done = commands(stage, disk)
    assert done.status == 1
    assert done.err[-1].startswith(f"error: {disk}"), done.err
    assert "Read-only file system" in done.err[-1]
    assert files(disk) == []


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

    def add(self, name):
        """Add a scan to segment."""
        tiny_scan(self.folder / f"{name}.nii.gz")
        self.wanted.append(CONFORMED.format(name))
        with (self.folder / "cohort.tsv").open("a") as sheet:
            sheet.write(f"{name}\t{name}.nii.gz\t\t\tsegment\n")

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
        deadline = time.monotonic() + 60
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
        deadline, here = time.monotonic() + 60, str(self.folder)
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
    assert first.wait(60) == 0, project.output()
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


def test_end_of_a_run_removes_what_its_killed_jobs_have_left(project):
    project.before_converting("echo half > results/scans/.tmp-01ab_9yzT1w.nii.gz; kill -KILL $$")
    done = project.run("--keep-going")
    assert done.returncode != 0 and project.made() == [True, True, False], done.text
    assert not list(project.folder.glob("results/**/.tmp-*"))


@pytest.mark.case(1)
def test_scan_that_vanishes_after_the_check_fails_alone_with_its_name(project):
    project.before_converting("rm -f s.nii.gz")
    done = project.run("--keep-going")
    assert done.returncode != 0
    (failure,) = read_failed(project.folder / "results/failed.tsv")
    assert (failure.stage, failure.scan) == ("convert", "sub-s")
    assert "s.nii.gz: no such file" in failure.reason
    assert project.made() == [True, True, False]
    again = project.run()
    assert again.returncode != 0 and "sub-s: " in again.text and "no such file" in again.text


@pytest.mark.case(59)
def test_clock_that_was_moved_reruns_nothing_needless_and_skips_nothing_new(project):
    assert project.run().returncode == 0

    def set_clock(days):
        moment = time.time() + 86400 * days
        for path in (project.folder / "results").rglob("*"):
            os.utime(path, (moment, moment))

    for days in (-2, 2):  # results older than the scans, as after a clock went back; or too new
        set_clock(days)
        assert job_counts(project.run("--dry-run").text) == {}, days
    project.add("n")  # its file is older than all results
    assert job_counts(project.run("--dry-run").text) == {"convert": 1}
    set_clock(-2)
    tiny_scan(project.folder / "s.nii.gz", 14)
    assert job_counts(project.run("--dry-run").text) == {"convert": 2}


@pytest.mark.case(51)
def test_workflow_with_a_read_only_results_folder_stops_before_its_first_job(project, disk):
    (project.folder / "results").symlink_to(disk)
    assert mount(disk, "remount", "ro").returncode == 0
    done = project.run()
    assert done.returncode != 0
    assert "results/check.cache.json: cannot be written (Read-only file system)" in done.text
    assert "Traceback" not in done.text and "quicknat convert" not in done.text
