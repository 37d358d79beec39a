"""Brain mask and intracranial volume, with the model that the package ships."""

import json

import numpy as np
import pytest
import torch

from made_up_head import CAVITY_ML, RADII, SPACING, ellipsoid, head
from quicknat.images.conform import conform
from quicknat.images.volumes import Grid, Volume
from quicknat.segmentation.intracranial import (
    MODEL,
    Cavity,
    brain_box,
    brain_mask,
    find_cavity,
    near_brain,
)


def cavity_in(scan, spacing=SPACING):
    image, grid, _ = conform(scan, spacing, int(256 / spacing))
    return find_cavity(image, grid.affine, spacing, torch.device("cpu")), grid


def found(scan, brain, spacing=SPACING):
    labels, native = brain.astype(np.uint8), Grid(scan.shape, scan.affine)
    return brain_mask(cavity_in(scan, spacing)[0], labels, native)


def test_volume_of_a_head_is_that_of_its_cavity():
    whole = found(*head())
    mask = whole.mask.astype(bool)
    assert whole.reason == "" and abs(whole.volume_mm3 / 1000 / CAVITY_ML - 1) < 0.1
    assert whole.volume_mm3 == pytest.approx(mask.sum() * SPACING**3, rel=0.01)
    assert mask[ellipsoid(RADII - 4)].all() and not mask[~ellipsoid(RADII + 12)].any()


def above(scan, low=40):
    """The head above a slice."""
    affine = scan.affine.copy()
    affine[2, 3] += low * SPACING
    return Volume(scan.data[:, :, low:], affine, scan.path)


def without_a_half(scan):
    """The head, with zeros on its left."""
    half = scan.data.copy()
    half[: len(half) // 2] = 0
    return Volume(half, scan.affine, scan.path)


UNMEASURED = {  # a scan, its labelled brain, the spacing of the model
    "stripped": lambda scan, brain: (*head(stripped=True), SPACING),
    "field of view": lambda scan, brain: (above(scan), brain[:, :, 40:], SPACING),
    "part of the head is missing": lambda scan, brain: (without_a_half(scan), brain, SPACING),
    "labelled": lambda scan, brain: (scan, np.roll(brain, 20, axis=1), SPACING),
    "larger than 3 mm": lambda scan, brain: (scan, brain, 4),
}


@pytest.mark.parametrize("reason", UNMEASURED)
def test_volume_needs_a_whole_head_of_fine_voxels_whose_brain_is_in_the_cavity(reason):
    scan, brain, spacing = UNMEASURED[reason](*head())
    result = found(scan, brain, spacing)
    assert result.volume_mm3 is None and reason in result.reason
    if reason == "stripped":
        assert result.mask[brain].all()
    if spacing == 4:
        np.testing.assert_array_equal(result.mask, brain)


@pytest.mark.parametrize("stripped", [False, True])
def test_box_holds_the_brain_with_a_margin_and_little_else(stripped):
    scan, _ = head(stripped)
    cavity, grid = cavity_in(scan)
    box = brain_box(cavity, grid.affine, grid.shape[0], 112)
    radii, middle = (RADII - 4 * stripped) / SPACING, (np.array(grid.shape) - 1) / 2 + [0, 0, 4]
    for part, radius, centre in zip(box, radii, middle, strict=True):
        side = part.stop - part.start
        assert side % 16 == 0 and side <= 2 * radius + 32
        assert part.start < centre - radius and part.stop > centre + radius
    assert max(part.stop - part.start for part in brain_box(cavity, grid.affine, 128, 48)) == 48


def test_what_is_at_most_14_mm_from_the_cavity_is_near():
    inside = np.zeros((32, 32, 32), bool)
    inside[10:20, 10:20, 10:20] = True  # centres of its voxels from 30.5 to 57.5 mm
    affine = np.diag([3.0, 3, 3, 1])
    affine[:3, 3] = 0.5
    grid = Grid(inside.shape, affine)
    cavity = Cavity(torch.empty(0), grid.affine, inside, np.empty(0), grid)
    near = near_brain(cavity, np.eye(4), (slice(16, 96), slice(0, 96), slice(32, 96))).numpy()
    assert near.shape == (80, 96, 64)
    for line, low in ((near[:, 40, 8], 16), (near[24, :, 8], 0), (near[24, 40, :], 32)):
        assert (low + np.flatnonzero(line)).tolist() == list(range(max(17, low), 72))
    assert not near[71 - 16, 71, 71 - 32]  # a corner


def test_result_is_the_same_each_time():
    one, again = found(*head()), found(*head())
    assert again.volume_mm3 == one.volume_mm3
    np.testing.assert_array_equal(again.mask, one.mask)


def test_model_is_small_and_says_what_it_was_trained_on():
    files = list(MODEL.iterdir())
    assert sum(path.stat().st_size for path in files) < 1_000_000
    described = json.loads((MODEL / "bundle.json").read_text())
    for view in described["views"].values():
        assert view["classes"] == ["Background", "Intracranial"]
        assert not set(view["training_scans"]) & set(view["validation_scans"])
    assert "SynthSeg" in (MODEL / "README.md").read_text() and "/scratch" not in str(described)
