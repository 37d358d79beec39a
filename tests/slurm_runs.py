"""Runs of the workflow on a SLURM cluster, through its profile."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from helpers import ROOT, TINY, make_scan
from slurm_cluster import Cluster

SMALL = TINY | {
    "training": {"batch_size": 8, "precision": "32-true", "compile": False},
    "auto_labels": {"atlases": ["sub-a"]},
    "pretrain": {"epochs": 1, "optimizer": "adamw", "learning_rate": 0.004},
    "finetune": {"epochs": 8, "optimizer": "adamw", "learning_rate": 0.004},
}
COHORT = {
    "a": ("sub-CSI1", "train"),
    "b": ("sub-CSI2", "train"),
    "c": ("sub-CSI3", "val"),
    "d": ("sub-ds240", "test"),
    "p": ("sub-CSI3", "pretrain"),
}
HEADER = "subject\tsource\timage\tlabels\tlabel_convention\tsplit"


def make_cohort(folder: Path, names: str = "abcdp") -> None:
    """Write scans and their sheet; the one to pre-train on gets automatic labels."""
    rows = [HEADER]
    for seed, name in enumerate(names):
        scan, use = COHORT[name]
        labels = make_scan(folder / f"{name}.nii.gz", scan, seed)
        given = f"{labels}\tfreesurfer" if use != "pretrain" else "\t"
        # whole paths, so that a copy of the results is no other cohort
        rows.append(f"{name}\t\t{folder / name}.nii.gz\t{given}\t{use}")
    (folder / "cohort.tsv").write_text("\n".join(rows) + "\n")


# The plugin asks for the state of jobs ever more rarely, up to every three minutes.
ASK_EACH_SECOND = """
from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
RemoteExecutor.next_seconds_between_status_checks = property(lambda self: 1, lambda self, value: 0)
main()
"""


def write_profile(path: Path, resources: dict, **changes) -> None:
    """The profile that the workflow ships, but for what this machine and a hurry ask for."""
    profile = yaml.safe_load((ROOT / "workflow/profiles/slurm/config.yaml").read_text())
    profile |= {"latency-wait": 5, "cores": 2}
    profile["set-threads"] = dict.fromkeys(profile["set-threads"], 1)
    for rule, values in resources.items():
        profile["set-resources"].setdefault(rule, {}).update(values)
    path.mkdir(exist_ok=True)
    (path / "config.yaml").write_text(yaml.safe_dump(profile | changes))


class Run:
    """Snakemake at work on a folder, and a record of the SLURM jobs that it submits.

    Attributes:
        jobs: what `scontrol` last said of each job, by its number.
        together: most trainings with a GPU that were seen running at one moment, as `scontrol`
            described them.
    """

    def __init__(
        self, cluster: Cluster, folder: Path, *arguments: str, resources=None, config=None
    ):
        self.cluster, self.folder = cluster, folder
        self.jobs: dict[str, dict[str, str]] = {}
        self.together: list[dict[str, str]] = []
        write_profile(folder / "profile", resources or {})
        self.config = SMALL | {"sheet": str(folder / "cohort.tsv")} | (config or {})
        (folder / "overlay.yaml").write_text(yaml.safe_dump(self.config))
        self.log = folder / f"snakemake{len(list(folder.glob('snakemake*.log')))}.log"
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", ASK_EACH_SECOND, *arguments,
                 "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder),
                 "--workflow-profile", str(folder / "profile"),
                 "--configfile", str(folder / "overlay.yaml")],
                cwd=folder, env=cluster.env, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()

    @property
    def text(self) -> str:
        return self.log.read_text()

    def _watch(self) -> None:
        while self.process.poll() is None:
            self.look()
            time.sleep(0.3)
        self.look()

    def look(self) -> None:
        text = self.cluster.run("scontrol", "show", "job", "--details", "--oneliner", check=False)
        running = []
        for line in text.splitlines():
            job = dict(re.findall(r"(\w+)=(\S+)", line)) | {"line": line}
            if job.get("WorkDir") != str(self.folder):
                continue
            self.jobs[job["JobId"]] = job
            if job["JobState"] == "RUNNING" and "finetune" in job["Comment"]:
                running.append(job)
        if len(running) > len(self.together):
            self.together = running

    def job_log(self, number: str) -> str:
        """What a job said, kept by Snakemake for those that failed."""
        return Path(self.jobs[number]["StdOut"]).read_text()

    def of_rule(self, name: str) -> list[dict[str, str]]:
        """Its SLURM jobs, in the order of submission."""
        jobs = sorted(self.jobs.values(), key=lambda job: int(job["JobId"]))
        return [job for job in jobs if job.get("Comment", "").startswith(f"rule_{name}")]

    def wait(self, seconds: float = 900) -> int:
        """Wait for Snakemake's end; gives its status."""
        try:
            return self.process.wait(seconds)
        finally:
            self.kill()
            self.watcher.join()

    def wait_until(self, condition: Callable[[], object], what: str, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None and time.monotonic() < end, (
                f"no {what}\n{self.text[-3000:]}"
            )
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL to Snakemake alone; jobs go on."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


WEIGHTS = "results/models/finetune/axial/model.safetensors"


def start_training(finished: Run, folder: Path, resources: dict | None = None) -> tuple[Run, str]:
    """Fine-tune one view again, in a copy, up to its second epoch; gives the run and its job."""
    left_out = shutil.ignore_patterns("finetune", "model")
    shutil.copytree(finished.folder, folder, ignore=left_out)
    config = {"sheet": finished.config["sheet"]}
    run = Run(finished.cluster, folder, WEIGHTS, resources=resources, config=config)
    states = folder / "results/models/finetune/axial/state"
    run.wait_until(lambda: list(states.glob("00002-*.json")), "second epoch")
    return run, run.of_rule("finetune")[0]["JobId"]
