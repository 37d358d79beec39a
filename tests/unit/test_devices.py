"""What a training runs on is chosen to fit the machine and the job."""

import json
import logging
import os
import tempfile
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch._inductor.config

from helpers import brief_training
from quicknat import hardware
from quicknat.images.slices import VIEWS
from quicknat.training.train_step import choose_device, choose_precision
from quicknat.training.trainer import train_view


def test_auto_precision_is_bf16_only_where_the_hardware_computes_in_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for features, expected in (
        ({"avx512_bf16": True}, "bf16-mixed"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16-mixed"),
        ({"avx512_f": True}, "32-true"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda features=features: features)
        assert choose_precision("auto") == expected
        assert choose_precision("32-true") == "32-true"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for native, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda native=native, **_: native)
        assert choose_precision("auto") == expected


def test_views_take_a_gpu_each_where_there_are_several(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    for count, indices in ((1, [0, 0, 0]), (2, [0, 1, 0]), (4, [0, 1, 2])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert [choose_device(view).index for view in VIEWS] == indices
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("axial") == torch.device("cpu")


@pytest.mark.long
def test_without_a_compiler_training_goes_on_with_one_warning(
    stack, tmp_path, protocol, monkeypatch, caplog
):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch.compiler.reset()
    none = torch._inductor.config.patch({"cpp.cxx": ("/no/such/compiler",)})
    with none, caplog.at_level(logging.WARNING):
        chosen = brief_training(compile=True)
        train_view("coronal", protocol, [stack], [], chosen, tmp_path / "m")
    (warning,) = [record for record in caplog.records if record.name.endswith("train_step")]
    assert "cannot be compiled here" in warning.message and "compile: false" in warning.message
    described = json.loads((tmp_path / "m/model.json").read_text())
    assert described["compiled"] is False and described["precision"] == "32-true"


@pytest.mark.long
def test_compiled_training_follows_the_same_curve(stack, tmp_path, protocol):
    curves = []
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        chosen = brief_training(epochs=4, compile=compiled)
        train_view("coronal", protocol, [stack], [stack], chosen, folder)
        assert json.loads((folder / "model.json").read_text())["compiled"] is compiled
        curves.append(pd.read_csv(folder / "history.tsv", sep="\t")["train_loss"])
    np.testing.assert_allclose(*curves, rtol=5e-3)  # another order of the same sums


def test_processes_take_a_gpu_each_while_there_are_any(monkeypatch, tmp_path):
    chosen = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(hardware, "CLAIMS", [])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    names = {0: SimpleNamespace(uuid="GPU-a"), 1: SimpleNamespace(uuid="GPU-b")}
    monkeypatch.setattr(torch.cuda, "get_device_properties", names.get)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for _ in range(3):
        hardware.claim_gpu()
    assert chosen == [0, 1, os.getpid() % 2]
