"""Entropy, agreement of the views, spread of samples: by hand and as the authors define it."""

import numpy as np
import pytest
import torch

from quicknat.segmentation.uncertainty import (
    normalised_entropy,
    split_sides,
    structure_uncertainty,
    view_agreement,
)


def test_entropy_is_zero_when_sure_and_one_when_even():
    sure, unpaired = torch.zeros(4, 2, 2, 2), np.arange(4)
    sure[0] = 1
    assert normalised_entropy(sure, unpaired).max() < 1e-6
    for total in (1, 1.3):  # of label tables that merge other classes than partners
        found = normalised_entropy(torch.full((4, 2, 2, 2), 0.25 * total), unpaired)
        torch.testing.assert_close(found, torch.ones(2, 2, 2))


def aggregated(coronal: list[float], axial: list[float], sagittal: list[float]) -> torch.Tensor:
    """Aggregate one voxel's probabilities as views.aggregate does.

    Classes: background, one structure's two sides, another's, a midline one; the sagittal network
    has background, both structures, and the midline one.
    """
    both = torch.tensor(sagittal)[[0, 1, 1, 2, 2, 3]]
    total = 0.4 * torch.tensor(coronal) + 0.4 * torch.tensor(axial) + 0.2 * both
    return total.view(6, 1, 1, 1)


SWAPPED = np.array([0, 2, 1, 4, 3, 5])


@pytest.mark.parametrize(
    ("coronal", "axial", "sagittal", "expected"),
    [
        # all are sure that it is the left structure: so is the result
        ([0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0, 0, 0]),
        # sure of the structure, 3 to 1 for its left side
        ([0, 0.8, 0.2, 0, 0, 0], [0, 0.7, 0.3, 0, 0, 0], [0, 1, 0, 0], [0, 0.75, 0.25, 0, 0, 0]),
        # two structures of the left side, and two midline classes
        (
            [0.25, 0.5, 0, 0.25, 0, 0], [0, 0.5, 0, 0.5, 0, 0], [0, 0.5, 0.25, 0.25],
            [0.1, 0.5, 0, 0.35, 0, 0.05],
        ),
        # only the sagittal network finds it
        ([1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0, 1, 0, 0], [0.8, 0.1, 0.1, 0, 0, 0]),
    ],
)  # fmt: skip
def test_sides_share_what_the_sagittal_view_gives_to_both(coronal, axial, sagittal, expected):
    found = split_sides(aggregated(coronal, axial, sagittal), torch.from_numpy(SWAPPED))
    wanted = torch.tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(found.flatten(), wanted, atol=1e-6, rtol=0)
    if expected[1] == 1:
        assert normalised_entropy(aggregated(coronal, axial, sagittal), SWAPPED).max() < 1e-6


def test_view_agreement_is_the_mean_dice_between_views_and_result(protocol):
    left, right = (protocol.names.index(f"{side} putamen") for side in ("Left", "Right"))
    labels = torch.tensor([left, left, right, 0]).reshape(1, 2, 2)
    views = {
        "coronal": labels,  # Dice 1 and 1
        "axial": torch.tensor([left, 0, 0, 0]).reshape(1, 2, 2),  # 2·1/(2+1) and 0
        "sagittal": torch.tensor(protocol.sagittal[[left, left, right, right]]).reshape(1, 2, 2),
    }  # the last in merged classes: 2·3/(3+4) for both
    found = view_agreement(views, labels, protocol)
    assert found[left] == pytest.approx((1 + 2 / 3 + 6 / 7) / 3)
    assert found[right] == pytest.approx((1 + 0 + 6 / 7) / 3)
    assert np.isnan(found[protocol.names.index("Brain stem")])


def test_iou_and_cv_of_a_hand_made_example():
    samples = np.array([[0, 1, 1, 2, 2, 2], [0, 0, 1, 2, 2, 1], [0, 0, 1, 1, 2, 1]])
    iou, cv = structure_uncertainty(samples, 4)
    # class 1: all agree on the third voxel, any has it at voxels 2, 3, 4, 6; volumes 2, 2, 3
    np.testing.assert_allclose(iou[:3], [1 / 2, 1 / 4, 1 / 3])
    np.testing.assert_allclose(cv[1], np.std([2, 2, 3]) / np.mean([2, 2, 3]))
    assert np.isnan(iou[3]) and np.isnan(cv[3])


def test_reference_values_are_reproduced(golden):
    aux = np.load(golden / "aux.npz")
    iou, cv = structure_uncertainty(aux["unc_samples"], 4)
    np.testing.assert_allclose(iou, aux["unc_iou"], rtol=1e-12)
    np.testing.assert_allclose(cv, aux["unc_cv"], rtol=1e-12)
