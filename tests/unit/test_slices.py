"""Slices: which axis, which way round, which classes."""

import json

import numpy as np
import pytest

from quicknat.errors import InputError
from quicknat.images.slices import VIEWS, open_stack, to_slices, view_stack, write_stacks


def test_each_view_cuts_its_own_ras_axis():
    volume = np.zeros((4, 5, 6))
    shapes = {view: to_slices(volume, view).shape for view in VIEWS}
    assert shapes == {"sagittal": (4, 5, 6), "coronal": (5, 4, 6), "axial": (6, 4, 5)}


def test_labelled_voxels_beyond_the_window_are_counted_and_warned_of(protocol, tmp_path, caplog):
    labels = np.zeros((48, 48, 48), np.uint8)
    labels[10:40, 20, 20] = 3
    write_stacks(labels, labels, (0, 0, 0), 32, protocol, tmp_path, "sub-1")
    assert json.loads((tmp_path / "sub-1.json").read_text())["labelled_voxels_outside"] == 8
    assert "sub-1: 8 labelled voxels lie outside the slices" in caplog.text


@pytest.mark.parametrize("view", VIEWS)
def test_slices_without_structures_are_dropped_and_the_rest_recorded(protocol, view):
    labels = np.zeros((32, 32, 32), np.uint8)
    labels[8:20, 8:20, 8:20] = 3
    image = np.arange(32**3, dtype=np.uint32).astype(np.uint8).reshape(labels.shape)
    stack, kept = view_stack(image, labels, view, protocol)
    assert kept == list(range(8, 20))
    assert stack.shape == (12, 2, 32, 32) and stack.dtype == np.uint8
    np.testing.assert_array_equal(stack[:, 0], to_slices(image, view)[8:20])


def test_slices_of_small_structures_are_kept_from_a_tenth_of_the_fullest_on(protocol):
    labels = np.zeros((96, 96, 96), np.uint8)
    labels[40:48, 44, 40:48] = 3  # 0.7 % of a slice
    labels[40:42, 46, 40:43] = 3  # less than a tenth of that
    labels[40:48, 45, 40] = 3
    _, kept = view_stack(labels, labels, "coronal", protocol)
    assert kept == [44, 45]
    assert view_stack(labels[:, :40], labels[:, :40], "coronal", protocol)[1] == []


def test_sagittal_stack_holds_merged_classes(protocol):
    left, right = protocol.names.index("Left caudate"), protocol.names.index("Right caudate")
    labels = np.full((16, 16, 16), left, np.uint8)
    labels[8:] = right
    coronal, _ = view_stack(labels, labels, "coronal", protocol)
    sagittal, _ = view_stack(labels, labels, "sagittal", protocol)
    assert set(np.unique(coronal[:, 1])) == {left, right}
    assert set(np.unique(sagittal[:, 1])) == {protocol.sagittal[left]}


STACKS = {
    "float": np.zeros((2, 2, 16, 16)),
    "odd": np.zeros((2, 2, 20, 16), np.uint8),
    "flat": np.zeros((16, 16), np.uint8),
    "pickle": np.array([{}], dtype=object),
}


@pytest.mark.parametrize("fault", [*STACKS, "gone", "cut"])
def test_damaged_or_foreign_stack_is_refused(tmp_path, fault):
    path = tmp_path / f"{fault}.npy"
    if fault != "gone":
        np.save(path, STACKS.get(fault, STACKS["flat"]), allow_pickle=True)
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=f"{fault}.npy: "):
        open_stack(path)
