"""A training that ended too early goes on as if it had not."""

import itertools
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from helpers import brief_training, changed, training_arguments
from in_process import quicknat
from quicknat.config import Network
from quicknat.errors import InputError, Interrupted
from quicknat.training import trainer
from quicknat.training.checkpoint import last_end, load_state, remove_states, save_state
from quicknat.training.train_step import TrainStep
from quicknat.training.trainer import train_view

# dropout and augmentation on: their randomness must survive too
DROPOUT = Network(filters=4, dropout=0.2)
SETTINGS = brief_training(epochs=3, batch_size=2, checkpoint_minutes=0, network=DROPOUT)
OTHERS = signal.SIGUSR1, signal.SIGINT  # that end a training, too
LATE = changed(SETTINGS, checkpoint_minutes=1000)  # so that no state is saved by the clock


class PowerCut(BaseException):
    pass


@pytest.fixture
def stacks(tmp_path):
    random = np.random.default_rng(0)
    for name in ("sub-1", "sub-2"):
        data = random.integers(0, 5, (11, 2, 32, 32)).astype(np.uint8)
        data[:, 0] *= 50
        np.save(tmp_path / f"{name}.npy", data)
    return [tmp_path / "sub-1.npy"], [tmp_path / "sub-2.npy"]


@pytest.fixture
def train(stacks, protocol):
    """Train the coronal network in a folder."""

    def run(folder, settings=SETTINGS, stacks=stacks, **options):
        train_view("coronal", protocol, *stacks, settings, folder, **options)

    return run


@pytest.fixture
def train_until_cut(train, monkeypatch):
    """Train until the power fails after `steps` steps, or in the validation.

    With "stop" a signal comes in the last step instead.
    """

    def run(folder, steps, *rest, **options):
        with monkeypatch.context() as patch, pytest.raises((PowerCut, Interrupted)):
            if steps == "validation":
                patch.setattr(trainer, "validate", cut)
            elif steps == "stop":
                patch.setattr(trainer.Trainer, "_check_finite", request_stop)
            else:
                cut_after(patch, steps, cut)
            train(folder, *rest, **options)
        assert not (folder / "model.safetensors").exists()

    return run


def cut_after(monkeypatch, steps, action):
    """Do something in the middle of training, after a number of steps."""
    count, step = itertools.count(1), TrainStep.step

    def counted(self, *arguments):
        losses = step(self, *arguments)
        if next(count) == steps:
            action(self)
        return losses

    monkeypatch.setattr(TrainStep, "step", counted)


def cut(*_):
    raise PowerCut


def request_stop(trained):
    trained.stop_requested = trained.step == len(trained.batches)


def assert_same_model(one, two):
    weights = [load_file(folder / "model.safetensors") for folder in (one, two)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    timing = ["seconds", "slices_per_second"]
    tables = [pd.read_csv(folder / "history.tsv", sep="\t") for folder in (one, two)]
    pd.testing.assert_frame_equal(*(table.drop(columns=timing) for table in tables))


@pytest.mark.case(45)
@pytest.mark.parametrize(("steps", "epochs"), [(13, 3), ("validation", 1), ("stop", 1)])
def test_weights_after_a_cut_equal_those_of_a_training_without(
    train, train_until_cut, tmp_path, steps, epochs
):
    """In epoch 3, in the last validation, and after the last step."""
    settings = changed(SETTINGS, epochs=epochs)
    train(tmp_path / "whole", settings)
    train_until_cut(tmp_path / "cut", steps, settings)
    train(tmp_path / "cut", settings)
    assert_same_model(tmp_path / "whole", tmp_path / "cut")
    assert not (tmp_path / "cut/state").exists()


@pytest.mark.case(46)
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS)]
)
def test_signal_saves_and_the_next_call_goes_on(stacks, tmp_path, monkeypatch, number):
    settings = {"batch_size": 2, "checkpoint_minutes": 1000}
    command = training_arguments(tmp_path, stacks[0], tmp_path / "m", stacks[1], **settings)
    with monkeypatch.context() as patch:
        cut_after(patch, 3, lambda _: os.kill(os.getpid(), number))
        done = quicknat(*command)
    assert done.status == 75, str(done)
    assert "stopped in epoch 1 after step 3" in str(done) and "same command again" in str(done)
    assert [path.name for path in (tmp_path / "m/state").glob("*.pt")] == ["00001-0000003.pt"]
    done = quicknat(*command)
    assert done.status == 0, str(done)
    why = r"the last attempt ended at [-\d: ]+: .* by a signal"
    assert re.search(f"resuming in epoch 1 after 3 of its 5 steps; {why}", "\n".join(done.err))


def test_finished_epoch_is_never_trained_again(train_until_cut, tmp_path):
    train_until_cut(tmp_path / "m", "validation", LATE)
    train_until_cut(tmp_path / "m", 1)
    record = max((tmp_path / "m/state").glob("*.json"))
    assert record.stem == "00002-0000000"


@pytest.mark.case(44)
def test_state_of_another_training_is_refused_with_what_differs(
    train, train_until_cut, stacks, tmp_path
):
    train_until_cut(tmp_path / "m", 3)

    def refusal(**change):
        with pytest.raises(InputError, match="state of another training") as caught:
            train(tmp_path / "m", **change)
        assert "delete this folder to start from scratch" in str(caught.value)
        return str(caught.value)

    slower = refusal(settings=changed(SETTINGS, learning_rate=0.02))
    assert "setting learning_rate was 0.01, is 0.02" in slower
    smaller = changed(SETTINGS, network=changed(SETTINGS.network, dropout=0.1))
    assert "network dropout was 0.2, is 0.1" in refusal(settings=smaller)
    assert "training scan sub-2 is new" in refusal(stacks=(stacks[0] + stacks[1], stacks[1]))
    assert "validation scan sub-2 is gone" in refusal(stacks=(stacks[0], []))
    np.save(stacks[0][0], np.ones((11, 2, 32, 32), np.uint8))
    assert "training scan sub-1 changed" in refusal()


@pytest.mark.case(57)
def test_weights_that_are_no_numbers_end_the_training_and_never_reach_the_saved_state(
    train, tmp_path, monkeypatch
):
    def poison(train_step):
        with torch.no_grad():
            train_step.network.classifier.weight[0] = torch.nan

    with monkeypatch.context() as patch, pytest.raises(InputError) as caught:
        cut_after(patch, 8, poison)
        train(tmp_path / "m")
    assert "lower the learning rate" in str(caught.value)
    assert f"to start from scratch, delete {tmp_path / 'm/state'}" in str(caught.value)
    assert "the loss is not finite" in last_end(tmp_path / "m/state")
    files = sorted((tmp_path / "m/state").glob("*.pt"))
    assert files[-1].stem == "00002-0000002"  # the last step before the poison
    for file in files:
        weights = torch.load(file, weights_only=True)["train_step"]["model"].values()
        assert all(value.isfinite().all() for value in weights)
    assert not (tmp_path / "m/model.safetensors").exists()


def test_patience_ends_a_training_that_gets_no_better(train, tmp_path):
    still = changed(SETTINGS, epochs=9, learning_rate=1e-12, optimizer="sgd", patience=2)
    train(tmp_path / "m", still)
    history = pd.read_csv(tmp_path / "m/history.tsv", sep="\t")
    best = history["val_dice"].idxmax() + 1
    assert len(history) == best + 2 < 9


@pytest.mark.case(43, 44)
def test_damaged_state_gives_way_to_the_one_before_it(tmp_path, caplog):
    for number in (1, 2, 3):
        save_state(tmp_path, f"{number}", {"a": {"b": 1}}, {"number": number})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.json", "2.pt", "3.json", "3.pt"]
    assert load_state(tmp_path, {"a": {"b": 1}}) == {"number": 3}
    (tmp_path / "3.pt").write_bytes((tmp_path / "3.pt").read_bytes()[:-7])
    (tmp_path / ".tmp-4.pt").write_bytes(b"half")
    assert load_state(tmp_path, {"a": {"b": 1}}) == {"number": 2}
    assert "3.pt: ignored, because it is damaged (its checksum is wrong)" in caplog.text
    assert not (tmp_path / ".tmp-4.pt").exists()


@pytest.mark.case(43)
@pytest.mark.parametrize(("removed", "found"), [(0, 2), (1, 2), (2, None)])
def test_states_of_a_finished_training_are_never_in_the_way_after_a_kill_while_they_are_removed(
    tmp_path, monkeypatch, removed, found
):
    for number in (1, 2):
        save_state(tmp_path, f"{number}", {}, {"number": number})
    removals = iter([Path.unlink] * removed)
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(Path, "unlink", lambda path: next(removals, cut)(path))
        patch.setattr(shutil, "rmtree", cut)
        remove_states(tmp_path)
    assert load_state(tmp_path, {}) == (found and {"number": found})


@pytest.mark.case(43, 45)
@pytest.mark.slow
def test_killed_command_run_again_gives_the_weights_of_one_that_was_not(stacks, tmp_path):
    def start(folder):
        command = training_arguments(
            tmp_path, stacks[0], folder, stacks[1], epochs=4, batch_size=1, checkpoint_minutes=0,
            network=Network(filters=8),
        )  # fmt: skip
        command = [sys.executable, "-m", "quicknat", *command]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def end(process):
        message = process.communicate()[1]
        assert process.returncode == 0, message
        return message

    whole, broken = start(tmp_path / "whole"), start(tmp_path / "broken")
    deadline = time.monotonic() + 280
    while not list((tmp_path / "broken/state").glob("00002-000000[3-9].json")):
        assert time.monotonic() < deadline and broken.poll() is None, broken.stderr.read()
        time.sleep(0.005)
    broken.kill()
    broken.communicate()
    assert not (tmp_path / "broken/model.safetensors").exists()
    end(whole)
    said = end(start(tmp_path / "broken"))
    assert "resuming in epoch" in said and "the last attempt left no reason, as if killed" in said
    assert_same_model(tmp_path / "whole", tmp_path / "broken")


def test_state_of_an_earlier_version_is_resumed_unless_it_has_what_is_gone(
    train, train_until_cut, tmp_path, caplog
):
    train_until_cut(tmp_path / "m", 3)
    (record, _) = sorted((tmp_path / "m/state").glob("*.json"), reverse=True)
    described = json.loads(record.read_text())
    described["fingerprint"]["network"] |= {"squeeze_excitation": "CSSE", "kernel": 5}
    setting = described["fingerprint"]["setting"]
    setting |= {"dice_over": setting.pop("dice_reduction"), "accumulate": 2, "devices": 1}
    setting |= {"max_minutes": None}  # which states of earlier versions have
    record.write_text(json.dumps(described))
    with pytest.raises(InputError, match="'setting.accumulate' is 2, but was removed; remove it"):
        train(tmp_path / "m")
    setting["accumulate"] = 1
    record.write_text(json.dumps(described))
    with caplog.at_level(logging.INFO):
        train(tmp_path / "m")
    assert "resuming in epoch 1 after 2 of its 5 steps" in caplog.text
