"""Metrics mean what they say."""

import numpy as np
import pytest

from quicknat.errors import InputError
from quicknat.evaluation.metrics import COLUMNS, evaluate, structure_metrics


def cube(low, high, size=24):
    mask = np.zeros((size,) * 3, bool)
    mask[low:high, low:high, low:high] = True
    return mask


def test_perfect_agreement_is_one_with_distance_zero():
    mask = cube(5, 15)
    assert structure_metrics(mask, mask, np.ones(3)) == (1.0, 1.0, 0.0)


def test_dice_and_iou_of_half_overlap():
    one, two = np.zeros((10, 10, 10), bool), np.zeros((10, 10, 10), bool)
    one[:4], two[2:6] = True, True
    dice, iou, _ = structure_metrics(one, two, np.ones(3))
    assert dice == pytest.approx(0.5) and iou == pytest.approx(1 / 3)


def test_distance_is_in_millimetres_along_each_axis():
    one = np.zeros((30, 30, 30), bool)
    one[5:10, 5:10, 5:10] = True
    two = np.roll(one, 4, axis=2)
    assert structure_metrics(one, two, np.array([1, 1, 1]))[2] == pytest.approx(4)
    assert structure_metrics(one, two, np.array([1, 1, 2.5]))[2] == pytest.approx(10)


@pytest.mark.case(36)
def test_structure_absent_from_both_is_empty_and_from_one_scores_zero():
    nothing, mask = np.zeros((24,) * 3, bool), cube(5, 10)
    assert np.isnan(structure_metrics(nothing, nothing, np.ones(3))).all()
    dice, iou, distance = structure_metrics(mask, nothing, np.ones(3))
    assert (dice, iou) == (0, 0) and np.isnan(distance)


def test_structure_at_the_border_of_the_grid_is_measured():
    mask = cube(0, 24)
    assert structure_metrics(mask, mask, np.ones(3))[:2] == (1.0, 1.0)


def test_scores_of_random_maps_stay_between_zero_and_one(protocol):
    random = np.random.default_rng(0)
    one, two = random.integers(0, 28, (2, 20, 20, 20))
    table = evaluate(one, two, np.diag([1, 2, 3, 1.0]), protocol, "sub-1")
    assert list(table.columns) == COLUMNS and len(table) == 27
    assert table[["dice", "iou"]].min().min() >= 0 and table[["dice", "iou"]].max().max() <= 1
    assert table["reference_mm3"].sum() == pytest.approx((two > 0).sum() * 6)


def test_volumes_of_a_sheared_grid_are_those_of_its_voxels(protocol):
    sheared = np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    labels = np.full((10, 10, 10), 1)
    table = evaluate(labels, labels, sheared, protocol, "sub-1")
    assert table["volume_mm3"][0] == pytest.approx(1000)


def test_grids_of_different_shape_are_refused(protocol):
    with pytest.raises(InputError):
        evaluate(np.zeros((4, 4, 4)), np.zeros((4, 4, 5)), np.eye(4), protocol, "sub-1")
