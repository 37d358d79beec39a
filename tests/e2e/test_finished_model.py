"""A cohort is segmented, scored and reported with a finished model; nothing is trained."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from project import Project, row

from helpers import dead_links
from quicknat.files import sha256

pytestmark = pytest.mark.slow
SEGMENTED = {"segment": 2, "pictures": 2, "volumes": 1, "report": 1}
SCORED = {"evaluate": 1, "metrics": 1}


def test_given_model(finished, tmp_path):
    project, results = Project(tmp_path), tmp_path / "results"
    shutil.copytree(finished.folder / "data", tmp_path / "data")
    given = shutil.copytree(finished.results / "model", tmp_path / "models/a's model")
    described = json.loads((given / "bundle.json").read_text())
    described["views"]["axial"]["training_scans"] = ["sub-e2"]
    (given / "bundle.json").write_text(json.dumps(described))
    project.rows, project.settings = [row("e2"), row("s2")], {"model": str(given)}
    project.run()

    assert not (results / "models").exists() and not (results / "slices").exists()
    for name in ("bundle.json", "coronal.safetensors", "README.md"):
        assert sha256(results / "model" / name) == sha256(given / name)
    assert "spacing_mm: 4.0" in (results / "config.yaml").read_text()
    for name in ("e2", "s2"):
        scan, dseg = nib.load(tmp_path / f"data/{name}.nii"), nib.load(project.dseg(f"sub-{name}"))
        assert dseg.shape == scan.shape and np.allclose(dseg.affine, scan.affine, atol=1e-4)
    assert "sub-e2" in (results / "metrics.tsv").read_text()
    pages = sorted(results.glob("report/*.html"))
    assert [page.name for page in pages] == ["index.html", "sub-e2.html", "sub-s2.html"]
    assert [dead_links(page) for page in pages] == [[], [], []]
    page = pages[0].read_text()
    name = str(given).replace("'", "&#39;")
    assert f"the existing model <strong>{name}</strong> segmented this cohort" in page
    assert "1 of the test scans may have been trained on" in page and 'id="training"' not in page

    # the same model elsewhere is the same model; with other weights of the views it is another
    moved = given.rename(tmp_path / "models/moved")
    project.settings = {"model": str(moved)}
    assert project.jobs() == {}
    described["aggregation"] = {"axial": 0.5, "coronal": 0.5, "sagittal": 0}
    (moved / "bundle.json").write_text(json.dumps(described))
    assert project.jobs() == {"copy_model": 1} | SEGMENTED | SCORED
