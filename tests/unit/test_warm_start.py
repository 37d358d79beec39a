"""A training starts from the present model where only new scans separate it from that model's."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers import MODEL, changed
from quicknat.config import Network
from quicknat.files import sha256
from quicknat.training.setup import WarmStart, prepare_training
from quicknat.training.train_step import TrainStep
from quicknat.training.trainer import train_view


@pytest.fixture
def present(model, tmp_path):
    """A copy of the model folder, and the stacks: the one it was trained on, and a new one."""
    shutil.copytree(model, tmp_path / "model")
    old, new = tmp_path / "coronal.npy", tmp_path / "new.npy"
    shutil.copy(model.parent / "coronal.npy", old)
    np.save(new, np.load(old)[::-1])
    return tmp_path / "model", [old, new]


def prepared(present, protocol, train=None, settings=MODEL, validation=(), initial=None, epochs=3):
    folder, stacks = present
    start = WarmStart(folder / "coronal.safetensors", epochs)
    chosen = stacks if train is None else train
    output = folder.parent / "out"
    return prepare_training(
        "coronal", protocol, chosen, validation, settings, output, initial, 1, start
    )


def test_new_training_scan_is_trained_on_from_the_present_weights_in_few_epochs(present, protocol):
    weights = present[0] / "coronal.safetensors"
    made = prepared(present, protocol)
    assert made.warm_start == {"sha256": sha256(weights), "stage_epochs": 1}
    assert made.initial == str(weights) and made.settings == changed(MODEL, epochs=3)
    cold = prepare_training("coronal", protocol, present[1], [], MODEL, "out", None, 1)
    assert made.fingerprint != cold.fingerprint  # so that neither resumes from the other's state


def test_new_validation_scan_and_runtime_settings_allow_it(present, protocol):
    old, new = present[1]
    settings = changed(MODEL, compile=True, checkpoint_minutes=3)
    assert prepared(present, protocol, train=[old], validation=[new], settings=settings).warm_start


def described(change):
    """A change of how the model's description describes the coronal view."""

    def apply(folder, stacks):
        whole = json.loads((folder / "bundle.json").read_text())
        change(whole["views"]["coronal"])
        (folder / "bundle.json").write_text(json.dumps(whole))

    return apply


def rename(view):
    view["network"] |= {"squeeze_excitation": "CSSE", "kernel": 5}
    training = view["training"]
    training |= {"dice_over": training.pop("dice_reduction"), "mirror": training.pop("flip")}
    training |= {"step_epochs": training.pop("lr_step_epochs"), "accumulate": 1, "devices": 1}


def start_warm(view):
    view["training"]["epochs"], view["warm_start"] = 3, {"stage_epochs": 1}


@pytest.mark.parametrize("change", [rename, start_warm])
def test_model_of_an_earlier_version_or_of_a_warm_start_allows_it(present, protocol, change):
    described(change)(*present)
    assert prepared(present, protocol).warm_start


def without_model(folder, stacks):
    (folder / "bundle.json").unlink()


def with_other_weights(folder, stacks):
    shutil.copy(folder / "axial.safetensors", folder / "coronal.safetensors")


def with_changed_scan(folder, stacks):
    np.save(stacks[0], np.load(stacks[0])[1:])


def called_with(**options):
    return lambda folder, stacks: options


CHANGES = {  # what the log says, and what is changed: the model, its scans, or the call
    "holds no finished model": without_model,
    "has changed since the model was made": with_other_weights,
    "training scan coronal has changed or was removed": with_changed_scan,
    "its classes differ": described(lambda view: view["classes"].reverse()),
    "'kernel' is 7, but was removed": described(lambda view: view["network"].update(kernel=7)),
    "lacks information about the model": described(lambda view: view.update(data=None)),
    "setting epochs was 1, is 2": called_with(settings=changed(MODEL, epochs=2)),
    "setting learning_rate was 0.001": called_with(settings=changed(MODEL, learning_rate=0.1)),
    "the network has changed": called_with(
        settings=changed(MODEL, network=Network(filters=6, dropout=0.0))
    ),
    "the initial weights": lambda folder, stacks: {"initial": folder / "axial.safetensors"},
    "no scan is new": lambda folder, stacks: {"train": stacks[:1]},
    "training scan coronal has": lambda folder, stacks: {"train": stacks[1:]},
}


@pytest.mark.parametrize("reason", CHANGES)
def test_any_other_change_forbids_it_and_the_log_says_why(present, protocol, caplog, reason):
    options = CHANGES[reason](*present) or {}
    with caplog.at_level("INFO"):
        made = prepared(present, protocol, **options)
    initial = options.get("initial")
    assert made.warm_start is None and made.initial == (str(initial) if initial else None)
    assert made.settings == options.get("settings", MODEL)
    assert "coronal: no warm start, because " in caplog.text and reason in caplog.text


@pytest.mark.slow
def test_interrupted_warm_start_is_resumed(present, protocol, tmp_path, monkeypatch, caplog):
    folder, stacks = present
    start = WarmStart(folder / "coronal.safetensors", 2)
    settings = changed(MODEL, checkpoint_minutes=0)

    def train(name):
        train_view("coronal", protocol, stacks, [], settings, tmp_path / name, None, 1, start)
        return load_file(tmp_path / name / "model.safetensors")

    whole = train("whole")
    step, count = TrainStep.step, iter(range(99))

    def cut_in_the_third(self, *arguments):
        if next(count) == 2:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainStep, "step", cut_in_the_third)
        train("cut")
    with caplog.at_level("INFO"):
        resumed = train("cut")
    assert "resuming in epoch 2 after 0 of its 2 steps" in caplog.text
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
