"""Sheets as `quicknat sheet` writes and changes them, and ratings of their scans."""

from dataclasses import replace

import pytest

from data_sets import surfer, tree
from in_process import quicknat
from quicknat.cohort.paths import find_one
from quicknat.cohort.sheet import SCANS, Scan, read_sheet
from quicknat.cohort.survey import survey
from quicknat.cohort.writing import (
    add_to_sheet,
    exclude_in_sheet,
    failed_scans,
    resolve,
    write_sheet,
)
from quicknat.errors import InputError


def test_split_is_given_to_the_scans_that_can_have_it(tmp_path):
    scans = survey(tree(tmp_path, *surfer("anna"), *surfer("bert", "orig.mgz"))).scans
    assert [scan.split for scan in resolve(scans, "train")] == ["train", "segment"]
    assert [scan.split for scan in resolve(scans, "pretrain")] == ["pretrain", "pretrain"]
    assert [scan.split for scan in resolve(scans)] == ["auto", "segment"]


def test_convention_that_no_layout_states_must_be_given_and_be_valid(tmp_path):
    scans = survey(tree(tmp_path, "a.nii", "a_seg.nii")).scans
    with pytest.raises(InputError, match=r"a_seg.nii: .*convention.*--label-convention"):
        resolve(scans)
    assert [scan.label_convention for scan in resolve(scans, convention="seed4")] == ["seed4"]
    with pytest.raises(InputError, match="out/cohort.tsv row 1.*'label_convention'"):
        write_sheet(resolve(scans, convention="free surfer"), tmp_path / "out/cohort.tsv")
    assert list((tmp_path / "out").iterdir()) == []


def test_paths_are_relative_below_the_sheet_and_absolute_elsewhere(tmp_path):
    scans = survey(tree(tmp_path / "my study", *surfer("an na"))).scans
    write_sheet(scans, tmp_path / "cohort.tsv")
    write_sheet(scans, tmp_path / "sheets/cohort.tsv")
    (near,) = read_sheet(tmp_path / "cohort.tsv")
    (far,) = read_sheet(tmp_path / "sheets/cohort.tsv")
    assert near.labels == "my study/an na/mri/aseg.mgz"
    assert far.labels == str(tmp_path / "my study/an na/mri/aseg.mgz")
    assert find_one(tmp_path / near.image) == find_one(far.image)


def test_sheet_has_the_schemas_columns_and_is_never_overwritten_unasked(tmp_path):
    scans = survey(tree(tmp_path, *surfer("anna"))).scans
    path = tmp_path / "cohort.tsv"
    write_sheet(scans, path)
    columns = [name for name in SCANS.json_schema()["properties"] if name != "entities"]
    assert path.read_text().splitlines()[0].split("\t") == columns
    path.write_text("mine")
    with pytest.raises(InputError, match=r"cohort.tsv: already exists; .*--overwrite"):
        write_sheet(scans, path)
    assert path.read_text() == "mine"
    write_sheet(scans, path, overwrite=True)
    assert read_sheet(path)[0].id == "sub-anna"


@pytest.fixture
def grown(tmp_path):
    """A sheet of anna, changed by the user, who took bert out; and scans of both and of cleo."""
    files = [file for name in ("anna", "bert", "cleo") for file in surfer(name)]
    scans = survey(tree(tmp_path / "data", *files)).scans
    sheet = tmp_path / "cohort.tsv"
    write_sheet(scans, sheet)
    header, anna, bert, cleo = sheet.read_text().splitlines()
    text = "\n".join(["# mine", header, anna.replace("auto", "val"), f"# {bert}"])
    sheet.write_text(text)  # no line end at its end, as some editors leave it
    return scans, sheet, text, cleo


NOW, BEFORE = "label_convention\tsplit\tparticipant", "protocol\tuse\tperson"


@pytest.mark.parametrize("columns", [NOW, BEFORE])
def test_new_scans_are_added_to_a_sheet_and_the_rest_of_it_stays(grown, columns):
    scans, sheet, text, cleo = grown
    text = text.replace(NOW, columns)
    sheet.write_text(text)
    for expected in ({"sub-cleo"}, set()):
        found, new = add_to_sheet(scans, sheet)
        assert new == expected and (found[0].id, found[0].split) == ("sub-anna", "val")
        assert sheet.read_text() == f"{text}\n{cleo}\n"


def test_labels_that_a_sheet_lacks_and_rows_without_a_file_are_named(tmp_path, caplog):
    sheet = tmp_path / "cohort.tsv"
    scans = [Scan(subject=name, image=f"{name}.nii", split="segment") for name in ("a", "b", "c")]
    write_sheet(scans, sheet)
    add_to_sheet(scans[:1], sheet)
    assert "images are missing of sub-a, sub-b, sub-c" in caplog.text
    for scan in scans:
        (tmp_path / scan.image).touch()
    caplog.clear()
    text = sheet.read_text()
    labelled = {"labels": "a_dseg.nii", "label_convention": "freesurfer", "split": "auto"}
    add_to_sheet([replace(scans[0], **labelled), *scans[1:]], sheet)
    assert "1 have labels now, but not in the sheet" in caplog.text
    assert caplog.text.rstrip().endswith("label_convention, split: sub-a")
    assert sheet.read_text() == text  # a split is the user's to choose
    sheet.write_text(text.replace("a.nii\t\t\t\tsegment", "a.nii\tmine.nii\t\tfreesurfer\tval"))
    caplog.clear()
    add_to_sheet([replace(scans[0], **labelled)], sheet)
    sheet.write_text(text.replace("a.nii\t\t\t\tsegment", "a.nii\t\t\t\texclude"))
    add_to_sheet([replace(scans[0], **labelled)], sheet)
    assert caplog.text == ""


def test_command_takes_the_convention_from_the_sheet_and_says_what_is_new(tmp_path):
    tree(tmp_path / "data", "a.nii", "a_dseg.nii", "b.nii", "b_dseg.nii")
    rows = "subject\timage\tlabels\tlabel_convention\tsplit\n"
    rows += "a\tdata/a.nii\tdata/a_dseg.nii\ttissues4\tval\n"
    (sheet := tmp_path / "cohort.tsv").write_text(rows)
    done = quicknat("sheet", tmp_path / "data", "--output", sheet, "--add")
    assert done.status == 0, str(done)
    (row,) = sheet.read_text().splitlines()[2:]
    assert row.split("\t")[3:] == ["tissues4", "auto"]
    assert "  new: sub-b, train" in done.err
    assert {"  train     1  (by split=auto)", "  val       1"} <= set(done.err)


def test_new_scans_go_into_the_columns_that_a_sheet_has(grown, tmp_path):
    scans, sheet, _, _ = grown
    sheet.write_text("split\tlabels\timage\tlabel_convention\tsubject\nsegment\t\tx.nii\t\tanna\n")
    found, new = add_to_sheet(scans[2:], sheet)
    assert new == {"sub-cleo"} and [scan.id for scan in found] == ["sub-anna", "sub-cleo"]
    for text, problem in (
        ("split\timage\tsubject\nsegment\tx.nii\tanna\n", "has no column 'labels', which new"),
        ("subject\timage\tsplit\tlabels\tlabel_convention\tage\na\ta.nii\tsegment\t\t\t30\n",
         r"cohort\.tsv: unknown key 'age'"),
    ):  # fmt: skip
        sheet.write_text(text)
        with pytest.raises(InputError, match=problem):
            add_to_sheet(scans, sheet)
        assert sheet.read_text() == text
    with pytest.raises(InputError, match="no such file"):
        add_to_sheet(scans, tmp_path / "absent.tsv")


def test_rows_without_trailing_cells_and_foreign_line_ends_stay_as_they_are(grown):
    scans, sheet, _, _ = grown
    text = "\ufeffsubject\timage\tlabels\tsplit\tlabel_convention\tsession\r\n"
    text += "anna\ta.nii\t\tsegment\r\n#bert\tb.nii\t\tsegment\r\n"
    sheet.write_bytes(text.encode())
    assert add_to_sheet(scans, sheet)[1] == {"sub-cleo"}
    found = sheet.read_bytes().decode()
    assert found.startswith(text + "cleo\t") and found.endswith("\t\r\n")


SHEETS = {  # what is before, in and after the row of the scan; and that row once it is excluded
    "comments and line ends": (
        "# mine\r\nsubject\tsession\timage\tsplit\r\n# 1\ta\ty.nii\tauto\r\n",
        "1\ta\tx.nii\tsegment", "\r\n2\t\tz.nii\tsegment\r\n", "1\ta\tx.nii\texclude",
    ),
    "old names": (
        "subject\tsession\timage\tuse\n",
        "1\ta\tx.nii\tsegment", "\n2\t\tz.nii\tsegment", "1\ta\tx.nii\texclude",
    ),
    "row that ends before the split": (
        "\ufeffsubject\tsession\timage\tlabels\tsplit\n",
        "1\ta\tx.nii", "\n2\t\tz.nii\t\tsegment\n", "1\ta\tx.nii\t\texclude",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHEETS)
def test_excluded_scans_are_marked_and_the_rest_of_the_sheet_stays(tmp_path, name):
    sheet, (start, row, end, excluded) = tmp_path / "cohort.tsv", SHEETS[name]
    sheet.write_bytes((start + row + end).encode())
    names = ["sub-1_ses-a", "sub-9", "sub-subject_ses-session"]
    assert exclude_in_sheet(sheet, names) == ["sub-1_ses-a"]
    assert sheet.read_bytes() == (start + excluded + end).encode()
    assert [scan.id for scan in read_sheet(sheet)] == ["sub-2"]


def ratings(path, *rows):
    path.write_text("\n".join("\t".join(row.split()) for row in rows) + "\n")
    return path


def test_note_without_a_rating_is_no_rating_and_several_models_are_said(tmp_path, caplog):
    rows = ["scan rating note model", "sub-1 n/a look abc", "sub-1 fail n/a abc",
            "sub-2 doubtful n/a abc"]  # fmt: skip
    assert failed_scans(ratings(tmp_path / "r.tsv", *rows)) == ["sub-1"]
    assert "several models" not in caplog.text
    more = ratings(tmp_path / "s.tsv", *rows, "sub-3 fail n/a def")
    assert failed_scans(more) == ["sub-1", "sub-3"]
    assert "several models: abc, def" in caplog.text


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (["scan rating", "sub-1 bad"], "rates sub-1 as 'bad'"),
        (["scan rating", "sub-1 fail", "sub-1 pass"], "'fail' and 'pass'"),
        (["subject rating", "sub-1 fail"], "has no column 'scan'"),
    ],
)
def test_ratings_that_cannot_be_used_are_refused(tmp_path, rows, problem):
    with pytest.raises(InputError, match=problem):
        failed_scans(ratings(tmp_path / "r.tsv", *rows))
