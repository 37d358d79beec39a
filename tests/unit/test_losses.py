"""The loss, against hand-computed values of the paper's formulas."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from quicknat.model.losses import (
    CombinedLoss,
    class_weights,
    dice_loss,
    edge_weight,
    edges,
    prior_offsets,
    weighted_cross_entropy,
)


@pytest.mark.case(36)
def test_class_weights_are_median_over_frequency_and_zero_for_absent_classes():
    counts = np.array([80, 10, 5, 5])  # frequencies .8 .1 .05 .05, median .075
    expected = [0.075 / 0.8, 0.75, 1.5, 1.5]
    np.testing.assert_allclose(class_weights(counts), expected, rtol=1e-6)
    assert edge_weight(counts) == pytest.approx(2 * 0.075 / 0.05)
    np.testing.assert_allclose(class_weights(counts, power=0.5)[2], 1.5**0.5, rtol=1e-6)
    assert class_weights(counts, cap=1.0).max() == 1.0
    absent = class_weights(np.array([80, 0, 10, 10]))
    np.testing.assert_allclose(absent, [0.125, 0, 1, 1], rtol=1e-6)


def test_dice_loss_is_zero_for_certain_truth_and_one_minus_overlap_otherwise():
    labels = torch.tensor([[[0, 1], [1, 1]]])
    sure = F.one_hot(labels, 2).movedim(-1, 1).float() * 200 - 100
    assert dice_loss(sure, labels).item() == pytest.approx(0, abs=1e-4)
    even = torch.zeros(1, 2, 2, 2)  # probabilities one half everywhere
    # class 0: 2·0.5/(2+1), class 1: 2·1.5/(2+3)
    assert dice_loss(even, labels).item() == pytest.approx(1 - (1 / 3 + 3 / 5) / 2, abs=1e-4)


def test_dice_of_a_batch_is_that_of_its_slices_side_by_side():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 6, generator=generator)
    labels = torch.randint(4, (3, 5, 6), generator=generator)
    side_by_side = torch.cat(tuple(logits), dim=2)[None], torch.cat(tuple(labels), dim=1)[None]
    together = dice_loss(logits, labels, reduction="batch").item()
    assert together == pytest.approx(dice_loss(*side_by_side).item(), rel=1e-6)
    assert together != pytest.approx(dice_loss(logits, labels).item(), rel=1e-3)
    for reduction in ("slice", "batch"):
        _, dice = CombinedLoss(np.ones(4, np.float32), 0.0, reduction)(logits, labels)
        assert torch.equal(dice, dice_loss(logits, labels, reduction))


def test_prior_offsets_bring_a_network_of_weighted_cross_entropy_back_to_the_true_fractions():
    """The loss is least where probabilities are proportional to fraction × weight."""
    fractions, weights = torch.tensor([0.9, 0.08, 0.02]), [0.5, 2.0, 4.0]
    logits = (fractions * torch.tensor(weights)).log()
    found = (logits + prior_offsets(weights, 1)).softmax(0)
    torch.testing.assert_close(found, fractions, atol=1e-4, rtol=0)
    assert prior_offsets([1.0, 0.0], 1).tolist() == [0, 0]  # a class that training never saw
    assert not prior_offsets(weights, 0).any()


def test_weighted_cross_entropy_matches_a_hand_calculation():
    labels = torch.tensor([[[0, 0, 0, 1]]])
    loss = CombinedLoss(np.array([1.0, 3.0], np.float32), edge=2.0)
    entropy, _ = loss(torch.zeros(1, 2, 1, 4), labels)
    # pixel weights: 1, 1, 1 + 2, 3 + 2; each pixel's entropy is ln 2
    assert entropy.item() == pytest.approx(np.log(2) * (1 + 1 + 3 + 5) / 4, rel=1e-6)


def test_reference_values_are_reproduced_where_the_reference_is_right(golden):
    aux = np.load(golden / "aux.npz")
    logits, labels, weight = (
        torch.tensor(aux[f"loss_{name}"]) for name in ("logits", "target", "weight")
    )
    entropy = weighted_cross_entropy(logits, labels, weight)
    assert entropy.item() == pytest.approx(float(aux["loss_wce"]), rel=1e-6)
    # the authors take the softmax twice inside Dice; once more on our side gives their value
    twice = dice_loss(logits.softmax(dim=1), labels)
    assert twice.item() == pytest.approx(float(aux["loss_dice"]), rel=1e-5)
    assert (entropy + twice).item() == pytest.approx(float(aux["loss_total"]), rel=1e-5)


def test_edges_are_those_of_the_reference_along_the_axes_that_it_looks_along(golden):
    aux = np.load(golden / "aux.npz")
    labels = aux["mfb_labels"].astype(int)
    extra = aux["mfb_class_weights"] - aux["mfb_weights"][labels]  # a constant 2 on edges
    # of a stack (slice, row, column) it takes the first two axes, so it misses vertical edges and
    # sees those between slices; ours lie in the slice
    turned = torch.tensor(labels).permute(2, 0, 1)
    np.testing.assert_array_equal(2 * edges(turned).permute(1, 2, 0).numpy(), extra)


def test_class_weights_are_the_papers_where_the_reference_rounds_them_to_zero(golden):
    aux = np.load(golden / "aux.npz")
    counts = np.bincount(aux["mfb_labels"].ravel().astype(int), minlength=5)
    ours = class_weights(counts)
    np.testing.assert_allclose(ours, np.median(counts) / counts, rtol=1e-6)
    # the reference divides whole numbers: the same, rounded down, so that common classes vanish
    np.testing.assert_array_equal(np.floor(ours), aux["mfb_weights"][:5])
    assert ours.min() > 0 and aux["mfb_weights"][:2].max() == 0
