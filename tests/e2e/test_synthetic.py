"""Pre-training on synthetic images of label maps, without any image or FreeSurfer."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from helpers import job_counts, real_dseg, run_snakemake, synthetic_head
from quicknat.images.slices import VIEWS

pytestmark = pytest.mark.slow
SETTINGS = {
    "conform": {"spacing_mm": 4.0, "size": 64},
    "slices": {"size": 48},
    "network": {"filters": 4},
    "training": {"precision": "32-true", "compile": False, "batch_size": 8},
    "pretrain": {"epochs": 1, "learning_rate": 0.001, "source": "synthetic"},
    "finetune": {"epochs": 1, "learning_rate": 0.001},
}
FROM_PRETRAINING = {"pretrain": 3, "finetune": 3, "curves": 1, "bundle": 1, "report": 1}


class Folder:
    def __init__(self, folder):
        self.folder, self.rows = folder, []

    def add(self, name, use, image=None, labels=None):
        """A row of the sheet, and its files."""
        paths = []
        for kind, volume in (("T1w", image), ("dseg", labels)):
            path = self.folder / f"{name}_{kind}.nii.gz"
            if volume and not path.exists():
                nib.save(nib.Nifti1Image(volume.data.astype(np.int16), volume.affine), path)
            paths.append(path.name if volume else "")
        self.rows.append("\t".join([name, *paths, "freesurfer", use]))

    def run(self, *arguments, **pretrain):
        lines = ["subject\timage\tlabels\tlabel_convention\tsplit", *self.rows]
        (self.folder / "cohort.tsv").write_text("\n".join(lines) + "\n")
        overlay = {"sheet": str(self.folder / "cohort.tsv"), **SETTINGS}
        overlay["pretrain"] = SETTINGS["pretrain"] | pretrain
        done = run_snakemake(self.folder, *arguments, overlay=overlay)
        assert done.returncode == 0, done.text[-5000:]
        return done.text

    def jobs(self, **pretrain):
        return job_counts(self.run("--dry-run", **pretrain))


@pytest.fixture
def folder(tmp_path):
    folder = Folder(tmp_path)
    for number, (name, use) in enumerate((("t1", "train"), ("v1", "val"))):
        dseg = real_dseg(f"sub-CSI{number + 1}")
        folder.add(name, use, synthetic_head(dseg, number), dseg)
    return folder


def test_label_maps_alone_pretrain_and_another_source_reruns_no_more_than_that(folder):
    folder.add("m1", "pretrain", labels=real_dseg("sub-ds240"))
    folder.run()
    results = folder.folder / "results"
    for view in VIEWS:
        for stage, scans in (("pretrain", ["sub-m1_tissues"]), ("finetune", ["sub-t1"])):
            history = pd.read_csv(results / f"models/{stage}/{view}/history.tsv", sep="\t")
            assert np.isfinite(history["train_loss"]).all() and len(history) == 1
            described = json.loads((results / f"models/{stage}/{view}/model.json").read_text())
            assert described["training_scans"] == scans
            assert (described["initial_sha256"] is None) == (stage == "pretrain")
    assert not list(results.glob("scans/sub-m1")) and folder.jobs() == {}
    folder.add("m2", "pretrain", labels=real_dseg("sub-CSI3"))
    assert folder.jobs() == {"slice_tissues": 1, **FROM_PRETRAINING}
    folder.rows.pop()
    # an image to learn, besides: as it is labelled, its labels are synthesized from too
    folder.add("p1", "pretrain", synthetic_head(real_dseg("sub-CSI3")), real_dseg("sub-CSI3"))
    prepared = {"convert": 1, "convert_labels": 1, "slice": 1}
    assert folder.jobs(source="automatic") == {**prepared, **FROM_PRETRAINING}
    assert folder.jobs(source="both") == {**prepared, "slice_tissues": 1, **FROM_PRETRAINING}


def test_synthetic_and_real_images_pretrain_together(folder):
    folder.add("p1", "pretrain", synthetic_head(real_dseg("sub-CSI3"), 5), real_dseg("sub-CSI3"))
    path = "results/models/pretrain/axial/model.json"
    folder.run(path, source="both")
    described = json.loads((folder.folder / path).read_text())
    assert described["training_scans"] == ["sub-p1", "sub-p1_tissues"]


def test_whole_heads_of_the_shared_maps_pretrain(folder, shared):
    for number in ("01", "09"):
        path = shared / f"data/synthseg_label_maps/training_seg_{number}.nii.gz"
        folder.rows.append(f"m{number}\t\t{path}\tfreesurfer\tpretrain")
    path = "results/models/pretrain/coronal/history.tsv"
    folder.run(path)
    stack = np.load(folder.folder / "results/slices/coronal/sub-m01_tissues.npy")
    assert stack[:, 0].max() > 24  # the head around the brain
    assert np.isfinite(pd.read_csv(folder.folder / path, sep="\t")["train_loss"]).all()
