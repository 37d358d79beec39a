"""The sheet: what is accepted, what is refused, and that splits stay put."""

import pytest

from data_sets import tree
from helpers import ROOT
from quicknat.cohort.paths import find_one
from quicknat.cohort.sheet import auto_split, examine_sheet, read_sheet, read_sources
from quicknat.errors import InputError

COLUMNS = "subject image labels label_convention split participant session orientation"


def sheet(tmp_path, *rows, columns=COLUMNS):
    path = tmp_path / "sheet.tsv"
    lines = ["\t".join(columns.split()), *("\t".join(row.split("|")) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_order_of_rows_comments_and_excluded_scans_change_nothing(tmp_path):
    rows = ["a|in#1/a.nii|l.nii|freesurfer|train|P#1|", "b|b.nii|||segment|P#2|"]
    one = read_sheet(sheet(tmp_path, *rows))
    more = ["# c|c.nii|||segment||", "d|d.nii|||exclude||"]
    assert read_sheet(sheet(tmp_path, "# a comment", *reversed(rows), *more)) == one
    assert [(s.id, s.image, s.participant) for s in one] == [
        ("sub-a", "in#1/a.nii", "P#1"), ("sub-b", "b.nii", "P#2"),
    ]  # fmt: skip


SOURCE = {"source": "a", "kind": "file", "url": "file:///a", "checksum": "unpublished"}
WRONG_SOURCES = {
    "'checksum' is missing; add it": {"checksum": ""},
    "'members' is missing; add it": {},
    "'kind' is \"zip\"; allowed: https, http, file, pypi, git, local, demo": {"kind": "zip"},
    "'checksum' is \"sha256:1\"; sha256:... or md5:...": {"checksum": "sha256:1"},
    "'size_mb' is \"x\"; size of the archive in MB": {"size_mb": "x"},
}


@pytest.mark.parametrize("problem", WRONG_SOURCES)
def test_wrong_source_is_refused_with_what_may_be_there(tmp_path, problem):
    row = SOURCE | WRONG_SOURCES[problem]
    with pytest.raises(InputError) as error:
        read_sources(sheet(tmp_path, "|".join(row.values()), columns=" ".join(row)))
    assert problem in str(error.value) and "(a)" in str(error.value)


def test_automatic_split_is_about_80_10_10_and_that_of_the_participant(tmp_path):
    splits = [auto_split(f"person{i}") for i in range(2000)]
    assert splits.count("train") / 2000 == pytest.approx(0.8, abs=0.03)
    assert splits.count("val") / 2000 == pytest.approx(0.1, abs=0.03)
    rows = [f"s{i}|a{i}.nii|l{i}.nii|freesurfer|auto|someone|" for i in range(20)]
    path = sheet(tmp_path, *rows)
    assert {scan.split for scan in read_sheet(path)} == {auto_split("someone")}
    assert {scan.split for scan in read_sheet(path, auto="segment")} == {"segment"}


@pytest.mark.case(38)
@pytest.mark.parametrize("first", ["train", "pretrain"])
def test_a_participant_in_two_splits_is_refused(tmp_path, first):
    rows = [f"a|a.nii|l.nii|freesurfer|{first}|anna", "b|b.nii|l.nii|freesurfer|test|anna"]
    problem = rf"participant 'anna' is in {first} \(sub-a\) and in test \(sub-b\); keep"
    with pytest.raises(InputError, match=problem):
        read_sheet(sheet(tmp_path, *rows))


OLD = "subject image labels protocol use person session"  # names of columns


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
    path = sheet(tmp_path, "a|a.nii|||segment|||x", columns=f"{OLD} split")
    with pytest.raises(InputError, match="has the column 'split' and also 'use'.*remove 'use'"):
        read_sheet(path)


def test_entities_are_part_of_a_scans_name(tmp_path):
    columns = "subject session entities image split"
    rows = ["a|1|acq-x_run-2|a.nii|segment", "a|1||b.nii|segment", "a||run-2|c.nii|segment"]
    names = ["sub-a_run-2", "sub-a_ses-1", "sub-a_ses-1_acq-x_run-2"]
    assert [scan.id for scan in read_sheet(sheet(tmp_path, *rows, columns=columns))] == names
    for wrong in ("run", "run-1_", "desc-x", "run-1/..", "_run-1"):
        with pytest.raises(InputError, match="'entities' is"):
            read_sheet(sheet(tmp_path, f"a|1|{wrong}|a.nii|segment", columns=columns))


BAD_ROWS = {
    "a b|a.nii|||segment||": "row 1 (a b): 'subject' is \"a b\"; letters and digits only",
    "$(rm)|a.nii|||segment||": "letters and digits",
    "d|d.nii|||testing||": 'is "testing"; allowed: pretrain, train, val, test, segment, auto',
    "d|d.nii|||segment|||LA": 'is "LA"; directions of the array axes in three letters',
    "c|c.nii|||train||": "sub-c has split=train but no labels",
    "c|c.nii|l.nii||val||": "sub-c is in two rows; remove one, or give each a session",
    " c|c.nii|l.nii||val||7": "sub-c_ses-7 has labels but no label_convention",
    "e||l.nii|freesurfer|train||": "sub-e has no image",
    "f|||freesurfer|pretrain||": "sub-f has no image",
    "g||||segment||": "sub-g has no image",
    "h|a{b}.nii|||segment||": "sub-h has a path with a brace",
}


def test_all_faults_are_collected_and_the_first_is_the_one_that_is_raised(tmp_path):
    path = sheet(tmp_path, *BAD_ROWS)
    scans, faults = examine_sheet(path)
    assert [scan.id for scan in scans][:3] == ["sub-c", "sub-c", "sub-c_ses-7"]
    lines = [str(fault.error) for fault in faults]
    assert all("sheet.tsv" in line and "\n" not in line for line in lines)
    for reason in BAD_ROWS.values():
        assert any(reason in line for line in lines), reason
    assert sum("sub-c is in two rows" in line for line in lines) == 2  # each of them
    with pytest.raises(InputError) as error:
        read_sheet(path)
    assert str(error.value) == lines[0]


@pytest.mark.parametrize("mark", [";", ","])
def test_sheet_that_a_spreadsheet_saved_with_other_marks_is_refused_in_one_line(tmp_path, mark):
    path = tmp_path / "sheet.csv"
    path.write_text(mark.join(["\ufeffsubject", "image", "split"]) + f"\r\na{mark}a.nii{mark}x\r\n")
    with pytest.raises(InputError, match=f"columns that '{mark}' separates; save it as tab-sep"):
        examine_sheet(path)


def test_name_of_two_sources_is_refused(tmp_path):
    columns = "source kind url"
    path = sheet(tmp_path, "a|local|/a", "b|local|/b", columns=columns)
    assert [source.url for source in read_sources(path).values()] == ["/a", "/b"]
    with pytest.raises(InputError, match=r"sheet\.tsv: has two rows for 'a'"):
        read_sources(sheet(tmp_path, "a|local|/a", "a|local|/b", columns=columns))


def test_file_is_found_by_glob_and_without_regard_to_case(tmp_path):
    tree(tmp_path, "Disc1/OAS1_0001_MR1/scan_n4_masked_gfc.IMG")
    found = find_one(tmp_path / "disc1" / "oas1_0001_mr1" / "*_masked_gfc.img")
    assert found.name == "scan_n4_masked_gfc.IMG"


def test_shipped_sheets_and_their_sources_are_valid():
    sources = read_sources(ROOT / "workflow/sources.tsv")
    for path in sorted((ROOT / "workflow/cohorts").glob("*.tsv")):
        scans = read_sheet(path)
        used = {source for scan in scans for source in (scan.source, scan.labels_source)}
        assert scans and used <= {"local", *sources}, path
