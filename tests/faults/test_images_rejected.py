"""Scans that cannot be used (cases 1 to 15, 17, 71): what `quicknat convert` says of them."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from helpers import save, save_header, tiny_scan
from in_process import quicknat
from quicknat.cohort.survey import survey
from quicknat.images import (
    volumes,  # noqa: F401  (before a test gives up the right to read them)
)
from quicknat.images.recognition import why_absent
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


def damaged(change):
    """A scan whose bytes on disk are changed."""
    return lambda path, pixels: path.write_bytes(change(tiny_scan(path).read_bytes()))


def cut(share):
    return damaged(lambda content: content[: int(len(content) * share)])


def bit_flipped(content):
    return content[:-6] + bytes([content[-6] ^ 1]) + content[-5:]  # of the CRC, in the last eight


def raw(content):
    return lambda path, pixels: path.write_bytes(content)


def text(content):
    return raw(content.encode())


def voxels(change):
    return lambda path, pixels: save(path, change(pixels))


def with_value(value):
    def make(path, pixels):
        data = pixels.astype(np.float32)
        data[0, 0, :3] = value
        save(path, data)

    return make


def header(sform=np.eye(4), qform=np.eye(4), **fields):
    """A file with these transforms and other fields of the header."""
    return lambda path, pixels: save_header(path, pixels, sform, qform, **fields)


def sizes(last, handedness=1):
    """Voxel sizes of a header: 1 mm but for the last one."""
    return handedness, 1, 1, last, 1, 1, 1, 1


def patched(make, offset, content):
    """A file with some bytes of its header replaced."""

    def write(path, pixels):
        whole = bytearray(make(pixels.astype(np.float32), np.eye(4)).to_bytes())
        whole[offset : offset + len(content)] = content
        path.write_bytes(gzip.compress(bytes(whole)))

    return write


RGB = np.zeros((9, 9, 9), np.dtype([(c, "u1") for c in "RGB"]))
PATH, AGAIN, CONVERT = "check the path", "fetch it again", "fetch or convert it again"
ONE, REAL, FOUR = "one 3-D volume", "one real value per voxel", "4 slices or more"
TO_NIFTI = "convert it to NIfTI"
PAGE, NAN, REPAIR = "fetch the file itself", "3 voxels are NaN or infinite", "repair the header"
ANNEX = "/annex/objects/MD5E-s8126464--0123456789abcdef0123456789abcdef.nii.gz\n"
LINK = "../../.git/annex/objects/aa/bb/MD5E-s812--0123456789abcdef.nii.gz/MD5E-s812--0.nii.gz"
DICOM, DCM2NIIX = bytes(128) + b"DICM\x02\0\0\0UL\x04\0" + bytes(99), "with dcm2niix"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
SINGULAR = "affine is singular"
# case and fault: what makes the file, the reason and the fix that are told, another name of it
SCANS = {
    "1 missing": (lambda path, pixels: None, "no such file", PATH),
    "1 a folder": (lambda path, pixels: path.mkdir(), "no such file", PATH),
    "1 garbage": (raw(gzip.compress(b"\1" * 999)), "cannot be read as an image", CONVERT),
    "2 empty": (text(""), "is empty", AGAIN),
    "3 truncated, a third left": (cut(0.3), "damaged", AGAIN),
    "3 truncated, only the end lacks": (cut(0.999), "damaged", AGAIN),
    "4 checksum": (damaged(bit_flipped), "damaged", AGAIN),
    "5 plain, named .gz": (damaged(gzip.decompress), "not compressed", "rename it"),
    "6 web page": (text("<!DOCTYPE html>"), "web page", PAGE),
    "6 page to log in": (text("\n<HTML><body>log in"), "web page", PAGE),
    "6 LFS pointer": (text(LFS), "Git LFS pointer", "git lfs pull"),
    "78 annex pointer": (text(ANNEX), "is a git-annex pointer", "run datalad get "),
    "78 annex link as text": (text(LINK), "is a git-annex pointer", "run datalad get "),
    "78 other text": (text('{"error": "no"}'), "holds text ('{", "fetch the image itself"),
    "79 DICOM": (raw(DICOM), "is a DICOM file", DCM2NIIX),
    "79 zip": (raw(b"PK\x03\x04" + bytes(99)), "is a zip archive", "unpack it"),
    "7 two frames": (voxels(lambda x: np.stack([x] * 2, -1)), "(12, 14, 16, 2)", ONE),
    "8 complex": (voxels(lambda x: x.astype(np.complex64)), "complex", REAL),
    "8 colour": (voxels(lambda x: RGB), "'R'", REAL),
    "9 one slice": (voxels(lambda x: x[:, :, 0]), "(12, 14)", ONE),
    "9 three axial": (voxels(lambda x: x[:, :, :3]), "the shape is", FOUR),
    "10 NaN": (with_value(np.nan), NAN, "repair the image"),
    "10 infinite": (with_value(np.inf), NAN, "repair the image"),
    "11 constant": (voxels(lambda x: np.full_like(x, 7)), "every voxel is 7", "not a head scan"),
    "12 no first axis": (header(np.diag([0, 1, 1, 1]), None), SINGULAR, REPAIR),
    "12 parallel axes": (header([[1, 1, 0, 0], [0] * 4, *np.eye(4)[2:]], None), SINGULAR, REPAIR),
    "13 thick slices": (
        header(qform=None, pixdim=sizes(1.1)), "[1.0, 1.0, 1.1] contradict", "repair",
    ),
    "15 left is right": (
        header(qform=np.diag([-1, 1, 1, 1])), "sform says RAS, qform says LAS", REPAIR,
    ),
    # what programs read differently
    "71 negative voxel size": (header(pixdim=sizes(-1)), "a voxel size of -1", REPAIR),
    "71 handedness": (header(None, pixdim=sizes(1, -2)), "a pixdim[0] of -2", REPAIR),
    "71 unknown code": (header(qform_code=9), "a qform_code of 9", REPAIR),
    "71 micrometres": (header(xyzt_units=3), "micrometres", REPAIR),
    "71 metres": (header(xyzt_units=1), "metres", REPAIR),
    "71 sizes 2 % off": (  # over the whole axis the error is more than 3 mm
        lambda path, pixels: header(qform=None, pixdim=sizes(1.019))(path, np.tile(pixels, 11)),
        "contradict the affine", REPAIR,
    ),
    # files of other names
    "5 compressed": (
        lambda path, pixels: tiny_scan(path.with_suffix(".nii.gz")).rename(path),
        "not named .gz", "rename or unzip", "scan.nii",
    ),
    "1 unknown type of voxels": (
        patched(nib.MGHImage, 20, b"\0\0\0\x63"), "cannot be read as an image", CONVERT, "scan.mgz",
    ),
    "1 half of a pair": (
        raw(bytes(400)), "its header (.hdr) is missing", "put it beside", "scan.img",
    ),
    "79 DICOM without suffix": (raw(DICOM), "is a DICOM file", DCM2NIIX, "scan"),
    "79 old DICOM": (raw(b"\x08\0\x05\0" + bytes(99)), "is a DICOM file", DCM2NIIX, "scan.dcm"),
    "79 NRRD": (raw(b"NRRD0004\ntype: short\n"), "is an NRRD image", TO_NIFTI, "scan.nrrd"),
    "79 MetaImage": (raw(b"ObjectType = Image\n"), "is a MetaImage", TO_NIFTI, "scan.mha"),
    "79 MINC": (raw(b"CDF\x01" + bytes(99)), "is a MINC image", "mnc2nii", "scan.mnc"),
}  # fmt: skip


@pytest.mark.case(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 71, 78, 79)
@pytest.mark.parametrize("fault", SCANS)
def test_scan(refused, scan, pixels, fault):
    make, reason, fix, *name = SCANS[fault]
    path = scan.with_name(*name) if name else scan
    make(path, pixels)
    refused(reason, fix, path)


@pytest.mark.case(1)
def test_rights(convert, unprivileged):
    path = tiny_scan(unprivileged / "scan.nii.gz")
    path.chmod(0)
    convert(path).refused(path, "Permission denied", "you have permission")


@pytest.mark.case(78)
@pytest.mark.parametrize(
    ("target", "reason", "fix"),
    [(LINK, "is a git-annex link whose content was not fetched", "run datalad get "),
     ("gone.nii.gz", "is a link to a missing file (gone.nii.gz)", "fetch that file, or rep")],
)  # fmt: skip
def test_link_to_nothing(refused, scan, tmp_path, target, reason, fix):
    """It is told what is missing, by the commands and in the list of what a sheet leaves out."""
    scan.symlink_to(target)
    refused(reason, fix)
    tiny_scan(tmp_path / "other.nii.gz")
    assert any(reason in each for each in survey(tmp_path).left_out.values())
    spaced = tmp_path / "my (study).nii.gz"
    spaced.symlink_to(target)
    assert target != LINK or f"datalad get '{spaced}' or" in why_absent(spaced)[1]


@pytest.mark.case(79)
def test_folder_of_dicom(tmp_path):
    """The commands that take folders name the converter."""
    (tmp_path / "study/series").mkdir(parents=True)
    (tmp_path / "study/series/IM0001").write_bytes(DICOM)
    for command in ("segment", "sheet"):
        done = quicknat("-q", command, tmp_path / "study", "--output", tmp_path / "out")
        done.refused(tmp_path / "study", "holds DICOM files (IM0001)", DCM2NIIX)


NO_AXES, STATE = "has no orientation of the axes", "--orientation, e.g. LAS"
STATED = {  # case and file: what makes it, the reason and the fix, what the user then states
    "14 scan.nii.gz": (header(None, None), NO_AXES, STATE, "LAS"),
    # by its goodRASFlag: not FreeSurfer's default
    "14 scan.mgz": (patched(nib.MGHImage, 28, b"\0\0"), NO_AXES, STATE, "RAS"),
    "17 wrong_sform.nii.gz": (header(sform=np.diag([3, 3, 3, 1])),
                              "contradict the affine ([3.0, 3.0, 3.0])", "qform or sform", "qform"),
}  # fmt: skip


@pytest.mark.case(14, 17)
@pytest.mark.parametrize("fault", STATED)
def test_fault_that_the_user_settles(refused, convert, pixels, tmp_path, fault):
    """The scan is refused until its orientation, or what to trust, is stated."""
    make, reason, fix, stated = STATED[fault]
    make(path := tmp_path / fault.partition(" ")[2], pixels)
    refused(reason, fix, path)
    assert convert(path, "--orientation", stated).status == 0
    record = json.loads((tmp_path / "out/sub-1_T1w.json").read_text())
    assert record["source_orientation"] == {"qform": "RAS"}.get(stated, stated)


@pytest.mark.case(14)
@pytest.mark.parametrize("stated", ["LLS", "XYZ", "LA", "qform", "LLL", "las"])
def test_stated_orientation(convert, scan, pixels, stated):
    """One that names no three axes is refused."""
    nib.save(nib.AnalyzeImage(pixels, None), scan.with_name("a.img"))
    done = convert(scan.with_name("a.img"), "--orientation", stated)
    done.refused("a.img", "orient", "e.g. LAS")


@pytest.mark.case(17)
@pytest.mark.parametrize(("trusted", "axes"), [("qform", "LAS"), ("sform", "RAS")])
def test_trusted_transform(refused, convert, scan, pixels, tmp_path, trusted, axes):
    """It is used alone."""
    header(qform=np.diag([-1, 1, 1, 1]))(scan, pixels)
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
def test_trusted_transform_that_is_absent(convert, scan, pixels):
    """The other one stays in force."""
    header(qform=None)(scan, pixels)
    assert convert(scan, "--orientation", "qform").status == 0
