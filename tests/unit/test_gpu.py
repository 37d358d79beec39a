"""Training on a GPU, and what can go wrong there, rehearsed without one."""

from collections import Counter
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from fake_device import DEVICE, FakeDevice, Generator, drawn_on_the_cpu, moved_to
from helpers import brief_training
from quicknat.config import Network
from quicknat.errors import explained
from quicknat.training import train_step
from quicknat.training.data import Batches, SliceSet
from quicknat.training.setup import prepare_training
from quicknat.training.train_step import TrainStep, validate

BRAINS = np.array([[[8, 8], [24, 20]]] * 2)  # smaller than the slices, so that these are cut
# batches of real slices, of both kinds, and of slices of tissues, of 24 each
CHOSEN = np.array([[0, 1, 2, 3], [2, 9, 30, 40], [24, 25, 26, 27]])


@pytest.fixture
def gpu(monkeypatch):
    """Have trainings run on the fake device."""
    for name in ("rand", "randn"):
        monkeypatch.setattr(torch, name, drawn_on_the_cpu(getattr(torch, name)))
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch.nn.Module, "to", moved_to)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(train_step, "choose_device", lambda view: DEVICE)


@pytest.fixture
def setup(stack, tmp_path, protocol):
    """A training on real slices and on slices of tissues."""
    both = np.load(stack)
    both[:, 0] = both[:, 1]
    np.save(tmp_path / "tissues.npy", both)
    # dropout would draw on the device itself
    settings = brief_training(flip=True, network=Network(filters=4, dropout=0, slices=3))
    stacks = [stack], [stack], settings, tmp_path, None, 1, None, [tmp_path / "tissues.npy"]
    return prepare_training("coronal", protocol, *stacks)


def trained(setup, device, waits):
    """Train on a batch of each kind and shape, and validate; return weights, losses, scores."""
    step = TrainStep(setup)
    slices = SliceSet(setup.train, setup.tissues, count=3)
    slices.load(device)
    batches = Batches(slices, setup.settings, setup.swapped, device, BRAINS)
    waits.clear()
    for number, chosen in enumerate(CHOSEN):
        for position in ((number, 4), (number, 3 - number)):  # cut, and whole
            losses = step.step(*batches.batch(chosen, position), position, 0.01)
    assert not waits, waits
    found = [*step.network.state_dict().values(), losses]
    scores = validate(step, SliceSet(setup.validation, count=3), len(setup.classes))
    return [value.cpu() for value in found], scores, slices.resident is not None


@pytest.mark.parametrize("free", [300_000, 500_000])  # bytes; slices take 98,304
def test_training_is_that_of_the_cpu_and_no_step_is_waited_for(setup, gpu, free, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    with FakeDevice() as fake:
        there, scores, resident = trained(setup, DEVICE, fake.waits)
    monkeypatch.undo()
    here, expected, _ = trained(setup, torch.device("cpu"), Counter())
    for one, other in zip(there, here, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    np.testing.assert_equal(scores, expected)
    assert resident == (free == 500_000)


@pytest.mark.parametrize("fused", [False, True])
def test_optimizer_stays_fused_or_not_with_the_state_of_another_device(setup, fused):
    steps = []
    for how in (fused, not fused):  # a GPU's is fused
        step = TrainStep(setup)
        step.optimizer = torch.optim.AdamW(step.network.parameters(), 0.01, fused=how)
        step.step(torch.rand(2, 3, 32, 32), torch.ones(2, 32, 32, dtype=torch.uint8), (1, 0), 0.01)
        steps.append(step)
    steps[0].load_state_dict(steps[1].state_dict())
    assert steps[0].optimizer.param_groups[0]["fused"] is fused


def test_full_memory_while_compiling_is_not_blamed_on_the_compiler(setup, monkeypatch, caplog):
    step = TrainStep(setup)
    monkeypatch.setattr(train_step, "keep_compiled_code", lambda: None)
    monkeypatch.setattr(step, "forward", Mock(side_effect=torch.OutOfMemoryError("CUDA out of")))
    assert not step.compile([(None, None)])
    assert "lower the batch size" in caplog.text and "g++" not in caplog.text


@pytest.mark.parametrize(
    ("reason", "fix"),
    [
        ("no kernel image is available for execution on the device\nSearch", "build of torch"),
        ("out of memory\nSearch for", "lower the batch size"),  # of the context, not of a tensor
    ],
)
def test_error_of_a_gpu_says_what_to_do(reason, fix):
    assert fix in explained(RuntimeError(f"CUDA error: {reason}"), "x").fix
