"""What runs, for which cohort; what is refused before anything runs. Dry runs only."""

import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT, job_counts
from quicknat.cohort.check import Verdict, read_verdicts, write_verdicts
from quicknat.package_data import MODELS, label_table

HEADER = "subject|image|labels|label_convention|split|participant"
TRAIN = ["t1|t1.nii.gz|t1_l.nii.gz|freesurfer|train|", "t2|t2.nii.gz|t2_l.nii.gz|freesurfer|train|"]
VAL = "v1|v1.nii.gz|v1_l.nii.gz|freesurfer|val|"
TEST = "e1|e1.nii.gz|e1_l.nii.gz|freesurfer|test|"


def test_demo_runs_every_stage_of_the_design(dry_run):
    counts = job_counts(dry_run().text)
    for stage in ("pretrain", "finetune"):
        assert counts[stage] == 3  # one job per view, independent of each other
    assert counts["download"] == counts["unpack"] == 2
    assert counts["convert"] == counts["slice"] + 2  # test scans are not sliced
    assert counts["auto_label"] > 0 and counts["demo"] == 2
    assert counts["segment"] == counts["evaluate"] == counts["pictures"] == 2
    assert counts["bundle"] == counts["metrics"] == counts["report"] == 1


@pytest.mark.slow
def test_rules_depend_on_each_other_as_in_the_design(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory",
         str(tmp_path), "--rulegraph", "dot"],
        capture_output=True, text=True,
    )  # fmt: skip
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', done.stdout))
    edges = {(names[a], names[b]) for a, b in re.findall(r"(\d+) -> (\d+)", done.stdout)}
    way = "download unpack convert slice pretrain finetune bundle segment evaluate metrics report"
    stages = way.replace("metrics report", "metrics score_figures report").split()
    assert set(itertools.pairwise(stages)) <= edges
    assert {("convert", "auto_label"), ("auto_label", "slice"), ("slice", "finetune")} <= edges
    # data only moves down
    order = {name: place for place, name in enumerate(stages)}
    assert all(order[a] < order[b] for a, b in edges if a in order and b in order)


@pytest.mark.slow
def test_cohort_without_test_scans_is_trained_and_segmented_but_not_scored(dry_run):
    rows = [HEADER, *TRAIN, VAL, "x|x.nii.gz|||segment|"]
    counts = job_counts(dry_run(rows=rows).text)
    assert counts["segment"] == 1 and not {"evaluate", "metrics", "score_figures"} & set(counts)


SEGMENT = "s1|s1.nii.gz|||segment|"
PRETRAIN = "p1|p1.nii.gz|||pretrain|"


@pytest.mark.slow
def test_program_labels_the_raw_scan_instead_of_atlases(dry_run):
    overlay = {
        "auto_labels": {"method": "recon-all", "license": "my fs.txt", "subjects_dir": "/fs"}
    }
    done = dry_run("--printshellcmds", rows=[HEADER, *TRAIN, VAL, PRETRAIN], overlay=overlay)
    counts = job_counts(done.text)
    assert counts["auto_label_external"] == 1 and counts["slice"] == 4
    assert "auto_label" not in counts
    (command,) = re.findall(r"quicknat auto-label .*", done.text)
    assert "--method recon-all" in command and "--image p1.nii.gz" in command
    assert "--subjects-dir /fs --license='my fs.txt' " in command


@pytest.mark.slow
def test_first_stage_starts_from_the_initial_model_and_it_cannot_be_the_runs_own(dry_run, tmp_path):
    (tmp_path / "given").mkdir()
    for view in ("coronal", "axial", "sagittal"):
        (tmp_path / f"given/{view}.safetensors").touch()
    overlay = {"training": {"initial_model": str(tmp_path / "given")}}
    rows = [HEADER, *TRAIN, VAL]
    text = dry_run("--printshellcmds", rows=rows, overlay=overlay).text
    commands = re.findall(r"quicknat train (\w+) .*--initial (\S+)", text)
    assert {view: Path(file).name for view, file in commands} == {
        view: f"{view}.safetensors" for view in ("coronal", "axial", "sagittal")
    }
    synthetic = overlay | {"pretrain": {"source": "synthetic"}}
    text = dry_run("--printshellcmds", rows=rows, overlay=synthetic).text
    (first, *_), (second, *_) = (
        [
            Path(file)
            for file in re.findall(rf"quicknat train coronal .*{folder} .*--initial (\S+)", text)
        ]
        for folder in ("models/pretrain/coronal", "models/finetune/coronal")
    )
    assert first.parent == tmp_path / "given" and second.parent.parent.name == "pretrain"
    done = dry_run(rows=rows, overlay={"training": {"initial_model": "results/model"}})
    assert done.returncode != 0 and "copy it to another folder" in done.text


@pytest.mark.slow
def test_label_table_and_models_are_found_by_name_or_by_path(dry_run, tmp_path):
    (tmp_path / "tables").mkdir()
    shutil.copy(label_table("tissues4"), tmp_path / "tables/mine.tsv")
    overlay = {"protocol": "tables/mine.tsv", "training": {"initial_model": "small"}}
    text = dry_run("--printshellcmds", rows=[HEADER, *TRAIN, VAL], overlay=overlay).text
    assert set(re.findall(r"--protocol (\S+)", text)) == {"tables/mine.tsv"}
    initial = {Path(file).parent for file in re.findall(r"--initial (\S+)", text)}
    assert {(tmp_path / folder).resolve() for folder in initial} == {MODELS["small"]}
    text = dry_run("--printshellcmds", rows=[HEADER, TEST], overlay={"model": "small"}).text
    assert set(re.findall(r"--protocol (\S+)", text)) == {"quicknat28"}
    assert f"cp -v -- {MODELS['small']}/coronal.safetensors" in text
    done = dry_run(rows=[HEADER, TEST], overlay={"model": "smal"})
    assert done.returncode != 0 and "check the path; bundled models: 1mm, small" in done.text


@pytest.mark.slow
def test_finished_model_segments_on_its_own_grid_and_nothing_is_trained(dry_run, model):
    rows = [HEADER, *TRAIN, VAL, "m1||m1_l.nii.gz|freesurfer|pretrain|", TEST, SEGMENT]
    overlay = {"model": str(model), "conform": {"spacing_mm": 1.0, "size": 256}}
    done = dry_run("--printshellcmds", rows=rows, overlay=overlay)
    jobs = {"copy_model": 1, "convert": 2, "convert_labels": 1, "segment": 2, "volumes": 1}
    jobs |= {"evaluate": 1, "metrics": 1, "score_figures": 1, "pictures": 2, "report": 1}
    assert job_counts(done.text) == jobs, done.text
    assert len(re.findall(r"quicknat convert .* --spacing 4.0 --size 64", done.text)) == 2
    # what no training would take; and `auto` trains nothing here, with labels or without
    rows = [SEGMENT, *(f"a{k}|a{k}.nii.gz|a{k}_l.nii.gz|freesurfer|auto|" for k in range(12))]
    done = dry_run(rows=[HEADER, *rows, "b|b.nii.gz|||auto|"], overlay=overlay)
    counts = job_counts(done.text)
    assert counts["segment"] == 14 and not counts["evaluate"], done.text


@pytest.mark.slow
def test_many_scans_are_segmented_in_chunks_and_not_read_before(dry_run, model, tmp_path):
    rows = [HEADER, TEST, *(f"s{k}|s{k}.nii.gz|||segment|" for k in range(6)), *BAD_SCANS[2:]]
    (tmp_path / "empty.nii.gz").touch()
    overlay = {"model": str(model), "scans_per_job": 4}
    done = dry_run("--printshellcmds", rows=rows, overlay=overlay)
    jobs = {"copy_model": 1, "convert": 1, "convert_labels": 1, "segment": 1, "volumes": 1}
    jobs |= {"evaluate": 1, "metrics": 1, "score_figures": 1, "pictures": 1, "report": 1}
    assert job_counts(done.text) == jobs | {"segment_chunk": 2}, done.text
    assert set(re.findall(r"--allow-bad", done.text)) == set()
    done = dry_run(rows=[*rows, BAD_SCANS[0]], overlay=overlay)  # whose file is not there
    assert done.returncode != 0 and re.search(r"sub-b1: .*no such file", done.text)


BAD_SCANS = [
    "b1|absent1.nii.gz|||segment|",
    "b2|absent2.nii.gz|||segment|",
    "b3|empty.nii.gz|||segment|",
]


def test_bad_scans_stop_a_run_before_it_starts_and_all_are_named(dry_run, tmp_path):
    (tmp_path / "empty.nii.gz").touch()
    done = dry_run(rows=[HEADER, *TRAIN, VAL, TEST, *BAD_SCANS])
    assert done.returncode != 0 and "Job stats" not in done.text
    for name, reason in (("b1", "no such file"), ("b2", "no such file"), ("b3", "is empty")):
        assert re.search(rf"sub-{name}: .*{reason}", done.text), done.text


@pytest.mark.slow
def test_bad_scans_are_left_out_when_they_are_to_be_skipped(dry_run, tmp_path):
    (tmp_path / "empty.nii.gz").touch()
    rows = [HEADER, *TRAIN, VAL, TEST, "g|g.nii.gz|||segment|"]
    done = dry_run(rows=[*rows, *BAD_SCANS], overlay={"on_bad_scan": "skip"})
    assert done.returncode == 0, done.text
    counts = job_counts(done.text)
    assert (counts["convert"], counts["segment"], counts["report"]) == (5, 2, 1)
    assert re.search(r"skipped: sub-b1: .*no such file", done.text)


@pytest.mark.slow
def test_jobs_take_the_verdicts_from_the_table_and_check_nothing(dry_run, tmp_path):
    rows = [HEADER, *TRAIN, VAL, TEST, "g|g.nii.gz|||segment|"]
    verdict = Verdict("sub-g", "segment", "g.nii.gz", "bad", "was bad when the run began")
    write_verdicts(tmp_path / "results/check.tsv", [verdict])
    arguments = ("--mode", "subprocess", "--summary")  # as Snakemake starts its jobs
    text = dry_run(*arguments, rows=rows, overlay={"on_bad_scan": "skip"}).text
    assert "sub-e1_space-conformed_T1w" in text and "sub-g_space-conformed_T1w" not in text
    assert read_verdicts(tmp_path / "results/check.tsv") == [verdict]


REFUSED = {
    "unknown key": ({"protokol": "x"}, "unknown key 'protokol'; did you mean 'protocol'? allowed"),
    "unknown protocol": (
        {"protocol": "atlas99"},
        "allowed: quicknat28, quicknat33, seed4, tissues4",
    ),
    "missing sheet": ({"sheet": "nowhere.tsv"}, "nowhere.tsv: no such file"),
}


@pytest.mark.parametrize(
    "fault",
    [f if f == "unknown key" else pytest.param(f, marks=pytest.mark.slow) for f in REFUSED],
)
def test_wrong_configuration_is_refused_naming_key_and_choices(dry_run, fault):
    overlay, message = REFUSED[fault]
    done = dry_run(overlay=overlay)
    assert done.returncode != 0
    assert message in done.text.replace("\n", " ")


@pytest.mark.slow
def test_overlays_of_the_repository_are_valid(tmp_path, dry_run):
    for path in sorted((ROOT / "workflow/configs").glob("*.yaml")):
        done = dry_run("--configfile", str(path))
        assert done.returncode == 0, f"{path.name}: {done.text}"
