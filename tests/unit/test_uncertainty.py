"""Disagreement of sampled segmentations, by hand and against the authors' definition."""

import numpy as np
import pytest

from quicknat.segmentation.uncertainty import structure_uncertainty


def test_iou_and_cv_of_a_hand_made_example():
    samples = np.array([[0, 1, 1, 2, 2, 2], [0, 0, 1, 2, 2, 1], [0, 0, 1, 1, 2, 1]])
    iou, cv = structure_uncertainty(samples, 4)
    # class 1: all agree on the third voxel, any has it at voxels 2, 3, 4, 6; volumes 2, 2, 3
    np.testing.assert_allclose(iou[:3], [1 / 2, 1 / 4, 1 / 3])
    np.testing.assert_allclose(cv[1], np.std([2, 2, 3]) / np.mean([2, 2, 3]))
    assert np.isnan(iou[3]) and np.isnan(cv[3])


def test_equal_samples_are_certain():
    labels = np.random.default_rng(0).integers(0, 40, (8, 8, 8)).astype(np.uint8)
    iou, cv = structure_uncertainty([labels] * 3, 40)
    assert np.nanmin(iou) == 1 and np.nanmax(cv) == 0


def test_reference_values_are_reproduced(golden):
    aux = np.load(golden / "aux.npz")
    iou, cv = structure_uncertainty(aux["unc_samples"], 4)
    np.testing.assert_allclose(iou, aux["unc_iou"], rtol=1e-12)
    np.testing.assert_allclose(cv, aux["unc_cv"], rtol=1e-12)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="no samples"):
        structure_uncertainty([], 4)


def test_any_number_of_classes_is_compared():
    iou, cv = structure_uncertainty([np.array([0, 99]), np.array([99, 99])], 100)
    assert iou[0] == 0 and iou[99] == 0.5 and np.isnan(iou[50])
    assert cv[99] == pytest.approx(0.5 / 1.5)
