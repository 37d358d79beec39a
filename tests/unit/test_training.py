"""Training: schedules, reproducibility, and a network that learns."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from quicknat.config import Network, TrainingSettings
from quicknat.errors import InputError
from quicknat.model.network import NetworkSettings, QuickNAT
from quicknat.training.data import SliceDataset, augmentation
from quicknat.training.setup import prepare_training
from quicknat.training.train_step import learning_rate_factor, make_optimizer
from quicknat.training.trainer import train_view

SMALL = NetworkSettings(filters=4, squeeze_excitation="scse", dropout=0.0)


def settings(**changes):
    base = {"epochs": 2, "learning_rate": 0.01, "optimizer": "adamw"}
    base |= {"network": Network(filters=4, dropout=0.0)}
    base |= {"batch_size": 4, "compile": False, "precision": "32-true"}
    return TrainingSettings(**{**base, **changes})


def test_sgd_follows_the_paper_and_divides_by_ten_every_ten_epochs():
    chosen = settings(optimizer="sgd", epochs=25, lr_step_epochs=10)
    factors = [learning_rate_factor(5 * epoch, 5, chosen) for epoch in (0, 9, 10, 19, 20)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    group = make_optimizer(QuickNAT(3, SMALL), chosen).param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.95, 1e-4)


def test_adamw_warms_up_and_decays_to_zero():
    chosen = settings(epochs=10, warmup=0.1)
    factors = np.array([learning_rate_factor(step, 10, chosen) for step in range(101)])
    assert factors[0] == pytest.approx(0.1) and factors.max() == pytest.approx(1)
    assert factors.argmax() in (9, 10) and factors[100] == 0
    assert np.all(np.diff(factors[10:]) < 0)


def test_network_learns_and_writes_model_history_and_description(stack, tmp_path, protocol):
    chosen = settings(epochs=12, augment=False, learning_rate=0.02)
    train_view("coronal", protocol, [stack], [stack], chosen, tmp_path / "m")
    history = pd.read_csv(tmp_path / "m/history.tsv", sep="\t")
    assert history["train_loss"].iloc[-1] < 0.75 * history["train_loss"].iloc[0]
    assert history["val_dice"].max() > 0.8
    described = json.loads((tmp_path / "m/model.json").read_text())
    assert described["best_epoch"] == history["val_dice"].idxmax() + 1
    assert described["best_val_dice"] == pytest.approx(history["val_dice"].max(), rel=1e-4)
    assert {"epoch", "learning_rate", "seconds", "slices_per_second"} <= set(history)
    assert list((tmp_path / "m/tensorboard").glob("events*"))


@pytest.mark.slow
def test_same_seed_gives_the_same_weights_and_another_seed_does_not(stack, tmp_path, protocol):
    weights = []
    for number, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(number)
        train_view("axial", protocol, [stack], [stack], settings(seed=seed), folder)
        weights.append(load_file(folder / "model.safetensors"))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not torch.equal(weights[0]["classifier.weight"], weights[2]["classifier.weight"])


def test_finetuning_starts_from_the_given_weights(stack, tmp_path, protocol):
    train_view("coronal", protocol, [stack], [], settings(), tmp_path / "a")
    still = settings(epochs=1, learning_rate=1e-12, optimizer="sgd")
    start = tmp_path / "a/model.safetensors"
    train_view("coronal", protocol, [stack], [], still, tmp_path / "b", initial=start)
    one, two = load_file(start), load_file(tmp_path / "b/model.safetensors")
    torch.testing.assert_close(one["classifier.weight"], two["classifier.weight"])


@pytest.mark.case(57)
def test_loss_that_is_not_finite_stops_and_leaves_no_model(stack, tmp_path, protocol):
    with pytest.raises(InputError, match="lower the learning rate"):
        train_view(
            "coronal",
            protocol,
            [stack],
            [],
            settings(epochs=30, learning_rate=1e30),
            tmp_path / "m",
        )
    assert not (tmp_path / "m/model.safetensors").exists()


def test_history_has_the_learning_rate_that_each_epoch_began_with(stack, tmp_path, protocol):
    chosen = settings(epochs=3, optimizer="sgd", lr_step_epochs=1, learning_rate=0.01)
    train_view("coronal", protocol, [stack], [], chosen, tmp_path / "m")
    history = pd.read_csv(tmp_path / "m/history.tsv", sep="\t")
    assert history["learning_rate"].tolist() == pytest.approx([0.01, 0.001, 0.0001])


def test_empty_training_set_is_refused(tmp_path, protocol):
    with pytest.raises(InputError, match="split=train"):
        train_view("coronal", protocol, [], [], settings(), tmp_path)


@pytest.mark.slow
def test_workers_and_bf16_train_too(stack, tmp_path, protocol):
    chosen = settings(workers=1, precision="bf16-mixed")
    train_view("coronal", protocol, [stack], [stack], chosen, tmp_path / "m")
    history = pd.read_csv(tmp_path / "m/history.tsv", sep="\t")
    assert len(history) == 2 and np.isfinite(history["train_loss"]).all()


def test_stacks_that_do_not_fit_are_refused_by_name(stack, tmp_path, protocol):
    def train_on(name, data, validation=()):
        np.save(tmp_path / name, data)
        scans = [stack, tmp_path / name]
        train_view("coronal", protocol, scans, validation, settings(), tmp_path / "m")

    with pytest.raises(InputError, match=r"wide\.npy: slices are \(32, 48\)"):
        train_on("wide.npy", np.zeros((2, 2, 32, 48), np.uint8))
    with pytest.raises(InputError, match=r"beyond\.npy: holds class 40, but there are 28"):
        train_on("beyond.npy", np.full((2, 2, 32, 32), 40, np.uint8))
    np.save(tmp_path / "none.npy", np.zeros((0, 2, 32, 32), np.uint8))
    with pytest.raises(InputError, match="validation set: no coronal slice"):
        train_on("ok.npy", np.ones((2, 2, 32, 32), np.uint8), [tmp_path / "none.npy"])
    assert not (tmp_path / "m/model.safetensors").exists()


def test_unknown_setting_is_refused_by_name():
    with pytest.raises(InputError, match="unknown key 'epoks'; did you mean 'epochs'"):
        TrainingSettings.read({"epoks": 3, "learning_rate": 1})


def test_augmentation_never_flips_and_keeps_classes_whole(tmp_path):
    pair = np.zeros((1, 2, 48, 48), np.uint8)
    pair[0, :, :24] = 1  # one half is class 1
    pair[0, 0] *= 200
    np.save(tmp_path / "a.npy", pair)
    dataset = SliceDataset([tmp_path / "a.npy"], augmentation(48))
    for epoch in range(50):
        item = dataset[epoch]
        assert item["image"].shape == (1, 48, 48) and item["labels"].shape == (48, 48)
        assert set(item["labels"].unique().tolist()) <= {0, 1}
        halves = item["labels"][:24].float().mean(), item["labels"][24:].float().mean()
        assert halves[0] > halves[1]
        assert item["image"].min() >= 0 and item["image"].max() <= 1


def test_flipped_slices_have_their_sides_swapped_and_nothing_else_changed(stack, tissue_stack):
    sides = np.array([0, 2, 1, 3, 4])  # classes 1 and 2 are partners
    plain = SliceDataset([stack], tissues=[tissue_stack])
    mirrored = SliceDataset([stack], tissues=[tissue_stack], swapped=sides)
    flipped = 0
    for number in range(len(plain)):
        one, other = plain[number], mirrored[number]
        if torch.equal(one["image"], other["image"]):
            assert torch.equal(one["labels"], other["labels"])
            continue
        flipped += 1
        assert torch.equal(one["image"].flip(1), other["image"])
        swapped = torch.tensor(sides)[one["labels"].int()]
        assert torch.equal(swapped.flip(0).byte(), other["labels"])
    assert 12 < flipped < 36  # of 48
    again = SliceDataset([stack], tissues=[tissue_stack], swapped=sides)
    assert all(torch.equal(mirrored[k]["image"], again[k]["image"]) for k in range(48))


@pytest.mark.parametrize("view", ["coronal", "axial", "sagittal"])
def test_flipping_is_for_views_that_show_both_sides(stack, tmp_path, protocol, view):
    chosen = settings(flip=True)
    setup = prepare_training(view, protocol, [stack], [], chosen, tmp_path, None, 1)
    assert (setup.swapped is None) == (view == "sagittal")
    setup = prepare_training(view, protocol, [stack], [], settings(), tmp_path, None, 1)
    assert setup.swapped is None


def test_slices_of_several_stacks_are_counted_through(tmp_path):
    for k in (1, 2):
        data = np.full((k, 2, 16, 16), k, np.uint8)
        np.save(tmp_path / f"{k}.npy", data)
    dataset = SliceDataset([tmp_path / "1.npy", tmp_path / "2.npy"])
    assert [int(dataset[i]["labels"][0, 0]) for i in range(len(dataset))] == [1, 2, 2]


def test_stride_takes_every_so_many_th_slice_and_counts_voxels_as_if_it_took_all(stack):
    whole, part = SliceDataset([stack]), SliceDataset([stack], stride=4)
    assert (len(whole), len(part)) == (24, 6)
    assert torch.equal(part[2]["image"], whole[8]["image"])
    (one,), sums = whole.survey(5)
    (other,), other_sums = part.survey(5)
    assert other.voxels.sum() == one.voxels.sum() and sums != other_sums
    np.testing.assert_allclose(other.voxels[1:], one.voxels[1:], rtol=0.05)


@pytest.fixture
def tissue_stack(tmp_path, stack):
    """The bars of `stack` as tissues: an index each instead of a brightness."""
    data = np.load(stack)
    data[:, 0] = data[:, 1]
    np.save(tmp_path / "sub-1_tissues.npy", data)
    return tmp_path / "sub-1_tissues.npy"


def test_slices_of_tissues_are_told_apart_and_never_augmented(stack, tissue_stack):
    both = SliceDataset([stack], augmentation(32), tissues=[tissue_stack])
    assert len(both) == 48
    image, tissues = both[3], both[27]
    assert not image["tissues"] and image["image"].max() <= 1
    assert tissues["tissues"] and tissues["image"].unique().tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(tissues["image"][0].byte(), tissues["labels"])
    assert "tissues" not in SliceDataset([stack])[0]


def test_tissues_have_voxels_but_no_brightness(stack, tissue_stack):
    (one, two), sums = SliceDataset([stack], tissues=[tissue_stack]).survey(5)
    assert set(sums) == {"sub-1", "sub-1_tissues"}
    np.testing.assert_array_equal(one.voxels, two.voxels)
    assert np.isfinite(one.intensity).all() and np.isnan(two.intensity).all()
    assert two.outside == 0
    data = np.load(tissue_stack)
    data[0, 0, 0, 0] = 200
    np.save(tissue_stack, data)
    with pytest.raises(InputError, match="sub-1_tissues.npy: holds tissue 200"):
        SliceDataset([], tissues=[tissue_stack]).survey(5)


@pytest.mark.parametrize("images", [0, 1])
def test_network_trains_on_synthetic_images_alone_or_with_real_ones(
    stack, tissue_stack, tmp_path, protocol, images
):
    chosen, folder = settings(epochs=1), tmp_path / "m"
    real = [stack] * images
    train_view("coronal", protocol, real, [stack], chosen, folder, tissues=[tissue_stack])
    history = pd.read_csv(folder / "history.tsv", sep="\t")
    assert np.isfinite(history["train_loss"]).all() and np.isfinite(history["val_dice"]).all()
    described = json.loads((folder / "model.json").read_text())
    assert described["training_scans"] == ["sub-1"] * images + ["sub-1_tissues"]
