"""Training: schedules, reproducibility, and a network that learns."""

import itertools
import json
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from helpers import brief_training
from quicknat.errors import InputError
from quicknat.model.network import NetworkSettings, QuickNAT
from quicknat.training import trainer
from quicknat.training.augmentation import augment
from quicknat.training.data import Batches, SliceSet
from quicknat.training.setup import prepare_training
from quicknat.training.train_step import learning_rate_factor, make_optimizer
from quicknat.training.trainer import train_view

SMALL = NetworkSettings(filters=4, squeeze_excitation="scse", dropout=0.0)


def settings(epochs=2, **changes):
    return brief_training(epochs=epochs, **changes)


def train(protocol, stacks, validation, chosen, folder, **options):
    """Train the coronal network; return the table of its epochs."""
    train_view("coronal", protocol, stacks, validation, chosen, folder, **options)
    return pd.read_csv(folder / "history.tsv", sep="\t")


def test_sgd_follows_the_paper_and_the_history_says_with_which_rate_each_epoch_began(
    stack, tmp_path, protocol
):
    chosen = settings(epochs=3, optimizer="sgd", lr_step_epochs=2, learning_rate=0.01)
    group = make_optimizer(QuickNAT(3, SMALL), chosen).param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.95, 1e-4)
    history = train(protocol, [stack], [], chosen, tmp_path)
    assert history["learning_rate"].tolist() == pytest.approx([0.01, 0.01, 0.001])


def test_adamw_warms_up_and_decays_to_zero():
    chosen = settings(epochs=10, warmup=0.1)
    factors = np.array([learning_rate_factor(step, 100, chosen) for step in range(101)])
    assert factors[0] == pytest.approx(0.1) and factors.max() == pytest.approx(1)
    assert factors.argmax() in (9, 10) and factors[100] == 0
    assert np.all(np.diff(factors[10:]) < 0)


def test_network_learns_and_writes_model_history_and_description(stack, tmp_path, protocol):
    chosen = settings(epochs=12, augment=False, learning_rate=0.02)
    history = train(protocol, [stack], [stack], chosen, tmp_path / "m")
    assert history["train_loss"].iloc[-1] < 0.75 * history["train_loss"].iloc[0]
    assert history["val_dice"].max() > 0.8
    described = json.loads((tmp_path / "m/model.json").read_text())
    assert described["best_epoch"] == history["val_dice"].idxmax() + 1
    assert described["best_val_dice"] == pytest.approx(history["val_dice"].max(), rel=1e-4)
    assert {"epoch", "learning_rate", "seconds", "slices_per_second"} <= set(history)
    assert list((tmp_path / "m/tensorboard").glob("events*"))


def test_time_limit_ends_a_training_and_its_learning_rate(stack, tmp_path, protocol, monkeypatch):
    ticks = itertools.count()  # a second a look at the clock
    clock = SimpleNamespace(perf_counter=lambda: float(next(ticks)), monotonic=time.monotonic)
    monkeypatch.setattr(trainer, "time", clock)
    chosen = settings(epochs=1000, max_minutes=0.5, warmup=0)
    history = train(protocol, [stack], [], chosen, tmp_path)
    assert 2 < len(history) < 10 and 30 <= history["seconds"].sum() < 40
    rates = history["learning_rate"]
    assert rates.is_monotonic_decreasing and rates.iloc[0] == 0.01 and rates.iloc[-1] < 0.004


def test_finetuning_starts_from_the_given_weights(stack, tmp_path, protocol):
    train(protocol, [stack], [], settings(epochs=1), tmp_path / "a")
    still = settings(epochs=1, learning_rate=1e-12, optimizer="sgd")
    start = tmp_path / "a/model.safetensors"
    train(protocol, [stack], [], still, tmp_path / "b", initial=start)
    one, two = load_file(start), load_file(tmp_path / "b/model.safetensors")
    torch.testing.assert_close(one["classifier.weight"], two["classifier.weight"])


def test_structures_that_no_training_scan_has_are_named(stack, tmp_path, protocol, caplog):
    prepare_training("coronal", protocol, [stack], [], settings(), tmp_path / "m", None, 1)
    absent = ", ".join(protocol.names[5:])  # the stack holds classes 1 to 4
    assert f"coronal: never found, as no training scan has them: {absent}" in caplog.text


@pytest.mark.slow
def test_bf16_trains_too(stack, tmp_path, protocol):
    history = train(protocol, [stack], [stack], settings(precision="bf16-mixed"), tmp_path)
    assert len(history) == 2 and np.isfinite(history["train_loss"]).all()


@pytest.mark.parametrize(
    ("shape", "value", "message"),
    [((2, 2, 32, 48), 0, r"bad\.npy: slices are \(32, 48\)"),
     ((2, 2, 32, 32), 40, r"bad\.npy: holds class 40, but there are 28")],
)  # fmt: skip
def test_stack_that_does_not_fit_is_refused(stack, tmp_path, protocol, shape, value, message):
    np.save(tmp_path / "bad.npy", np.full(shape, value, np.uint8))
    with pytest.raises(InputError, match=message):
        train(protocol, [stack, tmp_path / "bad.npy"], [], settings(), tmp_path / "m")
    assert not (tmp_path / "m/model.safetensors").exists()


def test_training_needs_slices_to_train_on_and_to_validate_on(stack, tmp_path, protocol):
    with pytest.raises(InputError, match="training set: .* split=train"):
        train(protocol, [], [], settings(), tmp_path)
    np.save(tmp_path / "none.npy", np.zeros((0, 2, 32, 32), np.uint8))
    with pytest.raises(InputError, match="validation set: no coronal slice"):
        train(protocol, [stack], [tmp_path / "none.npy"], settings(), tmp_path)


def batches(slices, swapped=None, **changes):
    boxes = slices.survey(256)[2]
    return Batches(slices, settings(**changes), swapped, torch.device("cpu"), boxes)


def test_augmentation_never_flips_and_keeps_classes_whole():
    labels = torch.zeros(50, 48, 48, dtype=torch.uint8)
    labels[:, :24] = 1
    image, found = augment(0.8 * labels[:, None].float(), labels, torch.Generator().manual_seed(0))
    assert image.shape == (50, 1, 48, 48) and found.dtype == torch.uint8
    assert set(found.unique().tolist()) == {0, 1}
    assert (found[:, :24].float().mean((1, 2)) > found[:, 24:].float().mean((1, 2))).all()
    assert image.min() >= 0 and image.max() <= 1
    # image and labels move together: bright where the class is
    inside = torch.stack(
        [i[0][f > 0].mean() - i[0][f == 0].mean() for i, f in zip(image, found, strict=True)]
    )
    assert (inside > 0.4).all()
    unmoved = (found == labels).all((1, 2))
    assert 2 <= unmoved.sum() <= 20  # a fifth, but for those that move by less than a pixel


def test_random_numbers_depend_on_seed_epoch_and_step_alone(stack, tissue_stack):
    flips, slices = np.array([0, 2, 1, 3, 4]), SliceSet([stack], [tissue_stack])
    whole = list(batches(slices, flips).epoch(3))
    for start in (0, 2, 5):
        again = batches(slices, flips).epoch(3, start)
        for one, two in zip(whole[start:], again, strict=True):
            assert all(map(torch.equal, one, two))
    for other in (batches(slices, flips).epoch(4), batches(slices, flips, seed=1).epoch(3)):
        assert not torch.equal(next(iter(other))[0], whole[0][0])


def test_flipped_slices_have_their_sides_swapped_and_nothing_else_changed(stack):
    sides = np.array([0, 2, 1, 3, 4])  # classes 1 and 2 are partners
    slices, numbers = SliceSet([stack]), np.arange(24)
    plain = batches(slices, augment=False).batch(numbers, (1, 0))
    mirrored = batches(slices, sides, augment=False).batch(numbers, (1, 0))
    flipped = 0
    for image, labels, other, others in zip(*plain, *mirrored, strict=True):
        if torch.equal(image, other):
            assert torch.equal(labels, others)
            continue
        flipped += 1
        assert torch.equal(image.flip(1), other)
        assert torch.equal(torch.tensor(sides)[labels.int()].flip(0).byte(), others)
    assert 6 < flipped < 18


def test_three_batches_of_four_are_cut_to_a_window_around_the_brain(tmp_path):
    """A brain off the middle stays whole, also when flipped, and the window is not always same."""
    data = np.zeros((8, 2, 96, 80), np.uint8)
    data[:, 1, 20:64, 30:70] = 1  # 44 × 40 pixels: 48 hold both with 8 % around them
    data[:, 0] = 200 * data[:, 1]
    np.save(tmp_path / "1.npy", data)
    made = batches(SliceSet([tmp_path / "1.npy"]), np.arange(2), augment=False)
    firsts = set()
    for step in range(8):
        image, labels = made.batch(np.arange(8), (1, step))
        assert labels.shape[1:] == ((96, 80) if (1 + step) % 4 == 3 else (48, 48))
        assert torch.equal(image[:, 0] > 0, labels > 0)
        assert (labels.sum((1, 2)) > 0.9 * 44 * 40).all()
        firsts |= {int(one.any(dim=1).nonzero()[0]) for one in labels}
    assert len(firsts) > 4


@pytest.mark.parametrize(
    ("view", "flip", "flipped"),
    [("coronal", True, True), ("axial", True, True), ("sagittal", True, False),
     ("coronal", False, False)],
)  # fmt: skip
def test_flipping_is_for_views_that_show_both_sides(stack, tmp_path, protocol, view, flip, flipped):
    chosen = settings(flip=flip)
    setup = prepare_training(view, protocol, [stack], [], chosen, tmp_path, None, 1)
    assert (setup.swapped is not None) == flipped


def test_stride_takes_every_so_many_th_slice_and_counts_voxels_as_if_it_took_all(stack):
    whole, part = SliceSet([stack]), SliceSet([stack], stride=4)
    assert (len(whole), len(part)) == (24, 6)
    cpu = torch.device("cpu")
    assert torch.equal(part.take(np.array([2]), cpu), whole.take(np.array([8]), cpu))
    (one,), sums, _ = whole.survey(5)
    (other,), other_sums, _ = part.survey(5)
    assert other.voxels.sum() == one.voxels.sum() and sums != other_sums
    np.testing.assert_allclose(other.voxels[1:], one.voxels[1:], rtol=0.05)


def test_neighbours_are_of_the_same_scan_and_its_ends_are_repeated(stack, tmp_path):
    np.save(tmp_path / "short.npy", np.load(stack)[:2] + np.uint8(100))
    files, copied = (SliceSet([stack, tmp_path / "short.npy"], count=5) for _ in range(2))
    copied.resident = torch.from_numpy(np.concatenate(copied.stacks))
    first, second = (np.load(path) for path in files.paths)
    expected = [first[[0, 0, 0, 1, 2]], first[[21, 22, 23, 23, 23]], second[[0, 0, 1, 1, 1]]]
    for slices in (files, copied):
        taken = slices.take(np.array([0, 23, 25]), torch.device("cpu"))
        np.testing.assert_array_equal(taken, expected)


def test_neighbours_are_changed_like_their_slice(stack):
    """All slices of an image are bent alike, and flipped sagittal ones change their order."""
    data = np.load(stack)
    data[:] = data[:1]  # all slices of the scan are the same
    np.save(stack, data)
    image, _ = batches(SliceSet([stack], count=3)).batch(np.arange(8), (1, 0))
    assert image.shape[1] == 3 and (image[:, 0] - image[:, 2]).abs().mean() < 0.05
    data[:, 0] = np.arange(24)[:, None, None]
    np.save(stack, data)
    image, _ = batches(SliceSet([stack], count=3), augment=False, flip=True).batch(
        np.arange(1, 23), (1, 0)
    )
    steps = (255 * image).diff(dim=1).round().flatten(1)
    assert set(steps.unique().tolist()) == {-1, 1} and (steps == steps[:, :1]).all()


@pytest.fixture
def tissue_stack(tmp_path, stack):
    """The bars of `stack` as tissues: an index each instead of a brightness."""
    data = np.load(stack)
    data[:, 0] = data[:, 1]
    np.save(tmp_path / "sub-1_tissues.npy", data)
    return tmp_path / "sub-1_tissues.npy"


def test_slices_of_tissues_are_synthesized_and_the_others_augmented(stack, tissue_stack):
    both, numbers = SliceSet([stack], [tissue_stack]), np.array([3, 27, 4, 30])
    assert len(both) == 48 and both.first_tissues == 24
    original = both.take(numbers, torch.device("cpu"))[:, 0]
    image, labels = batches(both, augment=False).batch(numbers, (1, 0))
    for number in (0, 2):
        assert torch.equal(255 * image[number, 0], original[number, 0].float())
        assert torch.equal(labels[number], original[number, 1])
    for number in (1, 3):  # tissue indices up to 4 became an image
        assert image[number].max() > 0.1 and not torch.equal(labels[number], original[number, 1])
    augmented, _ = batches(both).batch(numbers, (1, 0))
    assert not torch.equal(augmented[0], image[0])


def test_tissues_have_voxels_but_no_brightness(stack, tissue_stack):
    (one, two), sums, _ = SliceSet([stack], [tissue_stack]).survey(5)
    assert set(sums) == {"sub-1", "sub-1_tissues"}
    np.testing.assert_array_equal(one.voxels, two.voxels)
    assert np.isfinite(one.intensity).all() and np.isnan(two.intensity).all()
    assert two.outside == 0
    data = np.load(tissue_stack)
    data[0, 0, 0, 0] = 200
    np.save(tissue_stack, data)
    with pytest.raises(InputError, match="sub-1_tissues.npy: holds tissue 200"):
        SliceSet([], [tissue_stack]).survey(5)


@pytest.mark.parametrize("images", [0, 1])
def test_network_trains_on_synthetic_images_alone_or_with_real_ones(
    stack, tissue_stack, tmp_path, protocol, images
):
    real, chosen = [stack] * images, settings(epochs=1)
    history = train(protocol, real, [stack], chosen, tmp_path, tissues=[tissue_stack])
    assert np.isfinite(history["train_loss"]).all() and np.isfinite(history["val_dice"]).all()
    described = json.loads((tmp_path / "model.json").read_text())
    assert described["training_scans"] == ["sub-1"] * images + ["sub-1_tissues"]
