"""Brain mask and intracranial volume, with the model that the package ships."""

import json

import numpy as np
import pytest
import torch

from helpers import ROOT
from quicknat.images.conform import conform
from quicknat.images.volumes import Grid, Volume
from quicknat.segmentation.intracranial import MODEL, find_cavity

SPACING, SHAPE = 2.0, (100, 120, 110)
RADII = np.array([70, 85, 68])  # of the cavity, mm
CAVITY_ML = 4 / 3 * np.pi * RADII.prod() / 1000


def ellipsoid(radii, shift=(0, 0, 8)):
    """Mask of the head's voxels within an ellipsoid; radii and shift in mm."""
    away = [np.arange(n) * SPACING - (n - 1) * SPACING / 2 for n in SHAPE]
    x, y, z = np.meshgrid(*away, indexing="ij", sparse=True)
    (a, b, c), (p, q, r) = radii, shift
    return ((x - p) / a) ** 2 + ((y - q) / b) ** 2 + ((z - r) / c) ** 2 <= 1


def head(stripped=False):
    """A head of ellipsoids: white and grey matter, CSF, skull, scalp, as in T1w; and its brain."""
    parts = [(15, 210), (6, 25), (0, 60), (-4, 105), (-8, 165)]  # outermost first
    data = np.zeros(SHAPE, np.float32)
    for margin, intensity in parts[3 * stripped :]:
        data[ellipsoid(RADII + margin)] = intensity
    data += np.abs(np.random.default_rng(0).normal(0, 2, SHAPE)) * (not stripped)
    affine = np.diag([SPACING, SPACING, SPACING, 1])
    affine[:3, 3] = -(np.array(SHAPE) - 1) * SPACING / 2
    return Volume(data.astype(np.float32), affine, ROOT / "head.nii.gz"), ellipsoid(RADII - 4)


def found(scan, brain, spacing=SPACING):
    image, grid, _ = conform(scan, spacing, int(256 / spacing))
    native = Grid(scan.shape, scan.affine)
    labels = brain.astype(np.uint8)
    return find_cavity(image, grid.affine, spacing, labels, native, torch.device("cpu"))


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


def test_volume_needs_the_labelled_brain_within_the_cavity():
    scan, brain = head()
    result = found(scan, np.roll(brain, 20, axis=1))
    assert result.volume_mm3 is None and "labelled" in result.reason


def test_coarse_voxels_give_a_mask_of_the_labels_and_no_volume():
    scan, brain = head()
    result = found(scan, brain, spacing=4)
    assert result.volume_mm3 is None and "4 mm" in result.reason
    np.testing.assert_array_equal(result.mask, brain)
