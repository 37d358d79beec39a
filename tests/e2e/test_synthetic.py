"""Pre-training on images that are synthesized from label maps."""

import json

import numpy as np
import pandas as pd
import pytest
from project import row

pytestmark = pytest.mark.slow
STAGE = "results/models/pretrain/axial"


def test_synthetic_and_real_images(project):
    """Both pre-train together; a row may have a label map alone."""
    project.rows += [row("m1")]
    project.set("pretrain", source="both")
    project.run(f"{STAGE}/model.json")
    described = json.loads((project.folder / STAGE / "model.json").read_text())
    assert described["training_scans"] == ["sub-CSI1x11", "sub-m1_tissues"]
    history = pd.read_csv(project.folder / STAGE / "history.tsv", sep="\t")
    assert np.isfinite(history["train_loss"]).all() and len(history) == 1
    assert not list(project.results.glob("scans/sub-m1"))


@pytest.mark.long
def test_whole_heads(project, shared):
    """Label maps of whole heads alone, through both stages."""
    for number in ("01", "09"):
        path = shared / f"data/synthseg_label_maps/training_seg_{number}.nii.gz"
        project.rows += [row(f"m{number}").replace("data/labels.nii.gz", str(path))]
    project.set("pretrain", source="synthetic")
    project.run()
    stack = np.load(project.results / "slices/coronal/sub-m01_tissues.npy")
    assert stack[:, 0].max() > 24  # the head around the brain
    model = json.loads((project.folder / STAGE / "model.json").read_text())
    assert model["training_scans"] == ["sub-m01_tissues", "sub-m09_tissues"]
    finetuned = json.loads((project.results / "models/finetune/axial/model.json").read_text())
    assert finetuned["initial_sha256"] and project.jobs() == {}
