"""Reading and conforming scans: orientation is kept, bad files are refused by name."""

import json
from functools import partial

import nibabel as nib
import numpy as np
import pytest

from helpers import save
from quicknat.errors import InputError
from quicknat.images.conform import conform, head_window, record_grid, source_digest
from quicknat.images.resampling import resample
from quicknat.images.volumes import Grid, Volume, as_bytes, read_volume, save_nifti


@pytest.fixture
def pixels():
    return np.random.default_rng(1).integers(1, 200, (12, 14, 16)).astype(np.int16)


@pytest.mark.case(25)
@pytest.mark.parametrize("extreme", [1e6, -1e4])
def test_single_extreme_voxels_do_not_shift_the_scale(head, extreme):
    data = head.data.astype(np.float32)
    plain, _, _ = conform(Volume(data.copy(), head.affine, head.path), 2.0, 160)
    data[::7, 0, 0], data[:3, 0, 0] = -0.3 * data.max(), extreme
    found, _, record = conform(Volume(data, head.affine, head.path), 2.0, 160)
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


FORMATS = {
    "scan.nii": nib.Nifti1Image,
    "scan.nii.gz": nib.Nifti1Image,
    "nifti2.nii": nib.Nifti2Image,
    "big-endian.nii": partial(nib.Nifti1Image, header=nib.Nifti1Header(endianness=">")),
    "scan.mgz": nib.MGHImage,
    "scan.img": nib.Nifti1Pair,
}


@pytest.mark.case(27)
@pytest.mark.parametrize("name", FORMATS)
def test_formats_hold_the_same_voxels(tmp_path, pixels, name):
    affine = nib.affines.from_matvec(np.diag([-2, 2, 3]), [10, -20, 5])
    nib.save(FORMATS[name](pixels.astype(np.float32), affine), tmp_path / name)
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.data, pixels)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)


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
    volume = read_volume(save(tmp_path / "a.nii", data))
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
