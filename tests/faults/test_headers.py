"""Headers of any valid numbers: read where nibabel and ITK read them, or refused (cases 70 to 74).

ITK takes an sform of code 1, else a qform if there is one; nibabel takes any sform.
"""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import from_matvec, voxel_sizes
from scipy.spatial.transform import Rotation

from fuzzing import workplace
from helpers import save, save_header
from quicknat.cohort.examine import examine_image
from quicknat.errors import InputError
from quicknat.images.placement import MAX_APART_MM, farthest_mm
from quicknat.images.volumes import Grid, on_grid, read_volume

SHAPE = (8, 9, 10)
MANY = settings(max_examples=max(300, settings().max_examples))
ROUNDING_MM = 0.02  # of float32, at 500 mm
sitk.ProcessObject.SetGlobalWarningDisplay(False)


def mostly(usual, *rare):
    """A strategy: the usual value in eleven of twelve draws."""
    return st.integers(0, 11).flatmap(lambda n: st.sampled_from(rare) if n == 0 else st.just(usual))


def turned(affine, degrees=(0, 0, 0), shift=(0, 0, 0)):
    """An affine turned about the middle of the grid, and shifted (mm)."""
    middle = affine @ [*(np.array(SHAPE) - 1) / 2, 1]
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ affine[:3, :3]
    return from_matvec(turn, middle[:3] + shift - turn @ ((np.array(SHAPE) - 1) / 2))


def three(strategy):
    return st.tuples(*[strategy] * 3).map(np.array)


@st.composite
def affines(draw):
    """An affine of an oblique grid of either handedness, and its voxel sizes."""
    zooms, angles = draw(three(st.floats(0.5, 25))), [0, 5, 45, 90, 180, -90, 33.3]
    turn = Rotation.from_euler("xyz", draw(three(st.sampled_from(angles))), degrees=True)
    matrix = turn.as_matrix() * zooms * [1, 1, draw(st.sampled_from([1, -1]))]
    return from_matvec(matrix, draw(three(st.floats(-200, 200)))), zooms


@st.composite
def deviating(draw, affine):
    """An affine that differs by nothing, rounding, a turn, a shift or a shear."""
    how = draw(st.sampled_from(["turn", "shift", "zoom", "shear"]))
    size = draw(st.sampled_from([0, 0, 0, 1e-6, 1e-4, 0.01, 0.1, 0.5, 2, 20]))
    steps = size * draw(three(st.floats(-1, 1)))
    if how in ("turn", "shift"):
        return turned(affine, **{"degrees" if how == "turn" else "shift": steps})
    change = np.eye(4)
    change[(0, 1, 2), (0, 1, 2) if how == "zoom" else (1, 2, 0)] += steps / 100
    return affine @ change


@st.composite
def headers(draw):
    """Bytes of a NIfTI-1 file with random transforms, sizes, units and scale factor."""
    affine, zooms = draw(affines())
    codes = mostly(1, 0, 2, 3, 4, 5, 6, -1)
    kind = draw(st.sampled_from([np.int16, np.uint8, np.float32]))
    header = nib.Nifti1Header(endianness=draw(st.sampled_from("<>")))
    header.set_data_dtype(kind)
    header.set_data_shape(SHAPE)
    header.set_qform(affine, 1)
    header.set_sform(draw(deviating(affine)), 1)
    header["qform_code"], header["sform_code"] = draw(codes), draw(st.one_of(codes, st.just(2)))
    length = 1 + draw(mostly(0, 1e-7, 1e-6, 1e-5, 0.1))
    for part in ("quatern_b", "quatern_c", "quatern_d"):
        header[part] *= length
    signs = [draw(mostly(1, -1)) for _ in zooms]
    header["pixdim"][1:4] = zooms * signs * draw(mostly(1, 1.001, 1.01, 1.03))
    header["pixdim"][0] *= draw(mostly(1, 0, 2, 0.5))
    header["xyzt_units"] = draw(mostly(2, 0, 10, 1, 3, 4))
    header["scl_slope"] = draw(st.sampled_from([1, 0, np.nan, 0.5, -2, 1e-3]))
    header["scl_inter"] = draw(mostly(0, 5, -1000, np.nan))
    header["vox_offset"] = draw(mostly(352, 0, 348))
    data = np.random.default_rng(0).integers(0, 200, SHAPE).astype(header.get_data_dtype())
    return header.binaryblock + bytes(4) + data.tobytes("F")


def resized(affine, zooms):
    """An affine with other voxel sizes."""
    return from_matvec(affine[:3, :3] / voxel_sizes(affine) * zooms, affine[:3, 3])


def by_itk(path):
    """Voxels and affine (RAS+ mm) of a file as ITK reads them; None if it refuses."""
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError:  # axes that are not at right angles
        return None
    matrix = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine = np.diag([-1, -1, 1, 1]) @ from_matvec(matrix, image.GetOrigin())
    return sitk.GetArrayFromImage(image).T, affine


def compare(content, folder):
    """How a file was read, and the largest distance (mm) of a voxel from where ITK puts it."""
    path = Path(folder) / "scan.nii"
    path.write_bytes(content)
    try:
        volume = read_volume(path)
    except InputError as error:
        assert "\n" not in str(error) and str(error).startswith(f"{path}: ") and error.fix
        return "refused", 0.0
    loaded = nib.load(path)
    np.testing.assert_array_equal(volume.affine, loaded.affine)
    found = by_itk(path)
    if found is None:
        return "read by nibabel alone", 0.0
    data, affine = found
    header = nib.Nifti1Header(content[:348], check=False)
    # without a slope ITK adds the intercept, against the standard
    slope = float(header["scl_slope"])
    if slope and np.isfinite(slope) and header["vox_offset"] == 352:
        np.testing.assert_allclose(volume.data, data, rtol=1e-5, atol=1e-4)
    matrices = [np.array(m) for m, code in (volume.transforms or {}).values() if code]
    sizes = abs(header["pixdim"][1:4])
    agree = all(
        farthest_mm(SHAPE, volume.affine, other) < ROUNDING_MM
        for matrix in matrices
        for other in (matrix, resized(matrix, sizes))
    )
    return "consistent" if agree else "nearly consistent", farthest_mm(SHAPE, volume.affine, affine)


@pytest.mark.slow
@pytest.mark.case(72)
@MANY
@given(headers())
def test_scan_is_where_nibabel_and_itk_put_it_or_refused(content):
    with workplace() as folder:
        outcome, apart = compare(content, folder / "in")
        assert apart < (2 * ROUNDING_MM if outcome == "consistent" else MAX_APART_MM)


@pytest.mark.case(74)
@pytest.mark.parametrize(
    ("moved", "aligned"),
    [({"shift": (0, 0.4, 0)}, True), ({"shift": (0, 0.6, 0)}, False),
     ({"degrees": (1.4, 0, 0)}, True), ({"degrees": (2.3, 0, 0)}, False)],
)  # fmt: skip
def test_labels_are_on_their_image_or_refused(tmp_path, moved, aligned):
    """They may be off by half a voxel of 1 mm: a turn moves the corners, 16 mm from the axis."""
    affine = turned(np.diag([1, 2, 3, 1.0]), (5, 10, 15))
    path = save(tmp_path / "labels.nii", np.zeros(SHAPE, np.uint8), turned(affine, **moved))
    labels, image = read_volume(path), Grid(SHAPE, affine)
    if aligned:
        assert np.array_equal(on_grid(labels, image).affine, affine)
    else:
        with pytest.raises(InputError, match="is not aligned with its image"):
            on_grid(labels, image)


AFFINE = from_matvec(np.eye(3), [-75, -80, -85])


def scan_of(path, sform=AFFINE, **fields):
    """Write a scan of 1 mm voxels whose qform is `AFFINE`, with other header fields."""
    data = np.zeros((150, 160, 170), np.uint8)
    data[30:120, 30:130, 30:140] = np.arange(110)
    return save_header(path, data, sform, AFFINE, **fields)


def about_middle(degrees=0, shift=0):
    """`AFFINE` turned about the middle of the grid, and shifted."""
    turn = Rotation.from_euler("x", degrees, degrees=True).as_matrix()
    return from_matvec(turn, turn @ AFFINE[:3, 3] + [0, 0, shift])


@pytest.mark.case(70)
@pytest.mark.parametrize(
    ("degrees", "shift", "code", "refused"),
    [(15, 0, 1, True), (15, 0, 2, True), (0, 80, 1, True), (0, 80, 2, True), (3, 0, 2, True),
     (3, 0, 1, False), (0.5, 0, 2, False), (0, 2, 2, False)],
)  # fmt: skip
def test_sform_turned_or_shifted(convert, tmp_path, degrees, shift, code, refused):
    path = scan_of(tmp_path / "scan.nii.gz", about_middle(degrees, shift), sform_code=code)
    if refused:
        apart = "sform says RAS, qform says RAS: they put voxels up to "
        convert(path).refused(path, apart, "qform or sform, with --orientation")
        assert np.allclose(read_volume(path, "qform").affine, AFFINE)
    else:
        assert convert(path).status == 0
        warned = examine_image(path, "").warnings
        assert any("mm apart; sform is used" in reason for reason in warned)


@pytest.mark.case(70)
def test_sheared_sform_for_which_itk_takes_the_qform(convert, tmp_path):
    sheared = about_middle(3) @ from_matvec([[1, 0.001, 0], [0, 1, 0], [0, 0, 1]])
    path = scan_of(tmp_path / "scan.nii.gz", sheared)
    assert np.allclose(by_itk(path)[1], AFFINE, atol=1e-3)
    convert(path).refused(path, "mm apart", "qform or sform, with --orientation")


@pytest.mark.case(73)
@pytest.mark.parametrize("excess", [2e-7, 5e-7, 2e-6, 1e-5, 5e-4])
def test_quaternion_that_rounding_made_too_long(tmp_path, excess):
    part = np.sqrt((1 + excess) / 3)
    quaternion = {"quatern_b": part, "quatern_c": -part, "quatern_d": part}
    path = scan_of(tmp_path / "scan.nii.gz", None, **quaternion)
    np.testing.assert_allclose(read_volume(path).affine, by_itk(path)[1], atol=1e-3)


@pytest.mark.case(73)
def test_voxels_are_read_where_they_begin_if_the_header_leaves_it_open(tmp_path):
    told = scan_of(tmp_path / "told.nii.gz")
    untold = scan_of(tmp_path / "untold.nii.gz", vox_offset=0)
    assert np.array_equal(read_volume(told).data, read_volume(untold).data)
    whole = gzip.decompress(untold.read_bytes())
    untold.write_bytes(gzip.compress(whole + bytes(8)))
    with pytest.raises(InputError, match="its vox_offset is 0, within the header"):
        read_volume(untold)
