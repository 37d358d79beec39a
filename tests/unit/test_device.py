"""Segmentation on a GPU, rehearsed without one: tensors that say they are on another device."""

import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from fake_device import FakeDevice, moved_to
from quicknat.images.conform import conform
from quicknat.images.volumes import Grid
from quicknat.model.bundle import load_bundle
from quicknat.segmentation import batch
from quicknat.segmentation.batch import segment_all
from quicknat.segmentation.inference import device_of, segment
from quicknat.segmentation.tasks import Task, find_scans

GRIDS = {
    "finer": lambda grid: Grid((80, 100, 90), grid.affine @ np.diag([0.6, 0.5, 0.6, 1])),
    "coarser": lambda grid: Grid((30, 25, 40), grid.affine @ np.diag([2, 2, 1.5, 1])),
}


@pytest.mark.parametrize("kind", GRIDS)
def test_labels_are_those_of_the_cpu_and_no_slice_is_waited_for(model, head, kind):
    image, grid, _ = conform(head, 4.0, 64)
    native = GRIDS[kind](grid)
    bundle = replace(load_bundle(model), flip=True, shift=kind == "finer")
    on_cpu = segment(bundle, image, grid.affine, native, 4, views=True)
    with FakeDevice() as fake:
        for network in bundle.networks.values():
            moved_to(network)
        fake.waits.clear()
        there = segment(bundle, image, grid.affine, native, 4, views=True)
    assert np.count_nonzero(on_cpu.labels) > 500
    np.testing.assert_array_equal(there.labels, on_cpu.labels)
    np.testing.assert_array_equal(there.entropy, on_cpu.entropy)
    np.testing.assert_equal(there.uncertainty, on_cpu.uncertainty)
    np.testing.assert_equal(there.views, on_cpu.views)
    assert fake.waits.total() < 35, fake.waits  # by view and map, not by slice


@pytest.mark.case(49)
@pytest.mark.parametrize(("largest", "on"), [(5_000_000, "fake"), (50_000, "cpu")])
def test_scan_is_segmented_although_the_memory_of_the_gpu_is_full(model, head, caplog, largest, on):
    bundle = load_bundle(model)
    image, grid, _ = conform(head, 4.0, 64)
    expected = segment(bundle, image, grid.affine, Grid((80,) * 3, grid.affine)).labels
    with FakeDevice() as fake:
        for network in bundle.networks.values():
            moved_to(network)
        fake.largest = largest
        found = segment(bundle, image, grid.affine, Grid((80,) * 3, grid.affine)).labels
    np.testing.assert_array_equal(found, expected)
    assert "the fake device is full; using the CPU" in caplog.text
    assert device_of(bundle).type == on


def work_in_background(monkeypatch):
    """Have scans read and written in the background, as beside a GPU."""
    monkeypatch.setattr(batch, "device_of", lambda bundle: torch.device("cuda"))


def test_scans_read_and_written_meanwhile_have_the_results_of_those_in_turn(
    model, head_file, tmp_path, monkeypatch
):
    files = [tmp_path / f"sub-{number}.nii.gz" for number in range(3)]
    for path in files:
        path.write_bytes(head_file.read_bytes())
    files[1].write_bytes(head_file.read_bytes()[:5000])
    bundle, tasks = load_bundle(model), find_scans(files)
    in_turn = segment_all(bundle, tasks, tmp_path / "in_turn")
    work_in_background(monkeypatch)
    meanwhile = segment_all(bundle, tasks, tmp_path / "meanwhile")
    assert [outcome.status for outcome in meanwhile] == ["done", "failed", "done"]
    for one, other in zip(in_turn, meanwhile, strict=True):
        assert replace(one, seconds=0) == replace(other, seconds=0)
    for end in ("dseg.nii.gz", "uncertainty.nii.gz", "volumes.tsv"):
        name = f"sub-2/anat/sub-2_desc-quicknat_{end}"
        one, other = (tmp_path / way / name for way in ("in_turn", "meanwhile"))
        assert one.read_bytes() == other.read_bytes()


def test_full_memory_of_a_warm_up_is_free_for_the_scans_of_its_thread(
    model, head_file, tmp_path, monkeypatch
):
    """Since an error that somebody keeps holds what all layers have computed."""
    threads, errors = set(), []

    def full(bundle, size):
        threads.add(threading.get_ident())
        error = torch.OutOfMemoryError("CUDA out of memory. Tried to")
        errors.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    def segmented(*arguments):
        threads.add(threading.get_ident())
        assert errors[0]() is None
        return segment_scan(*arguments)

    work_in_background(monkeypatch)
    segment_scan = batch.segment_scan
    monkeypatch.setattr(batch, "warm_up", full)
    monkeypatch.setattr(batch, "segment_scan", segmented)
    tasks = [Task(head_file, f"sub-{number}") for number in range(2)]
    outcomes = segment_all(load_bundle(model), tasks, tmp_path / "out")
    assert [outcome.status for outcome in outcomes] == ["done", "done"] and len(threads) == 1


def test_interruption_ends_the_command_and_begins_no_other_scan(
    model, head_file, tmp_path, monkeypatch
):
    begun = []

    def interrupted(bundle, scan, options, progress):
        begun.append(scan)
        raise KeyboardInterrupt

    work_in_background(monkeypatch)
    monkeypatch.setattr(batch, "segment_scan", interrupted)
    tasks = [Task(head_file, f"sub-{number}") for number in range(50)]
    with pytest.raises(KeyboardInterrupt):
        segment_all(load_bundle(model), tasks, tmp_path / "out")
    assert len(begun) < 25 and not list(tmp_path.glob("out/sub-*"))
