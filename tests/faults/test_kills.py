"""Runs that are killed at random moments and run again; `make kills KILLS=200` kills many.

A run is killed (SIGKILL) with all its jobs; then the folder is unlocked and the same command is
given again, and so on until a run ends well. What it leaves is compared, byte for byte, with what
an undisturbed run leaves.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from helpers import ROOT, TINY, add_source, make_scan

# every stage takes part; states are saved after each step, so that many kills hit their writing
SETTINGS = TINY | {
    "auto_labels": {"atlases": ["sub-t"]},
    "training": {"batch_size": 8, "slice_stride": 4, "compile": False, "checkpoint_minutes": 0},
    "pretrain": {"epochs": 1},
    "finetune": {"epochs": 2},
}
ROWS = (("t", "train"), ("v", "val"), ("p", "pretrain"), ("s", "test"), ("u", "segment"))
LABELLED = ("train", "val", "test")
PATIENCE = 900  # seconds that a run may take
KILLS = int(os.environ.get("KILLS", 0))
# without a number of kills, from the download to a trained network, without what takes longest
WANTED = () if KILLS else (
    "results/models/finetune/coronal/model.safetensors",
    "results/scans/sub-s/anat/sub-s_dseg.nii.gz",
)  # fmt: skip

# what may differ from run to run, by a pattern of the path -> None, or what is taken out
VARYING = {
    r"benchmarks/.*": None,  # seconds and memory of each job
    r"logs/.*": None,  # seconds, speeds, process numbers; and a resumed training says that it is
    r"models/\w+/\w+/tensorboard/.*": None,  # time stamps; a resumed training begins a new file
    r"models/\w+/\w+/history\.tsv": ("seconds", "slices_per_second"),
    r"check\.(tsv|cache\.json)": None,  # of the time when the last run began
    r"segmentations/.*_dseg\.json": r'"date": "[^"]*"|"seconds": \{[^}]*\}',
    # the benchmarks, and how long trainings took
    r"report/index\.html": r'(?s)data-name="run_times">.*?</table>|<td>(pre|fine)-t[^<]*<',
    r"report/sub-\w+\.html": r"\d{4}-\d\d-\d\dT[\d:+]+|>read [\d.]+, .*?</td>",
}
# logs of jobs that were run again otherwise, and what the page of a run that failed needs
MAY_REMAIN = r"logs/|.*tensorboard/|report(/assets(/.*)?)?$"


def make_project(folder: Path) -> None:
    """Small scans in a tar archive, the sheet, the sources and settings, and nothing else."""
    raw = folder / "scans"
    raw.mkdir(parents=True)
    lines = ["subject\tsource\timage\tlabels\tlabels_source\tlabel_convention\tsplit"]
    for number, (name, use) in enumerate(ROWS):
        make_scan(raw / f"{name}.nii.gz", ("sub-CSI3", "sub-ds240")[number % 2], number, step=4)
        labels = f"{name}_dseg.nii.gz\tarchive\tfreesurfer" if use in LABELLED else "\t\t"
        lines.append(f"{name}\tarchive\t{name}.nii.gz\t{labels}\t{use}")
    (folder / "cohort.tsv").write_text("\n".join(lines) + "\n")
    archive = folder / "archive.tar"
    with tarfile.open(archive, "w") as tar:
        for path in sorted(raw.iterdir()):
            tar.add(path, path.name)
    tables = {"sheet": str(folder / "cohort.tsv")}
    tables["sources"] = add_source(folder, archive, "*.nii.gz")
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS | tables))


class Killer:
    """Runs the workflow in one folder, and kills it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / "run"
        self.random = random.Random(3)
        self.kills = 0
        self.seconds = 0.0  # of a run that nothing disturbs

    def start(self, cores: int) -> subprocess.Popen:
        """What a user does: unlock if need be, and the plain command, in a session of its own."""
        self.work.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--cores", str(cores), *WANTED]
        command += ["--configfile", str(self.folder / "settings.yaml")]
        if any((self.work / ".snakemake/locks").glob("*")):
            subprocess.run([*command, "--unlock"], cwd=self.work, check=True, capture_output=True)
        with (self.folder / "output.txt").open("w") as output:
            return subprocess.Popen(
                command, cwd=self.work, stdout=output, stderr=output, start_new_session=True
            )

    def output(self) -> str:
        return (self.folder / "output.txt").read_text()

    def finish(self, cores: int = 2) -> None:
        """A run that nothing disturbs; it must end well."""
        begin = time.monotonic()
        assert self.start(cores).wait(PATIENCE) == 0, self.output()[-5000:]
        self.seconds = max(self.seconds, time.monotonic() - begin)

    def disturb(self) -> bool:
        """Kill a run with all its jobs, unless it ends before; returns whether it was killed."""
        main = self.start(cores=2)
        try:
            status = main.wait(self.random.uniform(0, self.seconds))
        except subprocess.TimeoutExpired:
            os.killpg(main.pid, signal.SIGKILL)
            main.wait()
            self.kills += 1
            while str(self.work) in (p.info["cwd"] for p in psutil.process_iter(["cwd"])):
                time.sleep(0.02)  # until all have died
            return True
        assert status == 0, self.output()[-5000:]
        return False


def comparable(path: Path, name: str) -> bytes | None:
    """A file's bytes without what varies; None if nothing of it can be compared."""
    content = path.read_bytes()
    varying = next((found for part, found in VARYING.items() if re.fullmatch(part, name)), "")
    if isinstance(varying, tuple):
        return pd.read_csv(path, sep="\t").drop(columns=list(varying)).to_csv().encode()
    if varying:
        content = re.sub(varying, "…", content.decode()).encode()
    return None if varying is None else content


def differences(reference: Path, other: Path) -> list[str]:
    """Return what differs between two results folders, by file or folder."""
    one, two = (
        {name for path in top.rglob("*")
         if not re.match(MAY_REMAIN, name := str(path.relative_to(top)))}
        for top in (reference, other)
    )  # fmt: skip
    found = [f"{name}: missing" for name in sorted(one - two)]
    found += [f"{name}: left over" for name in sorted(two - one)]
    for name in sorted(one & two):
        if (reference / name).is_file():
            same = comparable(reference / name, name) == comparable(other / name, name)
            found += [] if same else [f"{name}: differs"]
    return found


@pytest.mark.long
@pytest.mark.timeout(max(2700, 600 * KILLS))
@pytest.mark.case(43, 45, 60)
def test_killed_runs(tmp_path):
    """Their results on two cores equal those of an undisturbed run on one core."""
    make_project(tmp_path)
    killer, wanted = Killer(tmp_path), KILLS or 5
    killer.finish(cores=1)
    killer.finish()  # which has nothing to do
    shutil.move(killer.work / "results", tmp_path / "reference")
    shutil.rmtree(killer.work)
    while killer.kills < wanted:
        while killer.kills < wanted and killer.disturb():
            print(f"{killer.kills} kills", flush=True)
        killer.finish()
        killer.finish()
        assert "Nothing to be done" in killer.output()
        assert differences(tmp_path / "reference", killer.work / "results") == []
        assert not list((killer.work / ".snakemake/locks").glob("*"))
        shutil.rmtree(killer.work)
