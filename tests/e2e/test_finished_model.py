"""A cohort is segmented, scored and reported with a finished model; nothing is trained."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from helpers import dead_links, job_counts, run_snakemake
from quicknat.files import sha256

pytestmark = pytest.mark.slow
SHEET = """subject\timage\tlabels\tlabel_convention\tsplit
known\thead.nii.gz\tdseg.nii.gz\tfreesurfer\ttest
other\tother.nii.gz\t\t\tsegment
"""
SEGMENTED = {"segment": 2, "pictures": 2, "volumes": 1, "report": 1}
SCORED = {"evaluate": 1, "metrics": 1, "score_figures": 1}


def run(folder, model, *arguments):
    overlay = {"sheet": str(folder / "cohort.tsv"), "model": str(model)}
    done = run_snakemake(folder, *arguments, overlay=overlay)
    assert done.returncode == 0, done.text[-5000:]
    return done.text


def test_cohort_is_segmented_and_reported_with_a_finished_model(
    tmp_path, model, head, head_file, dseg_file
):
    nib.save(
        nib.Nifti1Image(head.data.astype(np.int16) + 1, head.affine), tmp_path / "other.nii.gz"
    )
    (tmp_path / "cohort.tsv").write_text(SHEET)
    given = shutil.copytree(model, tmp_path / "models/a's model")
    described = json.loads((given / "bundle.json").read_text())
    described["views"]["axial"]["training_scans"] = ["sub-known"]
    (given / "bundle.json").write_text(json.dumps(described))
    run(tmp_path, given)

    results = tmp_path / "results"
    assert not (results / "models").exists() and not (results / "slices").exists()
    for name in ("bundle.json", "coronal.safetensors", "README.md"):
        assert sha256(results / "model" / name) == sha256(given / name)
    assert "spacing_mm: 4.0" in (results / "config.yaml").read_text()
    for name in ("sub-known", "sub-other"):
        dseg = nib.load(results / f"segmentations/{name}/anat/{name}_desc-quicknat_dseg.nii.gz")
        assert dseg.shape == head.shape
    assert "sub-known" in (results / "metrics.tsv").read_text()
    pages = sorted(results.glob("report/*.html"))
    assert [page.name for page in pages] == ["index.html", "sub-known.html", "sub-other.html"]
    assert [dead_links(page) for page in pages] == [[], [], []]
    page = pages[0].read_text()
    assert "the finished model <strong>a&#39;s model</strong> segmented this cohort" in page
    assert "1 of the test scans may have been trained on" in page and 'id="training"' not in page

    # the same model elsewhere is the same model; with other weights of the views it is another
    moved = given.rename(tmp_path / "models/moved")
    assert job_counts(run(tmp_path, moved, "--dry-run")) == {}
    described["aggregation"] = {"axial": 0.5, "coronal": 0.5, "sagittal": 0}
    (moved / "bundle.json").write_text(json.dumps(described))
    counts = job_counts(run(tmp_path, moved, "--dry-run"))
    assert counts == {"copy_model": 1} | SEGMENTED | SCORED
