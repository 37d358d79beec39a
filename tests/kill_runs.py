"""Kill runs of the workflow at random moments, and compare their results with an undisturbed run's.

`make kills KILLS=200`, or ``python tests/kill_runs.py --kills 200``.

A run is killed (SIGKILL) with all its jobs, or one of its jobs is, or Snakemake alone; then the
folder is unlocked and the same command is given again, and so on until a run ends well. What it
leaves is compared, byte for byte.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil
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
WAYS = ("run", "run", "run", "job", "snakemake")  # what is killed: the run with its jobs, or one
EARLY, EARLY_SECONDS = 0.1, 6.0  # share of kills before the first job, and how long that may take
OFTEN, SELDOM = 0.85, 0.4  # chances to kill in a job of a stage with few kills, or with many
MEAN_SECONDS = 2  # from the start of that job to the kill
PATIENCE = 900  # seconds that a run may take

# what may differ from run to run, by a pattern of the path -> None, or what is taken out
VARYING = {
    r"benchmarks/.*": None,  # seconds and memory of each job
    r"logs/.*": None,  # seconds, speeds, process numbers; and a resumed training says that it is
    r"models/\w+/\w+/tensorboard/.*": None,  # time stamps; a resumed training begins a new file
    r"models/\w+/\w+/history\.tsv": ("seconds", "slices_per_second"),
    r"check\.(tsv|cache\.json)": None,  # of the time when the last run began
    r"segmentations/.*_dseg\.json": r'"date": "[^"]*"|"seconds": \{[^}]*\}',
    # the benchmarks, and how long trainings took
    r"report/index\.html": r'(?s)data-name="run_times">.*?</table>|"n">\d+ (s|min|h)[^<]*<',
    r"report/sub-\w+\.html": r"\d{4}-\d\d-\d\dT[\d:+]+|<td>read [\d.]+, .*?</td>",
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


def stage_of(words: list[str]) -> str:
    """The stage of a process by its command line, "" if it is no job."""
    names = [Path(word).name for word in words[:3]]
    if "quicknat" not in names or len(words) < names.index("quicknat") + 2:
        return ""
    stage = words[names.index("quicknat") + 1]
    return re.search(r"models/(\w+)/", " ".join(words))[1] if stage == "train" else stage


@dataclass
class Killer:
    """Runs the workflow in one folder, and kills it."""

    folder: Path
    seed: int
    wanted: tuple[str, ...] = ()
    kills: Counter = field(default_factory=Counter)  # by stage
    ways: Counter = field(default_factory=Counter)
    runs: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.work = self.folder / "run"

    def start(self, cores: int = 2) -> psutil.Popen:
        """What a user does: unlock if need be, and the plain command, in a session of its own."""
        self.work.mkdir(exist_ok=True)
        self.runs += 1
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--cores", str(cores), *self.wanted]
        command += ["--configfile", str(self.folder / "settings.yaml")]
        if any((self.work / ".snakemake/locks").glob("*")):
            subprocess.run([*command, "--unlock"], cwd=self.work, check=True, capture_output=True)
        with (self.folder / "output.txt").open("w") as output:
            return psutil.Popen(
                command, cwd=self.work, stdout=output, stderr=output, start_new_session=True
            )

    def output(self) -> str:
        return (self.folder / "output.txt").read_text()

    def finish(self, cores: int = 2) -> None:
        """A run that nothing disturbs; it must end well."""
        assert self.start(cores).wait(PATIENCE) == 0, self.output()[-5000:]

    def jobs(self, main: psutil.Process) -> dict[int, tuple[str, psutil.Process]]:
        """Jobs at work, by process number."""
        found = {}
        with contextlib.suppress(psutil.Error):  # Snakemake has ended
            for process in main.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if stage := stage_of(process.cmdline()):
                        found[process.pid] = stage, process
        return found

    def wait_for_moment(self, main: psutil.Popen) -> tuple[str, psutil.Process] | None:
        """Wait until it is time to kill; gives the job that is at work then."""
        if self.random.random() < EARLY:
            time.sleep(self.random.uniform(0, EARLY_SECONDS))
            return ("start", main) if main.poll() is None else None
        seen = set()
        while main.poll() is None:
            for pid, (stage, process) in self.jobs(main).items():
                if pid in seen:
                    continue
                seen.add(pid)
                few = self.kills[stage] <= self.kills.total() / max(1, len(self.kills))
                if self.random.random() < (OFTEN if few else SELDOM):
                    time.sleep(self.random.expovariate(1 / MEAN_SECONDS))
                    return (stage, process) if main.poll() is None else None
            time.sleep(0.05)
        return None

    def disturbed(self) -> bool:
        """One run that is killed, unless it ends before; returns whether it was."""
        main = self.start()
        moment = self.wait_for_moment(main)
        if moment is None:
            assert main.wait(PATIENCE) == 0, self.output()[-5000:]
            return False
        (stage, job), way = moment, self.random.choice(WAYS)
        if stage == "start" or not job.is_running():
            way = "run"
        if way == "run":
            os.killpg(main.pid, signal.SIGKILL)
            main.wait()
        elif way == "job":
            with contextlib.suppress(psutil.NoSuchProcess):
                job.kill()
            if main.wait(PATIENCE) == 0:  # the job had just ended
                return False
        else:
            left = [process for _, process in self.jobs(main).values()]
            main.kill()
            main.wait()
            psutil.wait_procs(left, PATIENCE)  # as README says
        self.kills[stage] += 1
        self.ways[way] += 1
        while self.left():
            time.sleep(0.02)
        return True

    def left(self) -> list[int]:
        """Processes that still die."""
        here = str(self.work)
        return [p.pid for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == here]


def comparable(path: Path, name: str) -> bytes | None:
    """A file's bytes without what varies; None if nothing of it can be compared."""
    content = path.read_bytes()
    for pattern, varying in VARYING.items():
        if not re.fullmatch(pattern, name):
            continue
        if varying is None:
            return None
        if isinstance(varying, tuple):
            return pd.read_csv(path, sep="\t").drop(columns=list(varying)).to_csv().encode()
        return re.sub(varying, "…", content.decode()).encode()
    return content


def differences(reference: Path, other: Path) -> list[str]:
    """Return what differs between two results folders, by file or folder."""
    one, two = (
        {
            name: path
            for path in top.rglob("*")
            if not re.match(MAY_REMAIN, name := str(path.relative_to(top)))
        }
        for top in (reference, other)
    )
    differences = [f"{name}: missing" for name in sorted(one.keys() - two)]
    differences += [f"{name}: left over" for name in sorted(two.keys() - one)]
    both = (name for name in sorted(one.keys() & two) if one[name].is_file())
    differ = (name for name in both if comparable(one[name], name) != comparable(two[name], name))
    return differences + [f"{name}: differs" for name in differ]


def kill_runs(
    folder: Path, kills: int, seed: int = 0, wanted: tuple[str, ...] = ()
) -> tuple[Killer, list[str]]:
    """Kill at least `kills` runs; return the counts, and all differences from a run without.

    Args:
        folder: to work in, empty or absent; ``folder/run`` is that of the runs.
        kills: as many, and those of the pass that they end in.
        seed: of the moments, as far as the machine's own speed leaves them alike.
        wanted: files to make; by default all.
    """
    make_project(folder)
    killer, found = Killer(folder, seed, wanted), []
    killer.finish(cores=1)  # those to be killed have two: that, too, must change nothing
    killer.finish()  # which has nothing to do
    shutil.move(killer.work / "results", folder / "reference")
    shutil.rmtree(killer.work)
    while killer.kills.total() < kills:
        alive = True
        while alive and killer.kills.total() < kills:
            alive = killer.disturbed()
            print(f"{killer.kills.total()} kills", dict(killer.kills), flush=True)
        killer.finish()
        killer.finish()
        if "Nothing to be done" not in killer.output():
            found.append("the run after a finished one had something to do")
        found += differences(folder / "reference", killer.work / "results")
        found += [f"{path}: left over" for path in (killer.work / ".snakemake/locks").glob("*")]
        if found:
            break  # and what differs stays to be looked at
        shutil.rmtree(killer.work)
    return killer, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="to work in; by default a temporary one")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="quicknat-kills-"))
    print(f"in {folder}", flush=True)
    killer, found = kill_runs(folder.resolve(), options.kills, options.seed)
    print(f"{killer.runs} runs, {killer.kills.total()} killed: {dict(killer.ways)}")
    for stage, count in killer.kills.most_common():
        print(f"  {stage:<16}{count}")
    print("\n".join(found) or "no differences")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
