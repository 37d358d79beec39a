"""Brain mask and intracranial volume, with the model that the package ships."""

import json

import numpy as np
import pytest
import torch

from made_up_head import CAVITY_ML, RADII, SPACING, ellipsoid, head
from quicknat.images.conform import conform
from quicknat.images.volumes import Grid, Volume
from quicknat.segmentation.intracranial import MODEL, brain_box, brain_mask, find_cavity


def cavity_in(scan, spacing=SPACING):
    image, grid, _ = conform(scan, spacing, int(256 / spacing))
    return find_cavity(image, grid.affine, spacing, torch.device("cpu")), grid


def found(scan, brain, spacing=SPACING):
    labels, native = brain.astype(np.uint8), Grid(scan.shape, scan.affine)
    return brain_mask(cavity_in(scan, spacing)[0], labels, native)


@pytest.fixture(scope="module")
def whole():
    return found(*head())


def test_model_is_small_and_says_what_it_was_trained_on():
    files = list(MODEL.iterdir())
    assert sum(path.stat().st_size for path in files) < 1_000_000
    described = json.loads((MODEL / "bundle.json").read_text())
    for view in described["views"].values():
        assert view["classes"] == ["Background", "Intracranial"]
        assert not set(view["training_scans"]) & set(view["validation_scans"])
    assert "SynthSeg" in (MODEL / "README.md").read_text() and "/scratch" not in str(described)


def test_volume_of_a_head_is_that_of_its_cavity(whole):
    mask = whole.mask.astype(bool)
    assert whole.reason == "" and abs(whole.volume_mm3 / 1000 / CAVITY_ML - 1) < 0.1
    assert whole.volume_mm3 == pytest.approx(mask.sum() * SPACING**3, rel=0.01)
    assert mask[ellipsoid(RADII - 4)].all() and not mask[~ellipsoid(RADII + 12)].any()


def test_result_is_the_same_each_time(whole):
    again = found(*head())
    assert again.volume_mm3 == whole.volume_mm3
    np.testing.assert_array_equal(again.mask, whole.mask)


def test_skull_stripped_scan_has_a_mask_but_no_volume():
    scan, brain = head(stripped=True)
    result = found(scan, brain)
    assert result.volume_mm3 is None and "stripped" in result.reason
    assert result.mask[brain].all()


def test_cavity_beyond_the_field_of_view_has_no_volume():
    scan, brain = head()
    low = 40  # slices, above which the rest of the head is
    affine = scan.affine.copy()
    affine[2, 3] += low * SPACING
    cut = Volume(scan.data[:, :, low:], affine, scan.path)
    result = found(cut, brain[:, :, low:])
    assert result.volume_mm3 is None and "field of view" in result.reason


def test_head_of_which_a_half_was_removed_has_no_volume():
    scan, brain = head()
    half = scan.data.copy()
    half[: len(half) // 2] = 0
    result = found(Volume(half, scan.affine, scan.path), brain)
    assert result.volume_mm3 is None and "a part of the head is missing" in result.reason


def test_volume_needs_the_labelled_brain_within_the_cavity():
    scan, brain = head()
    result = found(scan, np.roll(brain, 20, axis=1))
    assert result.volume_mm3 is None and "labelled" in result.reason


def test_coarse_voxels_give_a_mask_of_the_labels_and_no_volume():
    scan, brain = head()
    result = found(scan, brain, spacing=4)
    assert result.volume_mm3 is None and "larger than 3 mm" in result.reason
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
