"""What happens when the machine fails or something hostile comes in (cases 43 to 60)."""

import json
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch

from helpers import tiny_scan, training_arguments
from in_process import quicknat
from quicknat.errors import explained
from quicknat.images import conform
from quicknat.images.slices import VIEWS
from quicknat.model import bundle
from quicknat.model.network import NetworkSettings, QuickNAT
from quicknat.segmentation.inference import predict
from quicknat.training.train_step import TrainStep


@pytest.fixture
def train(stack, tmp_path):
    """`quicknat train` for an epoch, on one small stack; if it fails, there is no model."""

    def run():
        done = quicknat("-q", *training_arguments(tmp_path, [stack], tmp_path / "model"))
        assert done.status == 0 or not list((tmp_path / "model").glob("model.*"))
        return done

    return run


@pytest.mark.case(44)
@pytest.mark.parametrize("record", ["", "[]", '{"sha256": 0}', '{"sha256": "x", "fingerprint": 1}'])
def test_training_whose_states_are_all_damaged_is_refused_and_not_started_anew(
    train, tmp_path, record
):
    state = tmp_path / "model/state"
    state.mkdir(parents=True)
    (state / "00001-0000003.json").write_text(record)
    (state / "00001-0000003.pt").write_bytes(b"truncated")
    done = train()
    assert "00001-0000003.pt: ignored, because it is damaged" in done.err[-2]
    assert done.err[-1].startswith(f"error: {state}: holds 1 saved state(s), all damaged; ")
    assert done.status == 1 and "delete this folder to start from scratch" in done.err[-1]
    assert len(list(state.iterdir())) == 2


@pytest.mark.case(49)
def test_full_memory_of_a_gpu_stops_training_with_what_to_change(train, tmp_path, monkeypatch):
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has")
    monkeypatch.setattr(TrainStep, "step", mock.Mock(side_effect=full))
    done = train()
    assert done.status == 1 and done.err[-1].startswith(f"error: {tmp_path / 'model'}: the GPU's")
    assert "memory is full (CUDA out" in done.err[-1] and "lower the batch size" in done.err[-1]


@pytest.mark.case(49)
def test_full_memory_stops_a_conversion_with_a_clear_error(convert, tmp_path, monkeypatch):
    full = MemoryError("Unable to allocate 9.31 GiB for an array")
    monkeypatch.setattr(conform, "resample", mock.Mock(side_effect=full))
    done = convert(tiny_scan(tmp_path / "scan.nii.gz"))
    done.refused("memory", "Unable to allocate 9.31 GiB", "a machine with more", tmp_path / "out")


def test_error_of_another_kind_is_not_explained_away():
    assert explained(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "x") is None
    assert explained(KeyError("shm"), "x") is None


@pytest.fixture
def segmenting(stand_in, monkeypatch, tmp_path):
    """`quicknat segment` with a stand-in model."""
    model = stand_in(lambda x: (x > 0.3).long())
    monkeypatch.setattr(bundle, "load_bundle", lambda folder, device, bf16: model)
    path = tiny_scan(tmp_path / "scan.nii.gz", 48)
    return lambda *options: quicknat(
        "segment", path, "--model", "./stand-in", "--output", tmp_path / "out", "--threads", 1,
        *options,
    )  # fmt: skip


@pytest.fixture
def busy_gpu(monkeypatch):
    """A GPU that another process has for itself."""
    zeros = torch.zeros

    def fail(*arguments, device=None, **options):
        if device == "cuda":
            raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nX")
        return zeros(*arguments, device=device, **options)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", fail)


@pytest.mark.case(50)
def test_without_a_gpu_the_processor_is_used_and_named(segmenting, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = segmenting()
    assert done.status == 0 and "on CPU in " in done.err[0]


def test_winograd_is_for_processors_without_bf16_and_named(segmenting, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    for options, convolutions in ((), "winograd"), (("--precision", "fp32"), "plain"):
        done = segmenting(*options)
        assert done.status == 0
        assert ("Winograd" in done.err[0]) == (convolutions == "winograd")
        (made,) = (tmp_path / "out").glob("*/anat/*_dseg.json")
        assert json.loads(made.read_text())["how"]["convolutions"] == convolutions
        assert torch.backends.cudnn.allow_tf32 == (convolutions == "winograd")  # on a GPU


@pytest.mark.case(50)
def test_busy_gpu_gives_way_to_the_processor_with_a_warning(segmenting, busy_gpu):
    done = segmenting("--precision", "fp32")
    assert done.status == 0
    assert "devices are busy or unavailable); using the CPU" in done.err[0]
    assert "on CPU in fp32" in done.err[1]


@pytest.mark.case(50)
def test_gpu_that_was_asked_for_is_not_replaced(segmenting, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = segmenting("--device", "cuda")
    done.refused("--device cuda", "no GPU to use here", "--device cpu", tmp_path / "out")


@pytest.mark.case(51)
def test_folder_that_may_not_be_written_to_is_refused(unprivileged):
    scan, folder = tiny_scan(unprivileged / "scan.nii.gz"), unprivileged / "out"
    folder.mkdir(mode=0o555)
    for output in (folder / "sub-1_T1w.nii.gz", folder / "new/sub-1_T1w.nii.gz"):
        done = quicknat("-q", "convert", scan, "--output", output, "--spacing", 2, "--size", 16)
        done.refused(output, "cannot be written (Permission denied)", "another folder", folder)


def untrained(n_classes, slices):
    """A network with random weights and many classes."""
    network = QuickNAT(n_classes, NetworkSettings(4, "scse", 0.0)).train()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1  # one pass sets its statistics, so that features vary around zero
    with torch.no_grad():
        network(torch.from_numpy(slices[:, None].astype(np.float32) / 255))
        torch.nn.init.normal_(network.classifier.weight)
        torch.nn.init.zeros_(network.classifier.bias)
    return network.eval()


@pytest.mark.slow  # two threads for tiny slices take seconds on a busy machine
@pytest.mark.case(60)
def test_one_thread_and_two_give_the_same_labels(stand_in, head, protocol):
    torch.manual_seed(0)
    model = stand_in(None)
    window = conform.conform(head, model.spacing_mm, model.conform_size)[0]
    networks = {view: untrained(protocol.n_classes(view), window) for view in VIEWS}
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(predict(replace(model, networks=networks), window).probabilities)
    finally:
        torch.set_num_threads(before)
    # sums in another order: where a pooling has two nearly equal values, it may take the other
    assert ((found[0] - found[1]).abs() < 1e-3).float().mean() > 0.9999
    one, two = (part.argmax(dim=0) for part in found)
    assert len(one.unique()) > 4 and (one == two).float().mean() > 0.9999
