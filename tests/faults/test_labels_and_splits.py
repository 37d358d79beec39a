"""Label maps, label tables and sheets that cannot be used (cases 30 to 42)."""

import nibabel as nib
import numpy as np
import pytest

from helpers import LABELS, save, tiny_labels, tiny_scan
from in_process import quicknat
from quicknat.cohort.check import read_verdicts
from quicknat.images.labels import Protocol
from quicknat.images.volumes import as_bytes, read_volume
from quicknat.synthesis.tissues import to_tissues


@pytest.fixture
def labels(tmp_path):
    """A good label map of the scan, to be spoilt."""
    return tiny_labels(tmp_path / "labels.nii.gz")


@pytest.fixture
def convert_labels(convert, tmp_path, labels):
    """Convert the label map of a scan that is converted already."""
    assert convert(tiny_scan(tmp_path / "scan.nii.gz")).status == 0
    conformed = tmp_path / "sub-1_T1w.nii.gz"
    for path in (tmp_path / "out").iterdir():
        path.rename(tmp_path / path.name)

    def run(protocol=LABELS / "quicknat28.tsv"):
        options = ("--label-convention", "freesurfer", "--protocol", protocol, "--overwrite")
        options += ("--output", tmp_path / "out/dseg.nii.gz")
        options += ("--native", tmp_path / "out/native.nii.gz")
        return quicknat("-q", "convert-labels", labels, "--scan", conformed, *options)

    return run


def changed(value, count=1):
    """Give the first voxels of a label map another value."""

    def change(data):
        data[0, 0, :count] = value
        return data

    return change


@pytest.mark.case(30)
def test_whole_numbers_stored_as_decimals_are_labels(convert_labels, labels, tmp_path):
    save(labels, changed(17.0)(np.asarray(nib.load(labels).dataobj).astype(float)))
    assert convert_labels().status == 0
    native = np.asarray(nib.load(tmp_path / "out/native.nii.gz").dataobj)
    assert native[0, 0, 0] == 15  # left hippocampus


@pytest.mark.case(77)
def test_labels_that_a_scale_factor_left_beside_whole_numbers_are_rounded(
    convert_labels, labels, tmp_path
):
    """By every reader: 40.99999908 is no 40, neither as a class nor as a tissue."""
    assert convert_labels().status == 0
    expected = (tmp_path / "out/native.nii.gz").read_bytes()
    data = np.asarray(nib.load(labels).dataobj)
    for near in (data * np.float64(np.float32(0.01)) * 100, data * 1.0 - 9e-4 * (data > 0)):
        save(labels, near)
        assert convert_labels().status == 0
        assert (tmp_path / "out/native.nii.gz").read_bytes() == expected
        volume, protocol = read_volume(labels), Protocol.read(LABELS / "quicknat28.tsv")
        tissues = to_tissues(volume.data, "freesurfer", protocol, labels)
        assert np.array_equal(tissues > 0, data > 0)
        assert np.array_equal(as_bytes(volume, 41), data)


SLOPE = 43 / 255  # as SPM stores 0 to 43 in bytes
ELSEWHERE = np.diag([2, 2, 2, 1.0])
ELSEWHERE[0, 3] = 10
# by case: what is done to a label map, its affine, reason and fix
MAPS = {
    "30 a fraction": (changed(17.5), None, "label value 17.5 is not a whole number", "not probabi"),
    "77 spoilt by a scale factor": (
        lambda data: np.rint(data / SLOPE) * SLOPE, None,
        "label value 2.02353 is not a whole number", "as integers without a scale factor",
    ),
    "31 an unknown label": (
        changed(777, count=3), None, "777 (3 voxels) is in no row of the label table 'quicknat28'",
        "add the value",
    ),
    "33 a negative label": (changed(-1), None, "label value -1 (1 voxels)", "add the value"),
    "33 a huge label": (changed(1e30), None, f"label value {int(1e30)} (1 voxels)", "add the"),
    "34 another shape": (
        lambda data: data[1:], None, "(11, 12, 12), its image (12, 12, 12)", "labels on its grid",
    ),
    "34 elsewhere": (np.copy, ELSEWHERE, "is not aligned with its image", "labels on its grid"),
    "37 background alone": (np.zeros_like, None, "contains no structure of", "right file"),
}  # fmt: skip


@pytest.mark.case(30, 31, 33, 34, 37, 77)
@pytest.mark.parametrize("fault", MAPS)
def test_label_map_that_cannot_be_used_is_refused(convert_labels, labels, tmp_path, fault):
    change, affine, reason, fix = MAPS[fault]
    save(labels, change(np.asarray(nib.load(labels).dataobj).astype(float)), affine)
    convert_labels().refused(labels, reason, fix, tmp_path / "out")


TABLES = {  # column, row, value, reason and fix
    "duplicate name": ("name", 3, "Background", "'Background' is in two rows", "once"),
    "number mapped twice": ("freesurfer", 3, "2", "2 is mapped to two classes", "in one row"),
    "gap": ("index", 3, "7", "gaps or repeats", "without gaps"),
    "no colour": ("color", 3, "red", "'red' of Right cerebral white matter", "#00FF7F"),
    "no partner": ("partner", 3, "", "its partner does not name it", "name each other"),
    "sides apart": ("sagittal", 27, "40", "has another sagittal class", "one sagittal class"),
}


@pytest.mark.case(32)
@pytest.mark.parametrize("fault", TABLES)
def test_label_table_with_duplicates_or_gaps_is_refused(convert_labels, tmp_path, fault):
    column, row, value, reason, fix = TABLES[fault]
    lines = [line.split("\t") for line in (LABELS / "quicknat28.tsv").read_text().splitlines()]
    lines[row + 1][lines[0].index(column)] = value
    table = tmp_path / "table.tsv"
    table.write_text("\n".join("\t".join(line) for line in lines) + "\n")
    convert_labels(table).refused(table, reason, fix, tmp_path / "out")


def check(folder, text):
    """Check a sheet as a user does; how it ended, and the verdicts by scan."""
    (folder / "sheet.tsv").write_bytes(text.encode())
    done = quicknat("check", folder / "sheet.tsv", "--output", folder / "check.tsv")
    return done, {verdict.scan: verdict for verdict in read_verdicts(folder / "check.tsv")}


@pytest.mark.case(41)
def test_name_that_matches_two_files_is_refused_with_both(convert, tmp_path):
    for name in ("a_run-1.nii.gz", "a_run-2.nii.gz"):
        tiny_scan(tmp_path / name)
    pattern = tmp_path / "a_*.nii.gz"
    reason = "matches 2 files (a_run-1.nii.gz, a_run-2.nii.gz)"
    convert(pattern).refused(pattern, reason, "name one", tmp_path / "out")


@pytest.mark.case(42)
@pytest.mark.parametrize("name", ["with a space", "Schädel Ōsaka", "脑", "$(touch x);'\"&"])
def test_scan_may_lie_under_any_name(convert, tmp_path, name):
    (tmp_path / name).mkdir()
    assert convert(tiny_scan(tmp_path / name / f"{name}.nii.gz")).status == 0


@pytest.mark.case(40, 42)
def test_sheet_of_windows_with_accents_links_and_sessions_of_some_is_read(tmp_path):
    tiny_scan(tmp_path / "ein Schädel.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to(tiny_scan(tmp_path / "scan.nii.gz"))
    tiny_scan(tmp_path / "b.nii.gz")
    rows = ["subject\tsession\timage\tsplit", "007\t\tein Schädel.nii.gz\tsegment"]
    rows += ["a\t1\tlink.nii.gz\tsegment", "a\t2\tb.nii.gz\tsegment", ""]
    done, found = check(tmp_path, "\r\n".join(rows))
    assert done.status == 0 and list(found) == ["sub-007", "sub-a_ses-1", "sub-a_ses-2"]


HEADER, ROW = "subject\timage\tsplit", "a\ta.nii.gz\tsegment"
SHEETS = {
    "duplicate row": ([HEADER, ROW, ROW], "sub-a", "two rows"),
    "empty cohort": ([HEADER], "(sheet)", "lists no scan"),
    "unknown column": ([f"{HEADER}\tsesion", f"{ROW}\t1"], "(sheet)", "did you mean 'session'"),
    "missing column": (["subject\timage", "a\ta.nii.gz"], "(sheet)", "'split' is missing"),
}


@pytest.mark.case(42)
@pytest.mark.parametrize("fault", SHEETS)
def test_sheet_of_wrong_rows_or_columns_is_refused(tmp_path, fault):
    lines, scan, reason = SHEETS[fault]
    tiny_scan(tmp_path / "a.nii.gz")
    done, found = check(tmp_path, "\n".join([*lines, ""]))
    assert done.status == 1 and found[scan].verdict == "bad" and reason in found[scan].reason
