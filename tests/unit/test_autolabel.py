"""Labels by registered atlases: repeatable, and decided by the atlas that fits."""

import numpy as np
import pytest

from helpers import write_conformed
from quicknat.autolabel.atlas import label_by_atlases, label_scan
from quicknat.errors import InputError
from quicknat.images.conform import conform
from quicknat.images.resampling import resample_labels
from quicknat.images.volumes import Grid, save_nifti


@pytest.mark.slow
def test_the_same_seed_gives_the_same_labels_and_the_better_atlas_decides(head, demo_dseg):
    image, grid, _ = conform(head, 4.0, 64)
    labels = (resample_labels(demo_dseg, grid) == 2).astype(np.uint8)
    shifted = np.roll(image, 2, axis=1)
    other = np.random.default_rng(0).permutation(image.ravel()).reshape(image.shape)
    atlases = [(other, np.full_like(labels, 9)), (image, labels)]  # the first fits nowhere
    one, two = (label_by_atlases(shifted, atlases, 4.0, seed=0) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    truth = np.roll(labels, 2, axis=1)
    overlap = 2 * ((one == 1) & (truth == 1)).sum() / ((one == 1).sum() + truth.sum())
    assert overlap > 0.75


def test_labels_of_an_atlas_on_another_grid_are_refused(head_file, tmp_path):
    scan, labels = tmp_path / "a_T1w.nii.gz", tmp_path / "a_dseg.nii.gz"
    image, grid = write_conformed(head_file, scan, 8.0, 32)
    moved = grid.affine.copy()
    moved[0, 3] += 8
    save_nifti(labels, (image > 100).astype(np.uint8), Grid(image.shape, moved))
    with pytest.raises(InputError, match=r"a_dseg\.nii\.gz: is not aligned with its image"):
        label_scan(scan, [(scan, labels)])
