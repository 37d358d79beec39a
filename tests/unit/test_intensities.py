"""Voxels without signal: constants around the field of view, and MP2RAGE's noise."""

import numpy as np
import pytest

from helpers import save
from quicknat.cohort.examine import examine_image
from quicknat.errors import InputError
from quicknat.images.conform import conform
from quicknat.images.intensities import (
    has_noisy_background,
    looks_like_labels,
    without_fill,
)
from quicknat.images.volumes import Volume, read_scan, read_volume

FILLS = [-32768, -1000, -400, 700, 4095, 32767, np.nan]


def masked(head, kind):
    """Where a fill value replaces the voxels of a head: a wedge of air, or all but the brain."""
    x, y, z = np.indices(head.data.shape)
    _, ny, nz = head.data.shape
    air = head.data < 0.03 * head.data.max()
    if kind == "wedge":  # corner of a turned field of view
        return air & (y / ny + z / nz < 0.5)
    middle = np.array(head.data.shape) / 2
    return sum(((i - m) / (0.6 * m)) ** 2 for i, m in zip((x, y, z), middle, strict=True)) > 1


@pytest.mark.case(75)
@pytest.mark.parametrize("kind", ["wedge", "background"])
@pytest.mark.parametrize("fill", FILLS)
def test_scan_filled_up_is_conformed_as_if_it_were_not(head, kind, fill):
    data = head.data.astype(np.float32) * (1000 / head.data.max())
    where = masked(head, kind)
    assert 0.02 < where.mean() < 0.95
    air = np.percentile(data[data < 30], 50) if kind == "wedge" else 0
    plain, filled = (np.where(where, value, data).astype(np.float32) for value in (air, fill))
    expected, _, wanted = conform(Volume(plain, head.affine, head.path), 4.0, 64)
    replaced, found = without_fill(filled)
    np.testing.assert_array_equal(found, [fill])
    assert np.array_equal(replaced[~where], data[~where])
    got, _, record = conform(Volume(replaced, head.affine, head.path), 4.0, 64)
    low, high = record["intensity_at_0_and_255"]
    assert abs(low - wanted["intensity_at_0_and_255"][0]) < 0.02 * high
    assert high == pytest.approx(wanted["intensity_at_0_and_255"][1], rel=0.03)
    assert np.abs(got.astype(int) - expected).mean() < 1.5


@pytest.mark.case(75)
def test_scan_whose_background_is_air_is_left_as_it_is(head):
    stripped = np.where(masked(head, "background"), 0, head.data)
    for data in (head.data, stripped, head.data.astype(np.float32) - 500, stripped + 5):
        same, found = without_fill(data)
        assert same is data and not found


@pytest.mark.case(75)
def test_voxels_of_the_head_that_have_the_number_are_kept(head):
    data = np.rint(head.data.astype(np.float32) * (1000 / head.data.max()))
    where = masked(head, "wedge")
    inside = (data == 700) & ~where
    filled, found = without_fill(np.where(where, 700, data))
    assert found == [700] and inside.any() and (filled[inside] == 700).mean() > 0.9


@pytest.mark.case(75)
def test_commands_read_a_filled_scan_and_the_check_says_so(head, tmp_path):
    data = head.data.astype(np.float32)
    where = masked(head, "wedge")
    path = save(tmp_path / "scan.nii.gz", np.where(where, np.nan, data), head.affine)
    assert np.isfinite(read_scan(path).data).all()
    assert any("padded with nan" in reason for reason in examine_image(path, "").warnings)
    with pytest.raises(InputError, match="are NaN"):  # label maps are not repaired
        read_volume(path)


@pytest.mark.case(81)
def test_bright_voxels_that_overflowed_16_bits_are_refused(head, tmp_path):
    noise = np.random.default_rng(0).normal(1, 0.05, head.data.shape)  # the head is saturated
    data = (head.data * noise * (40000 / np.percentile(head.data, 99))).astype(np.uint16)
    path = save(tmp_path / "scan.nii.gz", data.view(np.int16), head.affine)
    with pytest.raises(InputError, match="brightest voxels are negative"):
        read_scan(path)
    assert np.array_equal(read_scan(save(path, data, head.affine)).data, data)
    filled = np.where(masked(head, "wedge"), -32768, head.data).astype(np.int16)
    assert read_scan(save(path, filled, head.affine)).filled == [-32768]


@pytest.mark.case(76)
def test_noise_of_mp2rage_is_flagged_with_advice(head, tmp_path):
    """Its UNI image has noise of full range instead of air; noise elsewhere is none."""
    random, air = np.random.default_rng(0), head.data < 0.05 * head.data.max()
    everywhere = random.integers(1, 200, head.data.shape)
    usual = np.abs(head.data + random.normal(0, 0.05 * head.data.max(), head.data.shape))
    assert not any(has_noisy_background(data) for data in (head.data, everywhere, usual))
    noise = random.uniform(0, 4095, head.data.shape)
    data = np.where(air, noise, head.data * (3500 / head.data.max())).astype(np.int16)
    path = save(tmp_path / "uni.nii.gz", data, head.affine)
    assert any("LN_MP2RAGE_DNOISE" in reason for reason in examine_image(path, "").warnings)
    assert conform(Volume(data, head.affine, head.path), 4.0, 64)[2]["noisy_background"]


def test_label_map_is_told_from_a_scan(head, demo_dseg):
    assert looks_like_labels(demo_dseg.data) and not looks_like_labels(head.data)
