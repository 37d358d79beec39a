"""The workflow on a real SLURM, through its profile: what happens when things go wrong.

Disturbed trainings run beside each other, since most of their time is waiting.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file

from helpers import add_source, make_scan
from quicknat.failures import Failure, read_failed
from slurm_runs import HEADER, SMALL, WEIGHTS, Run, make_cohort, start_training

pytestmark = pytest.mark.slow


def cancelled(finished: Run, folder: Path) -> Run:
    """Its GPU is asked for with --gres, the other form that the profile names."""
    resources = {"finetune": {"gpu": 0, "gres": "gpu:1"}}
    run, job = start_training(finished, folder, resources)
    finished.cluster.run("scancel", job)
    run.wait()
    return run


def met_its_time_limit(finished: Run, folder: Path) -> Run:
    """Its limit is lowered to two minutes, less than the warning that the profile asks for.

    SLURM looks at limits twice a minute. The training waits for that, or it might end before; with
    SIGTERM comes SIGCONT.
    """
    cluster = finished.cluster
    run, job = start_training(finished, folder)
    found = cluster.processes(SLURM_JOB_ID=job)
    (training,) = (p for p in found if p.cmdline()[2:4] == ["train", "axial"])
    training.suspend()
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=2")
    run.wait()
    return run


def snakemake_killed(finished: Run, folder: Path) -> Run:
    """As the README says: cancel the jobs of the old run by its name, unlock, start again."""
    cluster = finished.cluster
    run, _ = start_training(finished, folder)
    run.kill()
    (name,) = re.findall(r"SLURM run ID: (\S+)", run.text)
    assert "RUNNING" in cluster.run("squeue", "--noheader", "--name", name, "--format=%T")
    cluster.run("scancel", "--name", name)
    cluster.wait_for(lambda: not cluster.run("squeue", "--noheader", "--name", name), "its end")
    assert Run(cluster, folder, "--unlock", config=run.config).wait() == 0
    again = Run(cluster, folder, WEIGHTS, config=run.config)
    again.wait()
    return again


def scan_turned_bad(finished: Run, folder: Path) -> tuple[Run, list[Failure], Run]:
    """Two new scans, one damaged inside its archive; then the same without the bad one."""
    shutil.copytree(finished.folder, folder)
    make_scan(folder / "good.nii.gz", "sub-CSI1", 10)
    make_scan(folder / "late.nii.gz", "sub-CSI2", 11)
    whole = (folder / "late.nii.gz").read_bytes()
    (folder / "late.nii.gz").write_bytes(whole[: len(whole) // 2])
    with tarfile.open(folder / "late.tar", "w") as archive:
        archive.add(folder / "late.nii.gz", "late.nii.gz")
    sheet = Path(finished.config["sheet"]).read_text()
    rows = ["late\tlate\tlate.nii.gz\t\t\tsegment", f"good\t\t{folder}/good.nii.gz\t\t\tsegment"]
    assert sheet.startswith(HEADER)
    (folder / "cohort.tsv").write_text(sheet + "\n".join(rows) + "\n")
    config = {"sources": add_source(folder, folder / "late.tar")}
    alone = ("--group-components", "prepare=1", "--retries", "1")
    run = Run(finished.cluster, folder, *alone, config=config)
    run.wait()
    failed = read_failed(folder / "results/failed.tsv")
    again = Run(finished.cluster, folder, config=config | {"on_bad_scan": "skip"})
    again.wait()
    return run, failed, again


SCENARIOS = (cancelled, met_its_time_limit, snakemake_killed, scan_turned_bad)


@pytest.fixture(scope="session")
def outcomes(finished: Run, tmp_path_factory: pytest.TempPathFactory):
    """Each scenario's outcome to come, by its name."""
    folder = tmp_path_factory.mktemp("scenarios")
    with ThreadPoolExecutor(len(SCENARIOS)) as pool:
        yield {
            scenario.__name__: pool.submit(scenario, finished, folder / scenario.__name__)
            for scenario in SCENARIOS
        }


def assert_as_undisturbed(run: Run, finished: Run) -> None:
    """It ended well, after it went on where it was, and with the same weights to the bit."""
    assert run.process.returncode == 0, run.text[-5000:]
    assert "resuming in epoch" in (run.folder / "results/logs/finetune/axial.log").read_text()
    # safetensors itself writes what is said about the tensors in any order, so not file by file
    weights, expected = load_file(run.folder / WEIGHTS), load_file(finished.folder / WEIGHTS)
    assert weights.keys() == expected.keys()
    assert all(weights[name].tobytes() == expected[name].tobytes() for name in expected)
    assert not (run.folder / WEIGHTS).with_name("state").exists()


def test_smoke(cluster, tmp_path):
    """Scans are converted and sliced, and a view is trained, in one job each."""
    make_cohort(tmp_path, "ac")
    config = {"finetune": SMALL["finetune"] | {"epochs": 1}}
    run = Run(cluster, tmp_path, WEIGHTS, config=config)
    assert run.wait() == 0, run.text[-5000:]
    jobs = [*run.of_rule("prepare"), *run.of_rule("slice"), *run.of_rule("finetune")]
    assert [job["JobState"] for job in jobs] == ["COMPLETED"] * 3 and len(run.jobs) == 3
    assert [job["JOB_GRES"] for job in jobs] == ["(null)", "(null)", "gpu:1"]
    assert (tmp_path / WEIGHTS).is_file()


def test_whole_workflow(finished):
    """It runs to its report through the profile."""
    assert finished.process.returncode == 0, finished.text[-5000:]
    results = finished.folder / "results"
    assert (results / "report/index.html").is_file()
    metrics = pd.read_csv(results / "metrics.tsv", sep="\t")
    assert set(metrics["subject"]) == {"sub-d"}


def test_groups(finished):
    """Short jobs of several scans are one submission."""
    assert len(list(finished.folder.glob("results/benchmarks/convert*/*.tsv"))) == 9
    for name in ("prepare", "slice", "segment", "evaluate", "pictures", "summary"):
        assert len(finished.of_rule(name)) == 1, name
    (prepare,) = finished.of_rule("prepare")
    assert prepare["NumCPUs"] == "2"  # `cores` of the profile: no more of its jobs run at once
    assert prepare["MinMemoryNode"] < "4000M"  # so it has the memory of two, not of nine


def test_views(finished):
    """Three views train at once, with a GPU each."""
    views = {job["Comment"].rpartition("_")[2] for job in finished.together}
    assert views == {"coronal", "axial", "sagittal"}
    assert all(job["JOB_GRES"] == "gpu:1" for job in finished.together)
    devices = {(job["Nodes"], job["GRES"]) for job in finished.together}
    assert len(devices) == 3, devices


@pytest.mark.case(49)
def test_out_of_memory(finished):
    """A job that runs out of memory is tried again with more."""
    first, second = finished.of_rule("bundle")
    assert first["MinMemoryNode"] == "100M" and second["MinMemoryNode"] == "1000M"
    assert first["JobState"] != "COMPLETED" and second["JobState"] == "COMPLETED"


@pytest.mark.case(46)
def test_cancelled(finished, outcomes):
    """A cancelled training resumes in a new job."""
    run = outcomes["cancelled"].result()
    assert_as_undisturbed(run, finished)
    first, second = run.of_rule("finetune")
    assert first["JOB_GRES"] == second["JOB_GRES"] == "gpu:1"
    assert first["JobState"] == "CANCELLED" and second["JobState"] == "COMPLETED"


@pytest.mark.case(46)
def test_time_limit(finished, outcomes):
    """A training near its limit saves its state and resumes in a new job."""
    run = outcomes["met_its_time_limit"].result()
    assert_as_undisturbed(run, finished)
    first, _second = run.of_rule("finetune")
    assert "by a signal; run the same command again" in run.job_log(first["JobId"])


def test_killed_snakemake(finished, outcomes):
    """A run resumes after Snakemake was killed."""
    run = outcomes["snakemake_killed"].result()
    assert_as_undisturbed(run, finished)


@pytest.mark.case(58)
def test_bad_scan(finished, outcomes):
    """A scan that turns out to be bad does not stop the others."""
    run, failed, again = outcomes["scan_turned_bad"].result()
    assert run.process.returncode != 0
    ((stage, scan, reason),) = ((f.stage, f.scan, f.reason) for f in failed)
    assert (stage, scan) == ("convert", "sub-late") and "is damaged" in reason
    segmented = {path.name for path in run.folder.glob("results/segmentations/sub-*")}
    assert segmented == {"sub-d", "sub-good"}
    assert again.process.returncode == 0, again.text[-5000:]
    page = (run.folder / "results/report/index.html").read_text()
    assert "sub-late" in page and "were left out" in page
    assert not (run.folder / "results/failed.tsv").exists()


@pytest.mark.case(47)
def test_dead_node(cluster, finished, outcomes, tmp_path):
    """A training on a node that dies resumes elsewhere."""
    for outcome in outcomes.values():
        outcome.exception()  # nobody else's job is to be on that node
    run, job = start_training(finished, tmp_path / "run")
    node = run.jobs[job]["NodeList"]
    cluster.kill_node(node)
    try:
        cluster.wait_for(lambda: "down" in cluster.node_states()[node], "it to be missed", 60)
        # SLURM itself starts the job again, but waits for two minutes
        cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
        run.wait()
    finally:
        cluster.start_node(node)
    assert_as_undisturbed(run, finished)
    last = run.of_rule("finetune")[-1]
    assert last["JobState"] == "COMPLETED" and last["NodeList"] != node
