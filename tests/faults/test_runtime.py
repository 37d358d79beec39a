"""What happens when the machine fails or something hostile comes in (cases 43 to 60)."""

import io
import json
import os
import resource
import signal
import tarfile
from contextlib import contextmanager
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helpers import tiny_scan, training_arguments
from in_process import quicknat
from quicknat.errors import InputError, explained
from quicknat.files import written_whole
from quicknat.images import conform
from quicknat.images.slices import VIEWS
from quicknat.model import bundle
from quicknat.model.network import NetworkSettings, QuickNAT
from quicknat.segmentation.inference import predict
from quicknat.training.checkpoint import load_state, save_state
from quicknat.training.train_step import TrainStep


@pytest.fixture
def train(stack, tmp_path):
    """`quicknat train` for an epoch, on one small stack; if it fails, there is no model."""

    def run():
        done = quicknat("-q", *training_arguments(tmp_path, [stack], tmp_path / "model"))
        assert done.status == 0 or not list((tmp_path / "model").glob("model.*"))
        return done

    return run


@pytest.mark.case(43)
@pytest.mark.parametrize("part", ["weights", "record"])
def test_state_survives_a_kill_while_the_next_one_is_written(tmp_path, monkeypatch, part):
    save_state(tmp_path, "1", {}, {"number": 1})
    child = os.fork()
    if child == 0:  # dies with half of a file written

        def half(content, path):
            path.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

        if part == "weights":
            monkeypatch.setattr(torch, "save", half)
        else:
            monkeypatch.setattr(
                type(tmp_path), "write_text", lambda path, text, _: half(text, path)
            )
        save_state(tmp_path, "2", {}, {"number": 2})
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert load_state(tmp_path, {}) == {"number": 1}
    save_state(tmp_path, "2", {}, {"number": 2})
    assert load_state(tmp_path, {}) == {"number": 2}


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
    assert done.status == 1
    assert "00001-0000003.pt: ignored, because it is damaged" in done.err[0]
    last = done.err[-1]
    assert last.startswith(f"error: {state}: holds 1 saved state(s), all damaged; ")
    assert "delete this folder to start from scratch" in last
    assert len(list(state.iterdir())) == 2


@pytest.mark.case(49)
def test_full_memory_of_a_gpu_stops_training_with_what_to_change(train, tmp_path, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has")

    monkeypatch.setattr(TrainStep, "step", fail)
    train().refused(
        tmp_path / "model", "the GPU's memory is full (CUDA out", "lower the batch size"
    )


@pytest.mark.case(49)
def test_full_memory_stops_a_conversion_with_a_clear_error(convert, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise MemoryError("Unable to allocate 9.31 GiB for an array")

    monkeypatch.setattr(conform, "resample", fail)
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
    for options, convolutions in ((), "winograd"), (("--precision", "fp32"), "plain"):
        done = segmenting(*options)
        assert done.status == 0
        assert ("Winograd" in done.err[0]) == (convolutions == "winograd")
        (made,) = (tmp_path / "out").glob("*/anat/*_dseg.json")
        assert json.loads(made.read_text())["how"]["convolutions"] == convolutions


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


@contextmanager
def full_disk(room):
    """Files cannot grow beyond a number of bytes: writing fails in the midst, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


NOISE = np.random.default_rng(0).integers(0, 255, 60_000).astype(np.uint8)
WRITERS = {
    "bytes": lambda path: path.write_bytes(NOISE.tobytes()),
    "numpy": lambda path: np.save(path, NOISE),
    "torch": lambda path: torch.save(torch.from_numpy(NOISE), path),
    "safetensors": lambda path: save_file({"a": torch.from_numpy(NOISE)}, path),
    "nifti": lambda path: nib.save(nib.Nifti1Image(NOISE.reshape(60, 50, 20), np.eye(4)), path),
}


@pytest.mark.case(51)
@pytest.mark.parametrize("writer", WRITERS)
def test_full_disk_names_the_file_and_leaves_what_was_there_before(tmp_path, writer):
    path = tmp_path / ("a.nii.gz" if writer == "nifti" else "a.npy")
    path.write_text("before")
    with pytest.raises(InputError) as caught, full_disk(9000), written_whole(path) as (temporary,):
        WRITERS[writer](temporary)
    message = str(caught.value)
    assert message.startswith(f"{path}: cannot be written (") and "make room there" in message
    assert "\n" not in message
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


@pytest.mark.case(51)
def test_unpacking_onto_a_full_disk_does_not_blame_the_archive(tmp_path):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        info = tarfile.TarInfo("scan.nii")
        info.size = len(NOISE)
        tar.addfile(info, io.BytesIO(NOISE.tobytes()))
    folder = tmp_path / "out"
    options = ("--member", "scan.nii", "--folder", folder, "--manifest", folder / "list.txt")
    with full_disk(2000):
        done = quicknat("unpack", archive, *options)
    done.refused(folder / "scan.nii", "cannot be written", "make room", folder)


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
