"""Reading and conforming scans: orientation is kept, bad files are refused by name."""

import itertools
import json

import nibabel as nib
import numpy as np
import pytest

from quicknat.errors import InputError
from quicknat.images.conform import (
    conform,
    conformed_grid,
    head_window,
    record_grid,
    source_digest,
    to_uint8,
)
from quicknat.images.resampling import resample, resample_labels
from quicknat.images.volumes import Grid, Volume, as_bytes, read_volume, save_nifti


def write(path, data, affine=None, code=1):
    image = nib.Nifti1Image(data, np.diag([2, 2, 2, 1.0]) if affine is None else affine)
    image.set_sform(image.affine, code)
    image.set_qform(image.affine, code)
    nib.save(image, path)
    return path


@pytest.fixture
def pixels():
    return np.random.default_rng(1).integers(1, 200, (12, 14, 16)).astype(np.int16)


@pytest.mark.slow
@pytest.mark.case(19)
def test_orientation_of_the_stored_axes_does_not_change_the_conformed_scan(head):
    image = nib.Nifti1Image(head.data, head.affine)
    expected, grid, _ = conform(head, 4.0, 64)
    for codes in itertools.product("LR", "AP", "IS"):
        for order in itertools.permutations(range(3)):
            target = nib.orientations.axcodes2ornt([codes[axis] for axis in order])
            ornt = nib.orientations.ornt_transform(nib.io_orientation(image.affine), target)
            turned = image.as_reoriented(ornt)
            volume = Volume(np.asarray(turned.dataobj), turned.affine, head.path)
            got, got_grid, record = conform(volume, 4.0, 64)
            assert "".join(sorted(record["source_orientation"])) == "".join(sorted(codes))
            np.testing.assert_allclose(got_grid.affine, grid.affine)
            assert np.abs(got.astype(int) - expected).max() <= 1  # rounding


def test_conformed_axes_are_ras_and_isotropic(head):
    image, grid, record = conform(head, 3.0, 96)
    assert image.shape == (96, 96, 96) and image.dtype == np.uint8
    assert nib.aff2axcodes(grid.affine) == ("R", "A", "S")
    np.testing.assert_allclose(np.diag(grid.affine)[:3], 3.0)
    assert record["head_outside_fraction"] == 0


def test_labels_stay_on_the_image_when_both_are_conformed(head, demo_dseg):
    image, grid, _ = conform(head, 4.0, 64)
    labels = resample_labels(demo_dseg, grid)
    assert set(np.unique(labels)) <= set(np.unique(demo_dseg.data))
    assert image[labels > 0].mean() > 4 * image[(labels == 0)].mean()


@pytest.mark.case(22)
def test_a_field_of_view_larger_than_the_cube_keeps_the_head(head):
    padded = np.pad(head.data, ((120, 0), (0, 0), (0, 0)))  # 240 mm of air on the left
    affine = head.affine.copy()
    affine[:3, 3] -= affine[:3, 0] * 120
    _, _, record = conform(Volume(padded, affine, head.path), 2.0, 128)
    assert record["head_outside_fraction"] < 0.01


def test_window_holds_the_whole_brain_of_a_real_label_map(head, demo_dseg):
    image, grid, _ = conform(head, 2.0, 128)
    brain = np.argwhere(resample_labels(demo_dseg, grid) > 0)
    start = np.array(head_window(image, 2.0, 96))
    assert np.all(brain >= start) and np.all(brain < start + 96)


@pytest.mark.case(25)
def test_hot_voxels_do_not_darken_the_scan(head):
    hot = head.data.copy()
    hot[:3, 0, 0] = 1e6
    plain, _ = to_uint8(head.data, 2.0, "a")
    with_hot, _ = to_uint8(hot, 2.0, "a")
    assert np.median(np.abs(plain.astype(int) - with_hot)) <= 1


@pytest.mark.case(25)
def test_single_voxels_far_below_air_do_not_shift_the_scale(head):
    dark = head.data.astype(np.float32)
    plain, _, _ = conform(Volume(dark.copy(), head.affine, head.path), 2.0, 160)
    dark[::7, 0, 0], dark[0, 0, 0] = -0.3 * dark.max(), -1e4
    found, _, record = conform(Volume(dark, head.affine, head.path), 2.0, 160)
    assert np.median(np.abs(found.astype(int) - plain)) == 0
    assert head_window(found, 2.0, 96) == head_window(plain, 2.0, 96)
    low, high = record["intensity_at_0_and_255"]
    assert abs(low) < 0.01 * high


@pytest.mark.case(24)
@pytest.mark.parametrize(("gain", "offset"), [(1, -500), (0.01, -2), (1, 500)])
def test_scan_whose_air_is_not_0_is_conformed_as_one_whose_air_is(head, gain, offset):
    plain, grid, _ = conform(head, 2.0, 160)  # a cube larger than its field of view
    other = Volume(head.data * np.float32(gain) + np.float32(offset), head.affine, head.path)
    moved, other_grid, _ = conform(other, 2.0, 160)
    assert np.array_equal(grid.affine, other_grid.affine)
    assert np.abs(moved.astype(int) - plain).max() <= 1
    assert head_window(moved, 2.0, 96) == head_window(plain, 2.0, 96)


def test_scan_is_smoothed_along_the_axes_that_get_coarser_alone():
    data = np.zeros((21, 21, 21), np.float32)
    data[10, 10, 10] = 1
    thick = Grid((21, 21, 5), np.diag([1.0, 1, 5, 1]))
    found = resample(Volume(data, np.eye(4), "a"), thick)
    assert found[10, 10, 2] > 0.1 and found[9, 10, 2] == 0 and found[10, 9, 2] == 0


@pytest.mark.case(24)
def test_negative_intensities_are_scaled(head):
    scaled, (low, _) = to_uint8(head.data - 500, 2.0, "a")
    plain, _ = to_uint8(head.data, 2.0, "a")
    assert low < 0
    assert np.abs(scaled.astype(int) - plain).max() <= 1


@pytest.mark.case(27)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.img"])
def test_formats_hold_the_same_voxels(tmp_path, pixels, name):
    path = tmp_path / name
    affine = nib.affines.from_matvec(np.diag([-2, 2, 3]), [10, -20, 5])
    kind = {"mgz": nib.MGHImage, "img": nib.Nifti1Pair}.get(name.split(".")[-1], nib.Nifti1Image)
    image = kind(pixels.astype(np.float32), affine)
    if kind is not nib.MGHImage:
        image.set_sform(affine, 1)
    nib.save(image, path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, pixels)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)


@pytest.mark.case(26, 27)
def test_nifti2_and_big_endian_and_scaled_files_hold_the_same_voxels(tmp_path, pixels):
    for number, image in enumerate(
        (
            nib.Nifti2Image(pixels, np.eye(4)),
            nib.Nifti1Image(pixels, np.eye(4), nib.Nifti1Header(endianness=">")),
        )
    ):
        image.set_sform(np.eye(4), 1)
        nib.save(image, tmp_path / f"{number}.nii")
        np.testing.assert_array_equal(read_volume(tmp_path / f"{number}.nii").data, pixels)
    scaled = nib.Nifti1Image(pixels * 0.5, np.eye(4))
    scaled.set_data_dtype(np.int16)
    scaled.set_sform(np.eye(4), 1)
    nib.save(scaled, tmp_path / "scaled.nii")
    assert np.abs(read_volume(tmp_path / "scaled.nii").data - pixels * 0.5).max() < 0.01


def test_digest_of_an_analyze_pair_is_another_when_its_header_is(tmp_path, pixels):
    nib.AnalyzeImage(pixels, None).to_filename(tmp_path / "a.img")
    before = source_digest(tmp_path / "a.img")
    header = bytearray((tmp_path / "a.hdr").read_bytes())
    header[80] ^= 1  # in the voxels' size
    (tmp_path / "a.hdr").write_bytes(header)
    assert source_digest(tmp_path / "a.img") != before


@pytest.mark.parametrize("value", [-1, 28, 0.5])
def test_value_that_is_no_class_is_refused_before_it_becomes_one(tmp_path, value):
    data = np.zeros((4, 4, 4), np.float32)
    data[0, 0, 0] = value
    volume = read_volume(write(tmp_path / "a.nii", data))
    with pytest.raises(InputError, match=rf"holds {value}, but only whole numbers from 0 to 27"):
        as_bytes(volume, 27)


@pytest.mark.case(14, 18, 27)
def test_analyze_pair_with_trailing_axis_needs_a_stated_orientation(tmp_path, pixels):
    header = nib.AnalyzeHeader(endianness=">")
    header.set_data_dtype(">i2")
    image = nib.AnalyzeImage(pixels[..., None], None, header)
    image.header.set_zooms((1, 1, 2, 1))
    nib.save(image, tmp_path / "a.img")
    with pytest.raises(InputError, match="orientation"):
        read_volume(tmp_path / "a.img")
    volume = read_volume(tmp_path / "a.img", "LAS")
    assert nib.aff2axcodes(volume.affine) == ("L", "A", "S")
    np.testing.assert_allclose(nib.affines.voxel_sizes(volume.affine), [1, 1, 2])
    np.testing.assert_array_equal(volume.data, pixels)


def test_saved_nifti_states_its_transform_in_both_forms(tmp_path):
    affine = nib.affines.from_matvec(np.diag([-1, 1, 2]), [3, 4, 5])
    save_nifti(tmp_path / "a.nii.gz", np.zeros((5, 6, 7), np.uint8), Grid((5, 6, 7), affine))
    image = nib.load(tmp_path / "a.nii.gz")
    for get in (image.get_sform, image.get_qform):
        matrix, code = get(coded=True)
        assert code == 1
        np.testing.assert_allclose(matrix, affine, atol=1e-6)


@pytest.mark.case(16)
@pytest.mark.parametrize("codes", [(1, 1), (0, 2), (1, 0), (3, 4)])
def test_header_transforms_of_the_input_return_with_the_labels(tmp_path, pixels, codes):
    sform = nib.affines.from_matvec(np.diag([-1, 1.2, 2]), [3, 4, 5])
    qform = nib.affines.from_matvec(np.diag([-1, 1.2, 2]), [3, 4, 5.001])  # differ by rounding
    image = nib.Nifti1Image(pixels, None)
    image.set_qform(qform if codes[0] else None, codes[0])
    image.set_sform(sform if codes[1] else None, codes[1])
    if not codes[0]:
        image.header["pixdim"][1:4] = 1, 1.2, 2
    nib.save(image, tmp_path / "scan.nii")
    _, _, record = conform(read_volume(tmp_path / "scan.nii"), 4.0, 64)
    grid = record_grid(json.loads(json.dumps(record)))
    save_nifti(tmp_path / "dseg.nii.gz", np.zeros(pixels.shape, np.uint8), grid)
    given, made = (nib.load(tmp_path / name) for name in ("scan.nii", "dseg.nii.gz"))
    np.testing.assert_allclose(made.affine, given.affine, atol=1e-6)
    for get in ("get_qform", "get_sform"):
        (one, code), (two, same) = (getattr(part, get)(coded=True) for part in (given, made))
        assert code == same
        if code:
            np.testing.assert_allclose(one, two, atol=1e-6)


def test_small_scan_sits_in_the_middle_of_the_cube():
    volume = Volume(np.ones((10, 10, 10)), np.eye(4), "a")
    grid = conformed_grid(volume, 1.0, 64)
    centre = grid.affine @ [31.5, 31.5, 31.5, 1]
    np.testing.assert_allclose(centre[:3], 4.5)
    assert isinstance(grid, Grid)


@pytest.mark.slow
def test_shared_mgz_and_its_nifti_copy_conform_to_the_same_scan(shared, tmp_path):
    source = shared / "data/mgz/quicknatv2_sample.mgz"
    image = nib.load(source)
    copy = nib.as_closest_canonical(nib.Nifti1Image(np.asarray(image.dataobj), image.affine))
    nib.save(copy, tmp_path / "copy.nii.gz")
    one, _, record = conform(read_volume(source), 4.0, 64)
    two, _, _ = conform(read_volume(tmp_path / "copy.nii.gz"), 4.0, 64)
    assert record["source_orientation"] == "LIA"
    assert np.abs(one.astype(int) - two).max() <= 1
