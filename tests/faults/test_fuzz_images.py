"""Image files of any content are read right, or refused in one line that names them."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import struct
import tempfile
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st
from nibabel.spatialimages import HeaderDataError

from fuzzing import NUMBERS, contents, damaged, quicknat, workplace
from helpers import LABELS
from quicknat.images.volumes import read_volume

pytestmark = pytest.mark.timeout(3600, method="thread")  # also ends what hangs outside Python

MB = 1 << 20


def fields(image: type) -> dict[str, tuple[int, np.dtype]]:
    """Where the numbers of a format's header are, and as what they are stored, by name."""
    found = {}
    for name, (kind, start) in image.header_class.template_dtype.fields.items():
        if kind.base.kind in "iuf":
            for k in range(math.prod(kind.shape)):
                part = f"{name}{k}" if kind.shape else name
                found[part] = (start + kind.base.itemsize * k, kind.base)
    return found


SINGLE = fields(nib.Nifti1Image) | {  # of one file, and of the extension after its header
    "magic": (344, np.dtype("<i4")), "extension": (348, np.dtype("i1")),
    "esize": (352, np.dtype("<i4")), "ecode": (356, np.dtype("<i4")),
}  # fmt: skip
CLASSES = {
    ".nii": nib.Nifti1Image, ".nii.gz": nib.Nifti1Image, "2.nii": nib.Nifti2Image,
    ".mgz": nib.MGHImage, ".mgh": nib.MGHImage, ".img": nib.AnalyzeImage,
}  # fmt: skip
FIELDS = {suffix: fields(kind) for suffix, kind in CLASSES.items()}
FIELDS |= dict.fromkeys((".nii", ".nii.gz"), SINGLE)


SIDES, AFFINE = (7, 8, 9), np.diag([20, 20, 20, 1.0])


def made(suffix: str, dtype=np.int16, shape=SIDES, affine=AFFINE) -> dict[str, bytes]:
    """Bytes of a file of a bright block by its suffix, before compression; a pair has two."""
    data = np.zeros(shape)
    data[tuple(slice(2, -2) for _ in shape)] = 90
    data += np.indices(shape)[0]
    own = {".img": ".img", ".mgz": ".mgh", ".mgh": ".mgh"}.get(suffix, ".nii")
    with tempfile.TemporaryDirectory() as folder:
        nib.save(CLASSES[suffix](data.astype(dtype), affine), Path(folder, f"scan{own}"))
        files = {file.suffix: file.read_bytes() for file in Path(folder).iterdir()}
    return {(suffix if end == own else end): content for end, content in files.items()}


VALID = {suffix: made(suffix) for suffix in CLASSES}


def patched(content: bytes, suffix: str, changes: dict[str, float]) -> bytes:
    """A header with some fields set to a value, or to the nearest that they can hold."""
    data = bytearray(content)
    for name, value in changes.items():
        start, kind = FIELDS[suffix][name]
        if kind.kind != "f":
            held = np.iinfo(kind)
            value = 0 if value != value else int(max(held.min, min(value, held.max)))
        if start + kind.itemsize <= len(data):
            data[start : start + kind.itemsize] = np.array(value, kind).tobytes()
    return bytes(data)


@st.composite
def images(draw: st.DrawFn) -> dict[str, bytes]:
    """Files of one image, by suffix: valid, with other header fields, damaged, or incomplete."""
    suffix = draw(st.sampled_from(list(CLASSES)))
    files = dict(VALID[suffix])
    if draw(st.booleans()):
        dtypes = [np.uint8, np.int16, np.int32, np.float32]
        if "mg" not in suffix:
            dtypes += [np.float64] if suffix == ".img" else [np.float64, np.uint16, np.int64]
            dtypes += [np.complex64]
        shape = tuple(draw(st.lists(st.integers(1, 9), min_size=3, max_size=4)))
        numbers = draw(st.lists(st.floats(-1e3, 1e3), min_size=12, max_size=12))
        affine = np.array([*numbers, 0, 0, 0, 1]).reshape(4, 4)
        affine = affine.round(6)  # with an axis of 1e-200 mm, nibabel never ends to write it
        # nibabel itself refuses to write some
        with contextlib.suppress(ValueError, HeaderDataError, np.linalg.LinAlgError):
            files = made(suffix, draw(st.sampled_from(dtypes)), shape, affine)
    header = ".hdr" if suffix == ".img" else suffix
    names = st.sampled_from(list(FIELDS[suffix]))
    changes = draw(st.dictionaries(names, NUMBERS, max_size=4))
    with np.errstate(all="ignore"):
        files[header] = patched(files[header], suffix, changes)
    if draw(st.booleans()):
        which = draw(st.sampled_from(list(files)))
        files[which] = draw(damaged(files[which], head=400))
    if suffix in (".mgz", ".nii.gz"):
        files[suffix] = gzip.compress(files[suffix], 1)
        if draw(st.integers(0, 3)) == 0:
            files[suffix] = draw(damaged(files[suffix]))
    if len(files) > 1 and draw(st.integers(0, 9)) == 0:
        del files[draw(st.sampled_from(list(files)))]
    note(f"{suffix} {changes}")
    return files


def put(files: dict[str, bytes], folder: Path) -> Path:
    """Write them; returns the image's path."""
    for suffix, content in files.items():
        (folder / f"scan{suffix}").write_bytes(content)
    main = next((suffix for suffix in files if suffix != ".hdr"), ".img")
    return folder / f"scan{main}"


def converted(path: Path, output: Path, *options: object):
    options = ("--output", output, "--spacing", 10, "--size", 16, *options)
    return quicknat("convert", path, *options)


@given(images(), st.sampled_from(["", "LAS", "LLL", "XYZ"]))
def test_any_image_is_converted_or_refused_in_one_line_and_leaves_nothing(files, orientation):
    with workplace() as root:
        path = put(files, root / "in")
        before = contents(root / "in")
        done = converted(path, root / "out/a_T1w.nii.gz", f"--orientation={orientation}")
        if done.status == 0:
            volume = read_volume(root / "out/a_T1w.nii.gz")
            assert volume.shape == (16, 16, 16) and volume.data.dtype == np.uint8
            record = json.loads((root / "out/a_T1w.json").read_text())
            assert record["source"] == str(path)
            assert np.isfinite(volume.affine).all() and np.isfinite(record["source_affine"]).all()
        else:
            done.refused(path)
            assert contents(root / "out") == {}
        assert contents(root / "in") == before


@given(images())
def test_any_image_gets_a_verdict_of_the_check(files):
    with workplace() as root:
        path = put(files, root / "in")
        done = quicknat("check", path, "--output", root / "out/check.tsv", "--threads", 1)
        assert done.status in (0, 1) and done.err == [], str(done)
        line = next(line for line in done.out if line.startswith("sub-"))
        assert (" bad " in line) == (done.status == 1) and str(path) in line


@given(images())
def test_any_label_map_is_converted_or_refused(files):
    with workplace() as root:
        scan = root / "in/sub-1_T1w.nii.gz"
        assert converted(put(VALID[".nii"], root / "in"), scan).status == 0
        path = put(files, root / "in")
        outputs = [root / "out/dseg.nii.gz", root / "out/native.nii.gz"]
        done = quicknat(
            "convert-labels", path, "--scan", scan, "--label-convention", "freesurfer",
            "--protocol", LABELS / "quicknat28.tsv", "--output", outputs[0], "--native", outputs[1],
        )  # fmt: skip
        if done.status:
            done.refused(path)
        assert [output.exists() for output in outputs] == [done.status == 0] * 2


def with_header(suffix: str, **changes: float) -> dict[str, bytes]:
    """A file whose header has other values, as it lies on disk."""
    header = ".hdr" if suffix == ".img" else suffix
    content = patched(VALID[suffix][header], suffix, changes)
    if suffix in (".mgz", ".nii.gz"):
        content = gzip.compress(content, 1)
    return {**VALID[suffix], header: content}


def with_extension(said: int, content: bytes) -> dict[str, bytes]:
    """A NIfTI file with a JSON header extension that says how long it is."""
    plain = VALID[".nii"][".nii"]
    header = patched(plain[:352], ".nii", {"vox_offset": 352 + 8 + len(content), "extension": 1})
    return {".nii": header + struct.pack("<ii", said, 32) + content + plain[352:]}


NAN = float("nan")
HUGE = {"dim1": 32767, "dim2": 32767, "dim3": 32767}
# what each is, and what the line says of it
FOUND = {
    "a claim of 35 000 GB": (with_header(".nii.gz", **HUGE), "claims 32767 × 32767 × 32767"),
    "the same of NIfTI-2": (with_header("2.nii", dim1=2**62, dim2=2**62, dim3=2**62), "claims"),
    "the same of a pair": (with_header(".img", **HUGE), "claims"),
    "a claim of 1 GB": (with_header(".nii.gz", dim1=800, dim2=800, dim3=800), "is truncated"),
    "no voxels": (with_header(".mgz", dims1=0), "non-zero"),
    "negative sides": (with_header(".nii", dim1=-7), ""),
    "sides too many": (with_header(".nii", dim0=9), ""),
    "an unknown type": (with_header(".nii", datatype=77), "cannot be read"),
    "voxels beyond the file": (with_header(".nii", vox_offset=1e9), "is truncated"),
    "voxels before the file": (with_header(".nii", vox_offset=-1e9), ""),
    "voxel sides NaN": (with_header(".nii", pixdim1=NAN), ""),
    "voxel sides of an atom": (with_header("2.nii", pixdim1=1e-9, srow_x0=1e-9), "mm"),
    "NaN in the sform": (with_header(".nii", srow_x0=NAN), "sform holds no usable numbers"),
    "an offset beyond all": (with_header(".nii", srow_x3=3e38), "sform holds no usable numbers"),
    "NaN in an MGH's axes": (with_header(".mgh", Mdc0=NAN), ""),
    "a slope beyond all": (with_header(".nii", scl_slope=3e38), "voxels reach"),
    "a pair cut short": ({**VALID[".img"], ".img": VALID[".img"][".img"][:99]}, "is truncated"),
    "an extension of negative length": (with_extension(-16, b'{"a": 1}'), ""),
}


@pytest.mark.parametrize("fault", FOUND)
def test_damaged_header_is_refused_before_memory_is_taken_for_it(tmp_path, fault):
    files, reason = FOUND[fault]
    path = put(files, tmp_path)
    output = tmp_path / "out/a_T1w.nii.gz"
    converted(tmp_path / "absent.nii", output)  # imports take memory too
    tracemalloc.start()
    done = converted(path, output, "--orientation", "LAS")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    done.refused(path, reason)
    assert "; " in done.err[0]  # what to do
    assert peak < 30 * MB and not output.parent.exists()


def test_header_extension_is_no_fault_unless_it_ends_beyond_the_file(tmp_path):
    path = put(with_extension(16, b'{"a": 1}'), tmp_path)
    assert read_volume(path).shape == (7, 8, 9)
    put(with_extension(2**31 - 16, b'{"a": 1}'), tmp_path)
    converted(path, tmp_path / "out/a.nii.gz").refused(path)


def test_gzip_bomb_is_read_no_further_than_any_image_goes(tmp_path, monkeypatch):
    monkeypatch.setattr("quicknat.images.volumes.MAX_BYTES", 10 * MB)
    path = put({".nii.gz": gzip.compress(VALID[".nii"][".nii"] + bytes(40 * MB))}, tmp_path)
    converted(path, tmp_path / "out/a.nii.gz").refused(path, "unpacks to more than")
