"""What a training runs on is chosen to fit the machine and the job."""

import json
import logging
import os
import socket
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch._inductor.config

from quicknat.model.network import NetworkSettings
from quicknat.training.devices import choose_precision, make_fabric, own_port, share_threads
from quicknat.training.launch import train_view
from quicknat.training.optimizers import TrainingSettings

SETTINGS = TrainingSettings(
    epochs=4,
    learning_rate=0.01,
    optimizer="adamw",
    batch_size=4,
    compile=False,
    precision="32-true",
    network=NetworkSettings(filters=4, squeeze_excitation="CSSE", dropout=0.0),
)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"avx512_bf16": True}, "bf16-mixed"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16-mixed"),
        ({"avx512_f": True}, "32-true"),
    ],
)
def test_auto_precision_is_bf16_only_where_the_processor_computes_in_it(
    monkeypatch, features, expected
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert choose_precision("auto") == expected
    assert choose_precision("32-true") == "32-true"


def test_auto_precision_asks_the_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for native, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda native=native, **_: native)
        assert choose_precision("auto") == expected


def test_threads_of_torch_and_loader_add_up_to_the_jobs(monkeypatch):
    before = torch.get_num_threads()
    try:
        for cuda, threads, changes, expected in [
            (False, 4, {}, (4, 0)),
            (False, 4, {"workers": 1}, (3, 1)),
            (False, 4, {"devices": 2}, (2, 0)),
            (True, 8, {}, (1, 7)),
            (True, 32, {"devices": 2}, (8, 8)),
            (True, 1, {}, (1, 0)),
        ]:
            monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
            workers = share_threads(threads, replace(SETTINGS, **changes))
            assert (torch.get_num_threads(), workers) == expected
    finally:
        torch.set_num_threads(before)


def test_slurm_does_not_decide_how_many_processes_train(monkeypatch):
    for key, value in {"NTASKS": "1", "JOB_NAME": "x", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert make_fabric("axial", replace(SETTINGS, devices=2)).world_size == 2


def test_trainings_that_start_together_meet_at_ports_of_their_own(monkeypatch):
    ports, sockets = [], []
    for number in (4000, 4001, 4000 + 11_000):  # the last would get the first one's
        monkeypatch.setattr(os, "getpid", lambda number=number: number)
        ports.append(own_port())
        sockets.append(socket.socket())
        sockets[-1].bind(("", ports[-1]))
    for taken in sockets:
        taken.close()
    assert len(set(ports)) == 3 and all(10_000 <= port < 32_768 for port in ports)


@pytest.mark.long
def test_without_a_compiler_training_goes_on_with_one_warning(
    stack, tmp_path, protocol, monkeypatch, caplog
):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch.compiler.reset()
    none = torch._inductor.config.patch({"cpp.cxx": ("/no/such/compiler",)})
    with none, caplog.at_level(logging.WARNING):
        train_view(
            "coronal", protocol, [stack], [], replace(SETTINGS, epochs=1, compile=True),
            tmp_path / "m",
        )  # fmt: skip
    (warning,) = [record for record in caplog.records if record.name.startswith("quicknat")]
    assert "cannot be compiled here" in warning.message and "compile: false" in warning.message
    described = json.loads((tmp_path / "m/model.json").read_text())
    assert described["compiled"] is False and described["precision"] == "32-true"


@pytest.mark.long
def test_compiled_training_follows_the_same_curve(stack, tmp_path, protocol):
    curves = []
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        chosen = replace(SETTINGS, compile=compiled)
        train_view("coronal", protocol, [stack], [stack], chosen, folder)
        assert json.loads((folder / "model.json").read_text())["compiled"] is compiled
        curves.append(pd.read_csv(folder / "history.tsv", sep="\t")["train_loss"])
    np.testing.assert_allclose(*curves, rtol=5e-3)  # another order of the same sums


@pytest.mark.long
def test_two_processes_follow_the_curve_of_one_with_the_doubled_batch(stack, tmp_path, protocol):
    """Within 2 % of training loss; batch norm takes its statistics in each process by itself."""
    losses = {}
    for devices, batch_size in ((1, 4), (2, 2), (1, 2)):
        chosen = replace(SETTINGS, devices=devices, batch_size=batch_size)
        folder = tmp_path / f"{devices}x{batch_size}"
        train_view("coronal", protocol, [stack], [stack], chosen, folder, threads=2)
        table = pd.read_csv(folder / "history.tsv", sep="\t")
        losses[devices, batch_size] = table[["train_loss", "val_loss"]].to_numpy()
    np.testing.assert_allclose(losses[2, 2][:, 0], losses[1, 4][:, 0], rtol=0.02)
    np.testing.assert_allclose(losses[2, 2][:, 1], losses[1, 4][:, 1], rtol=0.05)
    # and not that of the batch that each process sees
    assert np.all(losses[1, 2][1:] < 0.9 * losses[2, 2][1:])
