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
    assert counts["auto_label"] == counts["demo_ixi"] > 0
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


def test_cohort_without_pretraining_scans_skips_that_branch(dry_run):
    counts = job_counts(dry_run(rows=[HEADER, *TRAIN, VAL, TEST]).text)
    assert counts["finetune"] == 3 and counts["convert"] == 4 and counts["slice"] == 3
    assert not {"pretrain", "auto_label", "download", "demo_oasis"} & set(counts)


@pytest.mark.slow
def test_cohort_without_test_scans_is_trained_and_segmented_but_not_scored(dry_run):
    rows = [HEADER, *TRAIN, VAL, "x|x.nii.gz|||segment|"]
    counts = job_counts(dry_run(rows=rows).text)
    assert counts["segment"] == 1 and not {"evaluate", "metrics", "score_figures"} & set(counts)


@pytest.mark.slow
def test_cohort_with_nothing_to_segment_still_ends_in_a_report(dry_run):
    counts = job_counts(dry_run(rows=[HEADER, *TRAIN, VAL]).text)
    assert counts["report"] == 1 and not {"segment", "volumes"} & set(counts)


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
def test_scan_without_labels_is_refused_where_labels_are_to_be_given(dry_run):
    overlay = {"auto_labels": {"method": "precomputed"}}
    done = dry_run(rows=[HEADER, *TRAIN, VAL, PRETRAIN], overlay=overlay)
    assert done.returncode != 0 and "sub-p1 has no labels" in done.text
    given = "p1|p1.nii.gz|p1_l.nii.gz|freesurfer|pretrain|"
    done = dry_run(rows=[HEADER, *TRAIN, VAL, given], overlay=overlay)
    assert done.returncode == 0 and job_counts(done.text)["convert_labels"] == 4


SOURCES = {  # jobs for a scan with an image, one with a label map, one with both
    "automatic": {"convert": 5, "convert_labels": 4, "auto_label": 1, "slice": 5},
    "synthetic": {"convert": 4, "convert_labels": 3, "slice": 3, "slice_tissues": 2},
    "both": {"convert": 5, "convert_labels": 4, "auto_label": 1, "slice": 5, "slice_tissues": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_source_of_pretraining_decides_what_becomes_of_its_rows(dry_run, source):
    rows = [PRETRAIN, "m1||m1_l.nii.gz|freesurfer|pretrain|"]
    rows += ["b1|b1.nii.gz|b1_l.nii.gz|freesurfer|pretrain|"]
    overlay = {"pretrain": {"source": source}, "auto_labels": {"atlases": ["sub-t1"]}}
    done = dry_run("--printshellcmds", rows=[HEADER, *TRAIN, VAL, *rows], overlay=overlay)
    counts = job_counts(done.text)
    preparing = {"convert", "convert_labels", "auto_label", "slice", "slice_tissues"}
    assert {rule: counts[rule] for rule in preparing if counts[rule]} == SOURCES[source], done.text
    assert counts["pretrain"] == counts["finetune"] == 3
    commands = dict(re.findall(r"quicknat slice-tissues (.*?) --orientation=(.*)", done.text))
    if source != "automatic":
        assert "--scan" not in commands["m1_l.nii.gz"] and "--scan" in commands["b1_l.nii.gz"]


@pytest.mark.slow
def test_label_maps_alone_are_refused_where_images_are_to_be_learnt(dry_run):
    rows = [HEADER, *TRAIN, VAL, "m1||m1_l.nii.gz|freesurfer|pretrain|"]
    done = dry_run(rows=rows)
    assert done.returncode != 0 and "'pretrain.source' is automatic" in done.text


@pytest.mark.slow
def test_training_scans_alone_are_enough_for_synthetic_pretraining(dry_run):
    overlay = {"pretrain": {"source": "synthetic"}}
    counts = job_counts(dry_run(rows=[HEADER, *TRAIN, VAL], overlay=overlay).text)
    assert (counts["slice_tissues"], counts["slice"], counts["pretrain"]) == (2, 3, 3)


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
    done = dry_run(rows=[HEADER, SEGMENT], overlay=overlay)  # which no training would take
    assert job_counts(done.text)["segment"] == 1, done.text


@pytest.mark.slow
def test_finished_model_is_refused_where_it_is_none_or_has_nothing_to_segment(dry_run, model):
    done = dry_run(rows=[HEADER, SEGMENT], overlay={"model": "models/nowhere"})
    assert done.returncode != 0 and "models/nowhere: no such model folder" in done.text
    done = dry_run(rows=[HEADER, *TRAIN, VAL], overlay={"model": str(model)})
    assert done.returncode != 0 and "no scan has split=segment or test; name" in done.text


@pytest.mark.slow
def test_sessions_are_scans_of_their_own(dry_run):
    rows = [HEADER + "|session", TRAIN[0] + "|1", TRAIN[0] + "|2", VAL + "|", TEST + "|"]
    done = dry_run(rows=rows)
    assert job_counts(done.text)["slice"] == 3
    assert "sub-t1_ses-2_space-conformed_T1w.nii.gz" in done.text


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
    "unknown atlas": (
        {"auto_labels": {"atlases": ["sub-Q"]}},
        "'auto_labels.atlases' is ['sub-Q']; allowed: sub-CSI1",
    ),
    "no atlas": (
        {"auto_labels": {"atlases": []}},
        "'auto_labels.atlases' is []; allowed: sub-CSI1",
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
def test_unknown_sheet_column_is_refused(dry_run):
    done = dry_run(rows=[HEADER + "|sex", *[row + "|f" for row in (*TRAIN, VAL)]])
    assert done.returncode != 0 and "unknown key 'sex'" in done.text


@pytest.mark.slow
def test_unknown_source_is_refused_with_the_known_ones(dry_run):
    rows = [HEADER + "|source", *[row + "|moon" for row in (*TRAIN, VAL)]]
    done = dry_run(rows=rows)
    assert done.returncode != 0 and "source 'moon'; allowed: local, img2fmri" in done.text


@pytest.mark.slow
def test_cohort_without_training_scans_is_refused(dry_run):
    done = dry_run(rows=[HEADER, TEST])
    assert done.returncode != 0 and "split=train" in done.text


@pytest.mark.slow
def test_overlays_of_the_repository_are_valid(tmp_path, dry_run):
    for path in sorted((ROOT / "workflow/configs").glob("*.yaml")):
        done = dry_run("--configfile", str(path))
        assert done.returncode == 0, f"{path.name}: {done.text}"
