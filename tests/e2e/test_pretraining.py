"""Pre-training on automatic labels of a program, and on images synthesized from label maps."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from project import row

pytestmark = pytest.mark.slow
STAGE = "results/models/pretrain/axial"
LABELLED = "results/scans/sub-p2/anat/sub-p2_space-conformed_desc-auto_dseg.nii.gz"
# run_samseg -i IMAGE -o FOLDER --threads N
SAMSEG = '#!/bin/sh\necho stand-in "$6"; mkdir -p "$4"; cp {} "$4/seg.mgz"\n'


def test_automatic_labels_and_synthetic_images(project):
    """A program on PATH labels a raw scan, once; a row may have a label map alone."""
    labels, path = nib.load(project.folder / "data/labels.nii.gz"), project.folder / "labels.mgz"
    nib.save(nib.MGHImage(np.asarray(labels.dataobj).astype(np.int32), labels.affine), path)
    project.program("run_samseg", SAMSEG.format(path))
    project.rows = [line for line in project.rows if "\tpretrain" not in line]
    project.rows += [row("p2", labels=False), row("m1")]
    project.settings["auto_labels"] = {"method": "samseg"}
    project.set("pretrain", source="both")
    project.run(f"{STAGE}/model.json")
    assert len(np.unique(np.asarray(nib.load(project.folder / LABELLED).dataobj))) > 20
    log = (project.results / "logs/auto_label_external/sub-p2.log").read_text()
    assert "stand-in 2" in log  # threads: as many as there are, at most four
    described = json.loads((project.folder / STAGE / "model.json").read_text())
    assert described["training_scans"] == ["sub-p2", "sub-m1_tissues"]
    history = pd.read_csv(project.folder / STAGE / "history.tsv", sep="\t")
    assert np.isfinite(history["train_loss"]).all() and len(history) == 1
    assert not list(project.results.glob("scans/sub-m1"))
    project.set("auto_labels", license="elsewhere.txt")  # changes no label
    assert "Nothing to be done" in project.run("--dry-run", LABELLED)


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
