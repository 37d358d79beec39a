"""The batch scripts beside the profile, with stand-ins for what they start."""

import os
import shutil
import subprocess

import pytest

from helpers import ROOT

pytestmark = pytest.mark.slow
SCRIPTS = ROOT / "workflow/profiles/slurm"
# what it was called with, and how it ends
SNAKEMAKE = """#!/bin/bash
trap 'echo interrupted >> said.txt; exit 130' INT
{ echo "$@"; env | grep '^SLURM_'; } > said.txt
for _ in $(seq 600); do sleep 0.1; done
"""
QUICKNAT = """#!/bin/bash
cp "$3" "list-$SLURM_ARRAY_TASK_ID.tsv"
echo "$@" > "said-$SLURM_ARRAY_TASK_ID.txt"
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with an environment to activate, and the stand-ins in it."""
    folder = tmp_path / ".venv/bin"
    folder.mkdir(parents=True)
    (folder / "activate").write_text(f'PATH="{folder}:$PATH"\n')
    for name, text in (("snakemake", SNAKEMAKE), ("quicknat", QUICKNAT)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return tmp_path


def submit(cluster, folder, script, *arguments, options=()):
    shutil.copy(SCRIPTS / script, folder)
    command = ["sbatch", "--parsable", f"--chdir={folder}", *options, folder / script, *arguments]
    return cluster.run(*map(str, command)).strip()


def test_array_task_segments_its_part_of_the_scans(cluster, folder):
    scans = [f"/data/sub-{n}/anat/sub-{n}_T1w.nii.gz" for n in range(4)] + ["/data/b.mgz"]
    (folder / "scans.txt").write_text("\n".join(scans) + "\n")
    job = submit(
        cluster, folder, "segment_array.sbatch", "scans.txt", "out",
        options=["--array=0-1", "--export=ALL,TASKS=2", "--cpus-per-task=2", "--mem=100M"],
    )  # fmt: skip
    cluster.wait_for(lambda: not cluster.run("squeue", "--noheader", f"--jobs={job}"), job, 120)
    rows = [(folder / f"list-{task}.tsv").read_text().splitlines() for task in (0, 1)]
    assert sorted(len(part) for part in rows) == [2, 3]
    cells = [row.split("\t") for part in rows for row in part]
    assert sorted(cells) == sorted(
        [scan.rpartition("/")[2].removesuffix(".nii.gz").removesuffix("_T1w").removesuffix(".mgz"),
         scan, ""]
        for scan in scans
    )  # fmt: skip
    said = (folder / "said-1.txt").read_text()
    assert "--output out --tables out/tables/1 --threads 2 --allow-bad" in said


def test_scripts_use_the_active_environment_in_a_folder_without_one(folder):
    mine = folder / "mine"
    mine.mkdir()
    (mine / "scans.txt").write_text("/data/a.nii.gz\n")
    programs = folder / ".venv/bin"
    (programs / "snakemake").write_text('#!/bin/bash\necho "$@"\n')
    path = {"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "1"}
    for script, arguments in (("segment_array", ["scans.txt", "out"]), ("snakemake", ["--cores"])):
        done = subprocess.run(
            ["bash", SCRIPTS / f"{script}.sbatch", *arguments],
            cwd=mine, env={**os.environ, **path}, capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "--workflow-profile workflow/profiles/slurm --cores\n"
    assert (mine / "list-1.tsv").read_text() == "a\t/data/a.nii.gz\t\n"


def test_snakemake_as_a_job_has_no_variables_of_slurm_and_is_interrupted(cluster, folder):
    job = submit(
        cluster, folder, "snakemake.sbatch", "--config", "sheet=a b.tsv",
        options=["--mem=100M", "--time=10"],
    )  # fmt: skip
    said = folder / "said.txt"
    cluster.wait_for(lambda: said.exists() and said.read_text(), "snakemake", 120)
    first, *variables = said.read_text().splitlines()
    assert first == "--workflow-profile workflow/profiles/slurm --config sheet=a b.tsv"
    assert [line for line in variables if not line.startswith("SLURM_CONF=")] == []
    # as --signal=B:INT does before the time limit
    cluster.run("scancel", "--signal=INT", "--batch", job)
    cluster.wait_for(lambda: "interrupted" in said.read_text(), "its end", 120)
    assert (folder / f"snakemake-{job}.log").exists()
