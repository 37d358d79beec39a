"""The embedded demo, as `make run` runs it: what the README promises of it."""

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
