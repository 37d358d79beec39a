"""What a run of the whole workflow on small real heads leaves (its fixture is in conftest.py)."""

import json

import pandas as pd
import pytest

from helpers import dead_links
from quicknat.images.slices import VIEWS

pytestmark = pytest.mark.slow
NAME = "sub-ds240"


def test_results_of_every_stage(finished):
    results = finished.results
    metrics = pd.read_csv(results / "metrics.tsv", sep="\t")
    assert set(metrics["subject"]) == {NAME} and len(metrics) == 27
    for stage in ("pretrain", "finetune"):
        for view in VIEWS:
            model = json.loads((results / f"models/{stage}/{view}/model.json").read_text())
            assert model["view"] == view and model["versions"]["torch"]
            assert (model["initial_sha256"] is None) == (stage == "pretrain")
            assert model["ancestors"] == ([] if stage == "pretrain" else [model["initial_sha256"]])
            assert bool(model["ancestor_scans"]) == (stage == "finetune")
    assert (results / "config.yaml").is_file()
    views = pd.read_csv(results / "metrics/views.tsv", sep="\t")
    assert views.groupby("view").size().to_dict() == dict.fromkeys(["aggregate", *VIEWS], 27)
    confusion = pd.read_csv(results / "metrics/confusion.tsv", sep="\t")
    assert {"Background", "Left hippocampus"} <= set(confusion["reference"])
    assert finished.dseg(NAME).with_name(f"{NAME}_desc-quicknat_uncertainty.nii.gz").is_file()
    assert finished.dseg(NAME).with_name(f"{NAME}_desc-brain_mask.nii.gz").is_file()
    for name in ("dice", "bland_altman", "confusion", "uncertainty"):
        for kind in ("png", "svg"):
            assert (results / f"report/figures/{name}.{kind}").is_file()
    assert not list(results.rglob(".tmp-*"))


def test_report(finished):
    """Its pages link to nothing but files of the results."""
    pages = sorted((finished.results / "report").glob("*.html"))
    assert [page.name for page in pages] == ["index.html", f"{NAME}.html", "sub-s1.html"]
    for page in pages:
        assert dead_links(page) == []
        assert "<script" not in page.read_text()  # 'interactive' is false here
    index = pages[0].read_text()
    for text in (NAME, "Left hippocampus", "sub-CSI1", "pydantic", "pretrain"):
        assert text in index


def test_snakemake_report(project):
    project.run("--report", "report.html")
    page = (project.folder / "report.html").read_text()
    assert "Training" in page and "in the middle slice of each view" in page
    assert "star" in page  # of the caption of the learning curves
