"""Reading the Snakefile creates, changes and deletes no file."""

import re
import shutil

import pytest
import yaml

from helpers import ROOT, copy_workflow, run_snakemake, tiny_cohort

# what any Snakefile leaves below .snakemake
SNAKEMAKES_OWN = re.compile(r"\.snakemake/(log/[^/]+\.snakemake\.log|iocache/latest\.pkl)")
# as a run leaves them that was killed; an older check is out of date
LEFT = (
    "results/check.tsv",
    "results/check.cache.json",
    "results/failed.tsv",
    "results/scans/.tmp-01ab_9yzT1w.nii.gz",
    ".snakemake/locks/0.output.lock",
)


@pytest.fixture
def project(tmp_path):
    """A copy of the workflow, with a sheet whose last scan is bad, after a killed run."""
    folder = copy_workflow(tmp_path / "project")
    demo = "src/quicknat/data/demo_labels"
    shutil.copytree(ROOT / demo, folder / demo)
    tiny_cohort(folder, t="train", v="val", s="segment", bad="segment")
    (folder / "bad.nii.gz").write_bytes(b"")
    settings = {"sheet": "cohort.tsv", "report": {"interactive": False}}
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    for name in LEFT:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("as it was\n")
    return folder


def state(folder):
    """Contents and times of all files, and all folders, but for what is Snakemake's own."""
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {
        name: (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        for name, path in names.items()
        if not SNAKEMAKES_OWN.fullmatch(name)
        and (path.is_file() or not name.startswith(".snakemake"))
    }


def read(project, *arguments, skip=True):
    """Run Snakemake in the copy; what lies there must be the same after it."""
    before = state(project)
    settings = ("--configfile", "settings.yaml", "--config")
    bad = f"on_bad_scan={'skip' if skip else 'stop'}"
    done = run_snakemake(project, *arguments, *settings, bad, root=project)
    after = state(project)
    assert sorted(before) == sorted(after)
    assert before == after
    return done


def test_dry_run_changes_no_file_and_says_which_scans_are_skipped(project):
    done = read(project, "--dry-run")
    assert done.returncode == 0, done.text
    assert "skipped: sub-bad: " in done.text and "sub-s_space-conformed" in done.text
    assert "sub-bad_space-conformed" not in done.text


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--lint",), ("--dag", "dot"), ("--summary",)], ids=str)
def test_other_ways_to_look_at_the_workflow_change_no_file(project, arguments):
    done = read(project, *arguments)
    assert "skipped: sub-bad: " in done.text, done.text


@pytest.mark.slow
def test_refused_run_changes_no_file(project):
    done = read(project, skip=False)
    assert done.returncode != 0 and re.search(r"sub-bad: .*is empty", done.text), done.text
