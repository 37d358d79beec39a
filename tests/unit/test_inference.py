"""From probabilities back to the native grid, and what is written there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import made_up_head
from quicknat.images import training_stats
from quicknat.images.conform import conform, record_grid
from quicknat.images.resampling import resample
from quicknat.images.slices import AXIS
from quicknat.images.volumes import Grid, Volume
from quicknat.model.bundle import Bundle, load_bundle
from quicknat.model.network import NetworkSettings
from quicknat.model.views import AXES, BRIGHT, aggregate, slice_probabilities, with_neighbours
from quicknat.segmentation import inference
from quicknat.segmentation.inference import predict, segment


class StandIn(torch.nn.Module):
    """Stand-in for a network: says class `k` of every pixel, or of those that are bright alone."""

    settings = NetworkSettings()

    def __init__(self, n_classes, k, everywhere=False):
        super().__init__()
        self.n_classes, self.k, self.everywhere = n_classes, k, everywhere
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        brightness = torch.ones_like(x[:, 0]) if self.everywhere else x[:, 0]
        logits = torch.zeros(len(x), self.n_classes, *x.shape[2:])
        logits[:, self.k], logits[:, 0] = 60 * (brightness - 0.5), -60 * (brightness - 0.5)
        return logits


@pytest.fixture
def stand_in(protocol):
    """A model whose networks look for one structure."""

    def make(structure, everywhere=False, size=32, **how):
        k = protocol.names.index(structure)
        networks = {view: StandIn(28, k, everywhere) for view in ("coronal", "axial")}
        networks["sagittal"] = StandIn(16, int(protocol.sagittal[k]), everywhere)
        weights = {"coronal": 0.4, "axial": 0.4, "sagittal": 0.2}
        return Bundle(networks, weights, protocol, 2.0, size, size, "x", {}, **how)

    return make


def test_views_are_weighted_and_sagittal_classes_count_for_both_sides(stand_in, protocol):
    left, right = (protocol.names.index(f"{side} putamen") for side in ("Left", "Right"))
    bundle = stand_in("Left putamen", everywhere=True)
    bundle.networks["axial"] = StandIn(28, 3, everywhere=True)
    prediction = predict(bundle, np.full((32, 32, 32), 200, np.uint8))
    total = prediction.probabilities
    assert total.shape == (28, 32, 32, 32) and prediction.start == (0, 0, 0)
    assert {view: int(own.unique()) for view, own in prediction.views.items()} == {
        "coronal": left, "axial": 3, "sagittal": int(protocol.sagittal[left]),
    }  # fmt: skip
    found = {index: total[index, 5, 6, 7].item() for index in (left, right, 3, 0)}
    assert found == pytest.approx({left: 0.6, right: 0.2, 3: 0.4, 0: 0.0}, abs=1e-5)


def test_only_the_box_that_shows_something_is_computed_and_the_rest_is_background(
    stand_in, protocol
):
    k = protocol.names.index("Brain stem")
    image = np.zeros((32, 32, 32), np.uint8)
    image[4:20, 6:26, 10:30] = 200
    image[11] = 0  # a sagittal slice without anything, in the midst
    prediction = predict(stand_in("Brain stem", everywhere=True), image, batch=3)
    total = prediction.probabilities
    assert total.shape == (28, 16, 20, 20) and prediction.start == (4, 6, 10)
    np.testing.assert_allclose(total.sum(dim=0), 1, atol=1e-5)
    assert total[k, 0].min().item() == pytest.approx(1, abs=1e-5)
    assert total[k, 7].max().item() == pytest.approx(0.8, abs=1e-5)
    assert total[0, 7].min().item() == pytest.approx(0.2, abs=1e-5)


def test_scan_of_air_gives_empty_maps(stand_in):
    bundle = stand_in("Brain stem", everywhere=True, shift=True)
    native = Grid((5, 6, 7), np.diag([3.0, 3, 3, 1]))
    found = segment(bundle, np.zeros((32, 32, 32), np.uint8), np.eye(4), native, views=True)
    for data in (found.labels, found.entropy, *found.views.values()):
        assert data.shape == native.shape and not data.any()
    assert len(found.views) == 3


def test_one_view_alone_is_aggregated_too_and_progress_counts_its_slices(protocol):
    image = torch.zeros(32, 32, 32, dtype=torch.uint8)
    image[4:20, 6:26, 10:30] = 200
    counts = []
    found = aggregate(
        {"axial": StandIn(28, 3)}, image, {"axial": 1.0}, protocol.sagittal.tolist(), batch=8,
        progress=lambda done, count: counts.append((done, count)),
    )  # fmt: skip
    assert found.start == (0, 0, 10) and found.probabilities.shape == (28, 32, 32, 20)
    assert counts == [(8, 20), (8, 20), (4, 20)] and list(found.views) == ["axial"]


def test_slices_are_cut_to_what_is_near_and_the_rest_is_background(stand_in, protocol):
    k = protocol.names.index("Brain stem")
    bundle, shapes = stand_in("Brain stem", everywhere=True), set()
    for network in bundle.networks.values():
        network.register_forward_pre_hook(lambda module, x: shapes.add(tuple(x[0].shape[2:])))
    near = torch.zeros(64, 64, 64, dtype=torch.bool)
    near[8:16, 0:16, 8:16] = near[40:48, 32:48, 8:16] = True
    found = predict(bundle, np.full(near.shape, 200, np.uint8), near=near)
    total = found.probabilities
    assert found.start == (8, 0, 8) and total.shape == (28, 40, 48, 8)
    assert shapes == {(16, 16), (48, 48)}  # axial slices show both blocks
    np.testing.assert_allclose(total.sum(dim=0), 1, atol=1e-5)
    # the views' weights are 0.4, 0.4 and 0.2; coronal cuts of the first block are x 4 to 19
    places = {
        (10, 5, 10): 1,
        (47, 47, 15): 1,
        (18, 5, 10): 0.8,
        (20, 5, 10): 0.4,
        (10, 40, 10): 0.4,
    }
    for (x, y, z), expected in places.items():
        assert total[k, x - 8, y, z - 8].item() == pytest.approx(expected, abs=1e-5)
    one_by_one = predict(bundle, np.full(near.shape, 200, np.uint8), batch=1, near=near)
    assert torch.equal(one_by_one.probabilities, total)
    assert all(found.at_edge.values())
    air = predict(bundle, np.zeros(near.shape, np.uint8), near=near)
    assert air.probabilities[0].tolist() == [[[1]]] and not any(air.at_edge.values())


def test_axes_and_threshold_are_those_of_training():
    """views.py imports nothing of this package, so that it can be exported."""
    assert AXES == AXIS and BRIGHT == training_stats.BRIGHT


def test_each_view_and_the_entropy_return_to_the_voxels_that_they_belong_to(stand_in, protocol):
    left, right = (protocol.names.index(f"{side} putamen") for side in ("Left", "Right"))
    image = np.full((32, 32, 32), 30, np.uint8)
    image[8:14, 12:20, 16:26] = 220
    image[10, 15, 20] = 128  # one voxel of which nothing is known
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = 3, 5, 1  # the box begins within the native grid
    native = Grid((70, 72, 74), np.eye(4))
    found = segment(stand_in("Right putamen"), image, affine, native, views=True)
    centre = 2 * np.array([10.5, 15.5, 20.5]) + affine[:3, 3]
    # the sagittal view does not tell the sides: the index is the left one's, which stands first
    for view, index in {"axial": right, "sagittal": left}.items():
        where = np.argwhere(found.views[view] > 0)
        np.testing.assert_allclose(where.mean(axis=0), centre, atol=0.5)
        assert set(np.unique(found.views[view])) == {0, index}
    where = np.unravel_index(found.entropy.argmax(), native.shape)
    assert where == (2 * 10 + 3, 2 * 15 + 5, 2 * 20 + 1) and found.entropy[0].max() == 0


def test_networks_see_the_neighbours_of_each_slice():
    stack = torch.arange(6.0)[:, None, None].expand(6, 2, 2)
    found = with_neighbours(stack, torch.tensor([0, 3, 5]), 5)[:, :, 0, 0]
    assert found.tolist() == [[0, 0, 0, 1, 2], [1, 2, 3, 4, 5], [3, 4, 5, 5, 5]]
    seen = []
    network = StandIn(28, 1)
    network.settings = NetworkSettings(slices=3)
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    cuts = [(torch.tensor([1, 2, 4]), slice(None), slice(None))]
    parts = slice_probabilities(network, stack, cuts, batch=2)
    assert [cut[0].tolist() for cut, _ in parts] == [[1, 2], [4]]
    assert torch.cat(seen)[:, :, 0, 0].tolist() == [[0, 1, 2], [1, 2, 3], [3, 4, 5]]


def test_flipped_prediction_calls_a_structure_by_its_name_on_either_side(stand_in, protocol):
    left, right = (protocol.names.index(f"{side} putamen") for side in ("Left", "Right"))
    image = np.full((32, 32, 32), 30, np.uint8)
    image[4:9, 5:20, 8:25] = 220
    total = predict(stand_in("Left putamen", flip=True), image).probabilities
    bright = torch.from_numpy(image > 100)
    # seen directly it is left, in the mirror a left one again, so right: half of each
    assert total[left][bright].mean() == pytest.approx(0.4 + 0.2, abs=1e-3)
    assert total[right][bright].mean() == pytest.approx(0.4 + 0.2, abs=1e-3)
    assert total[0][~bright].mean() == pytest.approx(1, abs=1e-3)


def test_scan_moved_by_half_a_voxel_is_put_back_where_it_was(stand_in):
    fine = Grid((64, 64, 64), np.eye(4))
    centre = np.array([30.0, 33.0, 35.0])
    inside = np.linalg.norm(np.argwhere(np.ones(fine.shape)) - centre, axis=1).reshape(fine.shape)
    grid = Grid((32, 32, 32), np.diag([2.0, 2, 2, 1]))
    ball = Volume(1 / (1 + np.exp(inside - 14)), fine.affine, Path("ball"))
    image = np.rint(255 * resample(ball, grid)).astype(np.uint8)
    image = image.clip(30)  # nothing here is air
    offsets = {}
    for shift in (False, True):
        bundle = stand_in("Brain stem", shift=shift)
        found = segment(bundle, image, grid.affine, fine).labels > 0
        dice = 2 * (found & (inside < 14)).sum() / (found.sum() + (inside < 14).sum())
        offsets[shift] = np.abs(np.argwhere(found).mean(axis=0) - centre).max()
        assert dice > 0.96
    assert max(offsets.values()) < 0.2


@pytest.mark.parametrize("stripped", [True, False])
def test_slices_are_cut_to_the_brain_unless_structures_reach_beyond(stand_in, stripped, caplog):
    """The scalp of a head is as bright as what this network looks for."""
    caplog.set_level("INFO")
    bundle, seen = stand_in("Brain stem", size=128), []
    for network in bundle.networks.values():
        network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    scan, _ = made_up_head.head(stripped)
    image, grid, record = conform(scan, 2.0, 128)
    whole = segment(bundle, image, grid.affine, record_grid(record))
    assert {shape[2:] for shape in seen} == {(128, 128)}
    seen.clear()
    done = []
    found = segment(
        replace(bundle, windowed=True), image, grid.affine, record_grid(record),
        progress=lambda slices, count: done.append(slices / count),
    )  # fmt: skip
    np.testing.assert_array_equal(found.labels, whole.labels)
    assert done.count(1) == (1 if stripped else 2) and done[-1] == 1  # once for each window
    np.testing.assert_array_equal(found.statistics.voxels, whole.statistics.voxels)
    cut = {shape[2:] for shape in seen} - {(128, 128)}
    assert len(cut) > 4 and ((128, 128) in {shape[2:] for shape in seen}) != stripped
    assert ("reach the sides" in caplog.text) != stripped


def test_what_is_found_in_the_scalp_is_no_structure(stand_in):
    bundle = stand_in("Brain stem", size=128)
    image, grid, _ = conform(made_up_head.head()[0], 2.0, 128)
    bright = {"scalp": image > 150, "white matter": (image > 100) & (image < 150)}
    image[bright["scalp"]], image[bright["white matter"]] = 100, 170
    for top, kept in ((104, False), (90, True)):
        spot = slice(60, 68), slice(60, 68), slice(top, top + 3)
        image[spot] = 240
        labels = segment(bundle, image, grid.affine, Grid(image.shape, grid.affine)).labels
        assert labels[spot].any() == kept and labels[bright["white matter"]].all()


@pytest.mark.case(49)
def test_full_memory_makes_the_batches_smaller_and_loses_no_slice(caplog):
    class Small(StandIn):
        def forward(self, x):
            if len(x) > 3:
                raise torch.OutOfMemoryError
            return super().forward(x)

    slices = torch.full((32, 16, 24), 200, dtype=torch.uint8)
    cuts = [(some, slice(0, 16), slice(None)) for some in torch.arange(32).split(16)]
    found = list(slice_probabilities(Small(28, 5), slices, cuts, batch=8))
    assert torch.cat([cut[0] for cut, _ in found]).tolist() == list(range(32))
    assert {tuple(values.shape) for _, values in found} == {(2, 16, 24, 28)}
    assert caplog.text.count("continuing with") == 2 and "with 2 slices at a time" in caplog.text


def test_bfloat16_gives_nearly_the_same_probabilities(model, head_file):
    exact, rounded = load_bundle(model), load_bundle(model, bfloat16=True)
    network = rounded.networks["axial"]
    assert network.bottleneck.convs[0].weight.dtype == torch.bfloat16
    assert network.encoders[0].convs[0].weight.dtype == torch.float32
    x = torch.rand(2, 1, 48, 48)
    with torch.inference_mode():
        one, other = (b.networks["axial"](x).softmax(dim=1) for b in (exact, rounded))
    assert other.dtype == torch.float32 and not torch.equal(one, other)
    assert (one - other).abs().mean() < 0.002
    first = exact.networks["axial"].encoders[0].state_dict()
    for key, value in network.encoders[0].state_dict().items():
        assert torch.equal(value, first[key])  # not rounded on the way


@pytest.mark.parametrize(("able", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_networks_that_leave_a_full_gpu_compute_in_bf16_if_the_cpu_can(
    model, monkeypatch, able, dtype
):
    bundle, places = load_bundle(model, bfloat16=True), []

    def tried(*arguments):
        places.append(arguments[-1].type)
        if len(places) < 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to")
        network = bundle.networks["axial"]
        return network.bottleneck.convs[0].weight.dtype, network(torch.rand(1, 1, 48, 48)).dtype

    monkeypatch.setattr(inference, "device_of", lambda bundle: torch.device("cuda"))
    monkeypatch.setattr(inference, "computes_in_bfloat16", lambda gpu: able)
    monkeypatch.setattr(inference, "_segment", tried)
    assert segment(bundle, *[None] * 3) == (dtype, torch.float32)
    assert places == ["cuda", "cpu", "cpu"]
