"""The sheet: what is accepted, what is refused, and that splits stay put."""

from pathlib import Path

import pytest

from helpers import ROOT
from quicknat.cohort.naming import default_name
from quicknat.cohort.paths import find_one
from quicknat.cohort.sheet import auto_split, examine_sheet, read_sheet
from quicknat.errors import InputError
from quicknat.schema import all_problems, fits, load_schema


def sheet(
    tmp_path, *rows, columns="subject image labels label_convention split participant session"
):
    path = tmp_path / "sheet.tsv"
    lines = ["\t".join(columns.split()), *("\t".join(row.split("|")) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_order_of_rows_and_comments_change_nothing(tmp_path):
    rows = ["a|a.nii|a_l.nii|freesurfer|train||", "b|b.nii||||", "c|c.nii|||segment||"]
    rows[1] = "b|b.nii|||segment||"
    one = read_sheet(sheet(tmp_path, *rows))
    two = read_sheet(sheet(tmp_path, "# a comment", *reversed(rows), "# d|d.nii|||segment||"))
    assert one == two
    assert [scan.id for scan in one] == ["sub-a", "sub-b", "sub-c"]


def test_what_fits_a_schema_quickly_fits_it():
    schema = load_schema("sheet")
    row = {"subject": "a", "image": "a.nii", "split": "segment"}
    assert fits(row, schema) and not all_problems(row, schema, "")
    wrong = [{"subject": "a_b"}, {"split": "tset"}, {"orientation": "LA"}, {"imgae": ""}]
    for change in wrong:
        assert not fits(row | change, schema) and all_problems(row | change, schema, "")
    assert not fits({"subject": "a", "split": "segment"}, schema)
    source = {"source": "a", "kind": "file", "url": "file:///a"}  # whose checksum is missing
    assert not fits(source, load_schema("sources"))


def test_a_hash_within_a_cell_is_part_of_it(tmp_path):
    rows = ["a|in#1/a.nii|||segment|P#1|", "b|b.nii|||segment|P#2|"]
    one, two = read_sheet(sheet(tmp_path, *rows))
    assert one.image.endswith("in#1/a.nii") and (one.participant, two.participant) == ("P#1", "P#2")


def test_automatic_split_is_about_80_10_10_and_stable(tmp_path):
    splits = [auto_split(f"person{i}") for i in range(2000)]
    assert splits.count("train") / 2000 == pytest.approx(0.8, abs=0.03)
    assert splits.count("val") / 2000 == pytest.approx(0.1, abs=0.03)
    assert auto_split("OAS10001") == auto_split("OAS10001")


def test_repeat_scans_of_a_participant_fall_into_the_same_automatic_split(tmp_path):
    rows = [f"s{i}|a{i}.nii|l{i}.nii|freesurfer|auto|someone|" for i in range(20)]
    assert len({scan.split for scan in read_sheet(sheet(tmp_path, *rows))}) == 1


@pytest.mark.case(38)
@pytest.mark.parametrize("first", ["train", "pretrain"])
def test_a_participant_in_two_splits_is_refused(tmp_path, first):
    rows = [f"a|a.nii|l.nii|freesurfer|{first}|anna|", "b|b.nii|l.nii|freesurfer|test|anna|"]
    with pytest.raises(InputError, match=r"participant 'anna' is in .*sub-a.*sub-b"):
        read_sheet(sheet(tmp_path, *rows))


def test_pretraining_and_training_may_share_a_participant(tmp_path):
    rows = ["a|a.nii|||pretrain|anna|", "b|b.nii|l.nii|freesurfer|train|anna|"]
    assert len(read_sheet(sheet(tmp_path, *rows))) == 2


OLD = "subject image labels protocol use person session"


def test_old_names_of_columns_are_read_with_one_notice(tmp_path, caplog, monkeypatch):
    monkeypatch.delenv("QUICKNAT_NOTICES", raising=False)
    rows = ["a|a.nii|l.nii|freesurfer|train|anna|", "b|b.nii|||segment||"]
    now = read_sheet(sheet(tmp_path, *rows))
    assert caplog.text == ""
    path = sheet(tmp_path, *rows, columns=OLD)
    assert read_sheet(path) == now and read_sheet(path) == now
    (line,) = caplog.messages
    assert "'protocol' is now 'label_convention', 'use' is now 'split'" in line
    assert "'person' is now 'participant'" in line and str(path) in line


@pytest.mark.parametrize("new", ["split", "participant", "label_convention"])
def test_column_under_its_old_and_its_new_name_is_refused(tmp_path, new):
    path = sheet(tmp_path, "a|a.nii|||segment|||x", columns=f"{OLD} {new}")
    with pytest.raises(InputError, match=rf"has the column '{new}' and also '.*remove '") as error:
        read_sheet(path)
    assert "\n" not in str(error.value)


def test_scan_is_left_out_by_its_split(tmp_path):
    rows = ["a|a.nii|||segment||", "b|b.nii|||exclude||"]
    assert [scan.id for scan in read_sheet(sheet(tmp_path, *rows))] == ["sub-a"]


def test_entities_are_part_of_a_scans_name(tmp_path):
    columns = "subject session entities image split"
    rows = ["a|1|acq-x_run-2|a.nii|segment", "a|1||b.nii|segment", "a||run-2|c.nii|segment"]
    names = ["sub-a_run-2", "sub-a_ses-1", "sub-a_ses-1_acq-x_run-2"]
    assert [scan.id for scan in read_sheet(sheet(tmp_path, *rows, columns=columns))] == names
    for wrong in ("run", "run-1_", "desc-x", "run-1/..", "_run-1"):
        with pytest.raises(InputError, match="'entities' is"):
            read_sheet(sheet(tmp_path, f"a|1|{wrong}|a.nii|segment", columns=columns))
    assert default_name(Path("sub-a_ses-1_run-2_space-x_T1w.nii.gz")) == "sub-a_ses-1_run-2"


BAD_ROWS = {
    "a bad subject name": ("a b|a.nii|||segment||", "letters and digits"),
    "a subject that is shell code": ("$(rm)|a.nii|||segment||", "letters and digits"),
    "a leading path": ("../x|a.nii|||segment||", "letters and digits"),
    "an unknown split": ("a|a.nii|||testing||", "allowed: pretrain, train, val, test"),
    "no image to train on": ("a||l.nii|freesurfer|train||", "sub-a has no image"),
    "nothing to pre-train on": ("a|||freesurfer|pretrain||", "sub-a has no image"),
    "train without labels": ("a|a.nii|||train||", "no labels"),
    "labels without convention": ("a|a.nii|l.nii||train||", "no label_convention"),
    "no image": ("a||||segment||", "image"),
}


@pytest.mark.parametrize("fault", BAD_ROWS)
def test_bad_row_is_refused_naming_row_and_reason(tmp_path, fault):
    row, reason = BAD_ROWS[fault]
    with pytest.raises(InputError) as error:
        read_sheet(sheet(tmp_path, row))
    assert "sheet.tsv" in str(error.value) and reason in str(error.value)
    assert "\n" not in str(error.value)


def test_duplicate_scan_is_refused_and_a_session_tells_them_apart(tmp_path):
    rows = ["a|a.nii|||segment||", "a|b.nii|||segment||"]
    with pytest.raises(InputError, match="two rows"):
        read_sheet(sheet(tmp_path, *rows))
    rows = ["a|a.nii|||segment||1", "a|b.nii|||segment||2"]
    assert [s.id for s in read_sheet(sheet(tmp_path, *rows))] == [
        "sub-a_ses-1",
        "sub-a_ses-2",
    ]


def test_all_faults_are_collected_and_the_first_is_the_one_that_is_raised(tmp_path):
    rows = ["a b|a.nii|||segment||", "c|c.nii|||train||", "c|c.nii|l.nii||val||", "d|d.nii|||x||"]
    path = sheet(tmp_path, *rows)
    scans, faults = examine_sheet(path)
    assert [scan.id for scan in scans] == ["sub-c", "sub-c"]
    reasons = [
        "digits",
        "allowed",
        "no labels",
        "is in two rows",
        "no label_convention",
        "participant 'c'",
    ]
    for fault, reason in zip(faults, reasons, strict=True):
        assert reason in str(fault.error)
    with pytest.raises(InputError) as error:
        read_sheet(path)
    assert str(error.value) == str(faults[0].error)


def test_file_is_found_by_glob_and_without_regard_to_case(tmp_path):
    folder = tmp_path / "Disc1" / "OAS1_0001_MR1"
    folder.mkdir(parents=True)
    (folder / "scan_n4_masked_gfc.IMG").touch()
    found = find_one(tmp_path / "disc1" / "oas1_0001_mr1" / "*_masked_gfc.img")
    assert found.name == "scan_n4_masked_gfc.IMG"


def test_shipped_sheets_are_valid():
    for path in sorted((ROOT / "workflow/cohorts").glob("*.tsv")):
        assert read_sheet(path), path
