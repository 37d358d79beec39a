"""Scans that cannot be used (cases 1 to 15, 17): what `quicknat convert` says of them."""

import gzip
import json
import struct

import nibabel as nib
import numpy as np
import pytest

from helpers import save, tiny_scan
from quicknat.images import (
    volumes,  # noqa: F401  (before a test gives up the right to read them)
)
from quicknat.report.layers import load_layers


@pytest.fixture
def scan(tmp_path):
    return tmp_path / "scan.nii.gz"


@pytest.fixture
def pixels():
    return np.random.default_rng(1).integers(1, 200, (12, 14, 16)).astype(np.int16)


@pytest.fixture
def refused(convert, scan, tmp_path):
    """Check that converting the scan is refused with this reason and fix, and leaves nothing."""

    def check(reason, fix, path=scan):
        convert(path).refused(path, reason, fix, tmp_path / "out")

    return check


@pytest.mark.case(1)
def test_missing_file_is_refused(refused):
    refused("no such file", "check the path")


@pytest.mark.case(1)
def test_folder_under_the_name_of_a_scan_is_refused(refused, scan):
    scan.mkdir()
    refused("no such file", "check the path")


@pytest.mark.case(1)
def test_file_that_may_not_be_read_is_refused(convert, unprivileged, tmp_path):
    path = tiny_scan(unprivileged / "scan.nii.gz")
    path.chmod(0)
    convert(path).refused(path, "Permission denied", "you have permission")


@pytest.mark.case(2)
def test_empty_file_is_refused(refused, scan):
    scan.touch()
    refused("is empty", "fetch it again")


@pytest.mark.case(3)
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_truncated_gzip_is_refused(refused, scan, share):
    content = tiny_scan(scan).read_bytes()
    scan.write_bytes(content[: int(len(content) * share)])
    refused("damaged", "fetch it again")


@pytest.mark.case(4)
def test_wrong_checksum_at_the_end_of_a_gzip_is_refused(refused, scan):
    content = bytearray(tiny_scan(scan).read_bytes())
    content[-6] ^= 1  # the CRC stands in the last eight bytes
    scan.write_bytes(content)
    refused("damaged", "fetch it again")


@pytest.mark.case(5)
def test_gzip_without_its_suffix_is_refused(refused, scan, tmp_path):
    path = tmp_path / "scan.nii"
    path.write_bytes(tiny_scan(scan).read_bytes())
    refused("not named .gz", "rename or unzip", path)


@pytest.mark.case(5)
def test_plain_nifti_named_gz_is_refused(refused, scan):
    scan.write_bytes(gzip.decompress(tiny_scan(scan).read_bytes()))
    refused("not compressed", "rename it")


@pytest.mark.case(6)
@pytest.mark.parametrize("page", ["<!DOCTYPE html>", "\n<html><body>log in", "<HTML>"])
def test_web_page_under_the_name_of_a_scan_is_refused(refused, scan, page):
    scan.write_text(page)
    refused("web page", "fetch the file itself")


@pytest.mark.case(6)
def test_lfs_pointer_under_the_name_of_a_scan_is_refused(refused, scan):
    scan.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refused("Git LFS pointer", "git lfs pull")


@pytest.mark.case(7)
@pytest.mark.parametrize("frames", [2, 5])
def test_series_of_volumes_is_refused_with_its_shape(refused, scan, pixels, frames):
    save(scan, np.stack([pixels] * frames, -1))
    refused(f"(12, 14, 16, {frames})", "one 3-D volume")


@pytest.mark.case(8)
def test_complex_voxels_are_refused(refused, scan, pixels):
    save(scan, pixels.astype(np.complex64))
    refused("complex", "one real value per voxel")


@pytest.mark.case(8)
def test_colour_voxels_are_refused(refused, scan):
    save(scan, np.zeros((9, 9, 9), np.dtype([(c, "u1") for c in "RGB"])))
    refused("'R'", "one real value per voxel")


@pytest.mark.case(9)
def test_single_slice_is_refused(refused, scan, pixels):
    save(scan, pixels[:, :, 0])
    refused("(12, 14)", "one 3-D volume")


@pytest.mark.case(9)
@pytest.mark.parametrize("axis", range(3))
def test_three_slices_along_any_axis_are_refused(refused, scan, pixels, axis):
    save(scan, np.take(pixels, range(3), axis))
    refused("the shape is", "4 slices or more")


@pytest.mark.case(10)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused_with_their_count(refused, scan, pixels, value):
    data = pixels.astype(np.float32)
    data[0, 0, :3] = value
    save(scan, data)
    refused("3 voxels are NaN or infinite", "repair the image")


@pytest.mark.case(11)
def test_constant_image_is_refused(refused, scan):
    save(scan, np.full((12, 12, 12), 7, np.int16))
    refused("every voxel is 7", "not a head scan")


def with_sform(path, pixels, sform, zooms=None):
    """Write a NIfTI file whose sform alone is coded."""
    image = nib.Nifti1Image(pixels, np.eye(4))
    image.set_qform(None, 0)
    image.set_sform(sform, 1)
    whole = bytearray(image.to_bytes())
    whole[80:92] = struct.pack("<3f", *(zooms or (1, 1, 1)))  # pixdim, which nibabel would adapt
    path.write_bytes(gzip.compress(bytes(whole)))


@pytest.mark.case(12)
@pytest.mark.parametrize("row", range(3))
def test_affine_with_an_axis_that_points_nowhere_is_refused(refused, scan, pixels, row):
    sform = np.eye(4)
    sform[row] = 0
    with_sform(scan, pixels, sform)
    refused("affine is singular", "repair the header")


@pytest.mark.case(12)
def test_affine_with_two_parallel_axes_is_refused(refused, scan, pixels):
    sform = np.eye(4)
    sform[:, 1] = sform[:, 0]
    with_sform(scan, pixels, sform)
    refused("affine is singular", "repair the header")


@pytest.mark.case(13)
@pytest.mark.parametrize("zooms", [(3, 3, 3), (1, 1, 1.1)])
def test_voxel_sizes_that_contradict_the_affine_are_refused_with_both(refused, scan, pixels, zooms):
    with_sform(scan, pixels, np.eye(4), zooms)
    refused(f"[{float(zooms[0])}, {float(zooms[1])}, {float(zooms[2])}] contradict", "repair")


@pytest.mark.case(14)
def test_header_without_orientation_is_refused_until_it_is_stated(
    refused, convert, scan, pixels, tmp_path
):
    image = nib.Nifti1Image(pixels, np.eye(4))
    image.set_sform(np.eye(4), 0)
    image.set_qform(np.eye(4), 0)
    nib.save(image, scan)
    refused("has no orientation of the axes", "--orientation, e.g. LAS")
    assert convert(scan, "--orientation", "LAS").status == 0
    record = json.loads((tmp_path / "out/sub-1_T1w.json").read_text())
    assert record["source_orientation"] == "LAS"


@pytest.mark.case(14)
@pytest.mark.parametrize("stated", ["LLS", "XYZ", "LA", "qform"])
def test_orientation_that_is_none_is_refused(convert, scan, pixels, stated):
    nib.save(nib.AnalyzeImage(pixels, None), scan.with_name("a.img"))
    done = convert(scan.with_name("a.img"), "--orientation", stated)
    done.refused("a.img", "orient", "e.g. LAS")


def disagreeing(path, pixels):
    """Write a file whose sform runs to the right and whose qform runs to the left."""
    image = nib.Nifti1Image(pixels, np.eye(4))
    image.set_sform(np.eye(4), 1)
    image.set_qform(np.diag([-1, 1, 1, 1.0]), 1)
    nib.save(image, path)


@pytest.mark.case(15)
def test_transforms_that_disagree_on_left_and_right_are_refused_with_what_each_says(
    refused, scan, pixels
):
    disagreeing(scan, pixels)
    refused("sform says RAS, qform says LAS", "repair the header")


@pytest.mark.case(17)
@pytest.mark.parametrize(("trusted", "axes"), [("qform", "LAS"), ("sform", "RAS")])
def test_transform_that_is_stated_to_be_right_is_used_alone(
    refused, convert, scan, pixels, tmp_path, trusted, axes
):
    disagreeing(scan, pixels)
    refused("sform says", "qform or sform, with --orientation (or that column)")
    assert convert(scan, "--orientation", trusted).status == 0
    record = json.loads((tmp_path / "out/sub-1_T1w.json").read_text())
    assert record["source_orientation"] == axes
    assert [code for _, code in record["source_transforms"].values()].count(0) == 1
    affine = np.array(record["source_transforms"][trusted][0])
    np.testing.assert_allclose(affine, record["source_affine"])
    # the scan's page reads the original again, and must be told the same
    labels = nib.Nifti1Image(np.ones(pixels.shape, np.uint8), affine)
    nib.save(labels, tmp_path / "labels.nii.gz")
    layers = load_layers(tmp_path / "out/sub-1_T1w.nii.gz", tmp_path / "labels.nii.gz", None, None)
    assert layers.prediction.any()


@pytest.mark.case(17)
def test_wrong_sform_beside_a_right_qform_is_refused_until_the_qform_is_trusted(
    refused, convert, scan, pixels
):
    image = nib.Nifti1Image(pixels, np.eye(4))
    image.set_qform(np.eye(4), 1)
    image.header["sform_code"] = 1
    for row, values in zip(("srow_x", "srow_y", "srow_z"), np.eye(4)[:3] * 3, strict=True):
        image.header[row] = values
    scan.write_bytes(gzip.compress(image.header.binaryblock + bytes(4) + pixels.tobytes("F")))
    refused("contradict the affine ([3.0, 3.0, 3.0])", "qform or sform")
    assert convert(scan, "--orientation", "qform").status == 0


@pytest.mark.case(17)
def test_transform_that_a_header_lacks_leaves_the_other_one_in_force(convert, scan, pixels):
    with_sform(scan, pixels, np.eye(4))
    assert convert(scan, "--orientation", "qform").status == 0


# other ways of being no image


def patched(path, image, offset, content):
    """Write an image with some bytes of its header replaced."""
    whole = bytearray(image.to_bytes())
    whole[offset : offset + len(content)] = content
    path.write_bytes(gzip.compress(bytes(whole)))


@pytest.mark.case(1)
def test_header_with_an_impossible_size_is_refused(refused, scan, pixels):
    patched(scan, nib.Nifti1Image(pixels, np.eye(4)), 42, b"\xff\x7f" * 3)  # 32767 voxels an axis
    refused("its header claims 32767 × 32767 × 32767 voxels", "fetch it again")


@pytest.mark.case(1)
def test_unknown_type_of_voxels_is_refused(refused, pixels, tmp_path):
    path = tmp_path / "scan.mgz"
    patched(path, nib.MGHImage(pixels.astype(np.float32), np.eye(4)), 20, b"\0\0\0\x63")
    refused("cannot be read as an image", "fetch or convert it again", path)


@pytest.mark.case(1)
def test_compressed_garbage_is_refused(refused, scan):
    scan.write_bytes(gzip.compress(b"\1" * 999))
    refused("cannot be read as an image", "fetch or convert it again")


@pytest.mark.case(1)
def test_image_of_a_pair_without_its_header_is_refused(refused, tmp_path):
    path = tmp_path / "scan.img"
    path.write_bytes(bytes(400))
    refused("its header (.hdr) is missing", "put it beside", path)
