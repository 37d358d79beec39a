"""Ratings from the report, and what `quicknat sheet --exclude` makes of them."""

import pytest
from typer.testing import CliRunner

from quicknat.cli import app
from quicknat.cohort.ratings import exclude_in_sheet, failed_scans
from quicknat.cohort.sheet import read_sheet
from quicknat.errors import InputError

SHEET = (
    "# mine\r\nsubject\tsession\timage\tsplit\r\n"
    "1\ta\tx.nii\tsegment\r\n# 1\tb\ty.nii\tsegment\r\n2\t\tz.nii\tauto\r\n"
)


def ratings(path, *rows, head="scan\trating\tnote"):
    path.write_text("\n".join([head, *("\t".join(row) for row in rows)]) + "\n")
    return path


def test_only_scans_rated_fail_are_excluded_and_the_rest_of_the_sheet_stays(tmp_path):
    sheet = tmp_path / "cohort.tsv"
    sheet.write_bytes(SHEET.replace("auto", "segment").encode())
    table = ratings(tmp_path / "r.tsv", ("sub-1_ses-a", "fail", "leak"), ("sub-2", "doubtful", ""),
                    ("sub-9", "fail", "n/a"))  # fmt: skip
    assert failed_scans(table) == ["sub-1_ses-a", "sub-9"]
    assert exclude_in_sheet(sheet, failed_scans(table)) == ["sub-1_ses-a"]
    expected = SHEET.replace("x.nii\tsegment", "x.nii\texclude").replace("auto", "segment")
    assert sheet.read_bytes() == expected.encode()
    assert [scan.id for scan in read_sheet(sheet)] == ["sub-2"]


def test_old_column_names_are_known_too(tmp_path):
    sheet = tmp_path / "cohort.tsv"
    sheet.write_text("subject\timage\tuse\n1\tx.nii\tsegment\n2\ty.nii\tsegment\n")
    assert exclude_in_sheet(sheet, ["sub-1"]) == ["sub-1"]
    assert "1\tx.nii\texclude" in sheet.read_text()


def test_note_without_a_rating_is_no_rating_and_several_models_are_said(tmp_path, caplog):
    head = "scan\trating\tnote\tmodel"
    rows = [("sub-1", "n/a", "look again", "abc"), ("sub-1", "fail", "n/a", "abc")]
    assert failed_scans(ratings(tmp_path / "r.tsv", *rows, head=head)) == ["sub-1"]
    assert "several models" not in caplog.text
    rows.append(("sub-2", "fail", "n/a", "def"))
    assert failed_scans(ratings(tmp_path / "s.tsv", *rows, head=head)) == ["sub-1", "sub-2"]
    assert "several models: abc, def" in caplog.text


def test_row_that_ends_before_the_split_is_excluded_too(tmp_path):
    sheet = tmp_path / "cohort.tsv"
    sheet.write_text("subject\timage\tlabels\tsplit\n1\tx.nii\n2\ty.nii\t\tsegment\n")
    assert exclude_in_sheet(sheet, ["sub-1"]) == ["sub-1"]
    assert sheet.read_text().splitlines()[1] == "1\tx.nii\t\texclude"


@pytest.mark.parametrize(
    ("rows", "head", "problem"),
    [
        ([("sub-1", "bad", "")], "scan\trating\tnote", "rates sub-1 as 'bad'"),
        ([("sub-1", "fail", ""), ("sub-1", "pass", "")], "scan\trating\tnote", "'fail' and 'pass'"),
        ([("sub-1", "fail", "")], "subject\trating\tnote", "has no column 'scan'"),
    ],
)
def test_ratings_that_cannot_be_used_are_refused(tmp_path, rows, head, problem):
    with pytest.raises(InputError, match=problem):
        failed_scans(ratings(tmp_path / "r.tsv", *rows, head=head))


@pytest.mark.parametrize("again", [[], ["--add"]])
def test_sheet_command_excludes_in_a_new_sheet_and_in_an_old_one(tmp_path, again):
    for name in ("a", "b"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / f"data/{name}.nii.gz").write_bytes(b"")
    output = tmp_path / "cohort.tsv"
    command = ["sheet", str(tmp_path / "data"), "--output", str(output)]
    table = ratings(tmp_path / "r.tsv", ("sub-a", "fail", ""))
    if again:
        assert CliRunner().invoke(app, command).exit_code == 0
    done = CliRunner().invoke(app, [*command, *again, "--exclude", str(table)])
    assert done.exit_code == 0, done.output
    assert [scan.id for scan in read_sheet(output)] == ["sub-b"]
    assert "\texclude" in output.read_text()
