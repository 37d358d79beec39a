"""What runs, for which cohort; what is refused before anything runs. Dry runs only."""

import re
import shutil

import pytest

from helpers import job_counts
from quicknat.cohort.check import Verdict, read_verdicts, write_verdicts
from quicknat.images.slices import VIEWS
from quicknat.package_data import MODELS, label_table

HEADER = "subject|image|labels|label_convention|split|participant"
TRAIN = ["t1|t1.nii.gz|t1_l.nii.gz|freesurfer|train|", "t2|t2.nii.gz|t2_l.nii.gz|freesurfer|train|"]
VAL = "v1|v1.nii.gz|v1_l.nii.gz|freesurfer|val|"
TEST = "e1|e1.nii.gz|e1_l.nii.gz|freesurfer|test|"


def test_demo_runs_every_stage_of_the_design(dry_run, tmp_path):
    counts = job_counts(dry_run().text)
    assert {path.name for path in tmp_path.iterdir()} == {".snakemake", "overlay.yaml"}
    for stage in ("pretrain", "finetune"):
        assert counts[stage] == 3  # one job per view, independent of each other
    assert counts["download"] == counts["unpack"] == 2
    assert counts["convert"] == counts["slice"] + 2  # test scans are not sliced
    assert counts["auto_label"] > 0 and counts["demo"] == 2
    assert counts["segment"] == counts["evaluate"] == counts["pictures"] == 2
    assert counts["bundle"] == counts["metrics"] == counts["report"] == 1


SEGMENT = "s1|s1.nii.gz|||segment|"
PRETRAIN = "p1|p1.nii.gz|||pretrain|"


@pytest.mark.slow
def test_program_labels_the_raw_scan_instead_of_atlases_and_nothing_is_scored(dry_run):
    program = {"method": "recon-all", "license": "my fs.txt", "subjects_dir": "/fs"}
    overlay = {"auto_labels": program}
    rows = [HEADER, *TRAIN, VAL, PRETRAIN, SEGMENT]  # no test scans
    done = dry_run("--printshellcmds", rows=rows, overlay=overlay)
    counts = job_counts(done.text)
    assert counts["auto_label_external"] == 1 and counts["slice"] == 4 and counts["segment"] == 1
    assert not {"auto_label", "evaluate", "metrics"} & set(counts)
    (command,) = re.findall(r"quicknat auto-label .*", done.text)
    assert "--method recon-all" in command
    assert "--subjects-dir /fs --license='my fs.txt' " in command


@pytest.mark.slow
@pytest.mark.parametrize("first", ["pretrain", "finetune"])
def test_first_stage_starts_from_the_initial_model(dry_run, tmp_path, first):
    """It and the label table are given by name or by path."""
    (tmp_path / "given").mkdir()
    for view in VIEWS:
        (tmp_path / f"given/{view}.safetensors").touch()
    shutil.copy(label_table("tissues4"), tmp_path / "mine.tsv")
    pretrained = first == "pretrain"
    overlay = {
        "protocol": "./mine.tsv",
        "training": {"initial_model": "given" if pretrained else "small"},
        "network": {"filters": 24},  # of `small`
        "pretrain": {"source": "synthetic"} if pretrained else None,
    }
    text = dry_run("--printshellcmds", rows=[HEADER, *TRAIN, VAL], overlay=overlay).text
    assert set(re.findall(r"--protocol (\S+)", text)) == {"./mine.tsv"}
    found = re.findall(r"quicknat train (\w+) .*models/(\w+)/.*--initial (\S+)", text)
    starts = {(view, stage): tmp_path / file for view, stage, file in found}
    folder = tmp_path / "given" if pretrained else MODELS["small"]
    second = tmp_path / "results/models/pretrain"
    expected = {(view, first): folder / f"{view}.safetensors" for view in VIEWS}
    if pretrained:
        expected |= {(v, "finetune"): second / v / "model.safetensors" for v in VIEWS}
    assert {key: path.resolve() for key, path in starts.items()} == expected


@pytest.mark.slow
def test_bundled_model_brings_its_label_table(dry_run):
    text = dry_run("--printshellcmds", rows=[HEADER, TEST], overlay={"model": "small"}).text
    assert set(re.findall(r"--protocol (\S+)", text)) == {"quicknat28"}
    assert set(re.findall(r"--precision (\S+)", text)) == {"auto"}  # not the demo's for training
    assert f"cp -v -- {MODELS['small']}/coronal.safetensors" in text


@pytest.mark.slow
def test_finished_model_segments_on_its_own_grid_and_nothing_is_trained(dry_run, model):
    rows = [HEADER, *TRAIN, VAL, "m1||m1_l.nii.gz|freesurfer|pretrain|", TEST, SEGMENT]
    rows += ["a|a.nii.gz|||auto|", "b|b.nii.gz|b_l.nii.gz|freesurfer|auto|"]  # means segment here
    overlay = {"model": str(model), "conform": {"spacing_mm": 1.0, "size": 256}}
    done = dry_run("--printshellcmds", rows=rows, overlay=overlay)
    jobs = {"copy_model": 1, "convert": 4, "convert_labels": 1, "segment": 4, "volumes": 1}
    jobs |= {"evaluate": 1, "metrics": 1, "pictures": 4, "report": 1}
    assert job_counts(done.text) == jobs, done.text
    assert len(re.findall(r"quicknat convert .* --spacing 4.0 --size 64", done.text)) == 4


@pytest.mark.slow
def test_many_scans_are_segmented_in_chunks_and_not_read_before(dry_run, model, tmp_path):
    rows = [HEADER, TEST, *(f"s{k}|s{k}.nii.gz|||segment|" for k in range(6))]
    rows += ["b1|empty.nii.gz|||segment|"]
    (tmp_path / "empty.nii.gz").touch()
    overlay = {"model": str(model), "scans_per_job": 4}
    done = dry_run("--printshellcmds", rows=rows, overlay=overlay)
    jobs = {"copy_model": 1, "convert": 1, "convert_labels": 1, "segment": 1, "volumes": 1}
    jobs |= {"evaluate": 1, "metrics": 1, "pictures": 1, "report": 1}
    assert job_counts(done.text) == jobs | {"segment_chunk": 2}, done.text
    assert "--allow-bad" not in done.text
    done = dry_run(rows=[*rows, "b2|absent.nii.gz|||segment|"], overlay=overlay)
    assert done.returncode != 0 and re.search(r"sub-b2: .*no such file", done.text)


@pytest.mark.slow
def test_jobs_take_the_verdicts_from_the_table_and_check_nothing(dry_run, tmp_path):
    rows = [HEADER, *TRAIN, VAL, TEST, "g|g.nii.gz|||segment|"]
    verdict = Verdict("sub-g", "segment", "g.nii.gz", "bad", "was bad when the run began")
    write_verdicts(tmp_path / "results/check.tsv", [verdict])
    arguments = ("--mode", "subprocess", "--summary")  # as Snakemake starts its jobs
    text = dry_run(*arguments, rows=rows, overlay={"on_bad_scan": "skip"}).text
    assert "sub-e1_space-conformed_T1w" in text and "sub-g_space-conformed_T1w" not in text
    assert read_verdicts(tmp_path / "results/check.tsv") == [verdict]


def test_wrong_configuration_is_refused_naming_key_and_choices(dry_run):
    done = dry_run(overlay={"protokol": "x"})
    assert done.returncode != 0
    message = "unknown key 'protokol'; did you mean 'protocol'? allowed"
    assert message in done.text.replace("\n", " ")
