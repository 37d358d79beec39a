"""Runs that are killed at random moments, and run again (see tests/kill_runs.py)."""

import pytest

from kill_runs import kill_runs

# from the download to a trained network, without what takes longest
WANTED = (
    "results/models/finetune/coronal/model.safetensors",
    "results/scans/sub-s/anat/sub-s_dseg.nii.gz",
)


@pytest.mark.long
@pytest.mark.case(43, 45, 60)
def test_killed_runs(tmp_path):
    """Their results on two cores equal those of an undisturbed run on one core."""
    killer, found = kill_runs(tmp_path, kills=5, seed=3, wanted=WANTED)
    assert not found
    assert killer.kills >= 5
