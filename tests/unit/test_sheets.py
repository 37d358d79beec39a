"""Sheets as `quicknat sheet` writes them, and the table of people beside."""

import pytest

from data_sets import oasis, surfer, tree
from helpers import ROOT
from quicknat.cohort.sheet import find_one, read_sheet
from quicknat.cohort.survey import survey
from quicknat.cohort.writing import read_demographics, settle, write_sheet
from quicknat.errors import InputError
from quicknat.schema import load_schema

SCHEMA = load_schema(ROOT / "workflow/schemas/sheet.schema.yaml")


def test_use_is_given_to_the_scans_that_can_have_it(tmp_path):
    scans = survey(tree(tmp_path, *surfer("anna"), *surfer("bert", "orig.mgz"))).scans
    assert [scan.use for scan in settle(scans, "train")] == ["train", "segment"]
    assert [scan.use for scan in settle(scans, "pretrain")] == ["pretrain", "pretrain"]
    assert [scan.use for scan in settle(scans)] == ["auto", "segment"]


def test_numbering_that_no_layout_tells_must_be_stated(tmp_path):
    scans = survey(tree(tmp_path, "a.nii", "a_seg.nii")).scans
    with pytest.raises(InputError, match=r"a_seg.nii: .*numbering.*--protocol"):
        settle(scans)
    assert [scan.protocol for scan in settle(scans, protocol="seed4")] == ["seed4"]


def test_paths_are_relative_below_the_sheet_and_absolute_elsewhere(tmp_path):
    scans = survey(tree(tmp_path / "my study", *surfer("an na"))).scans
    write_sheet(scans, tmp_path / "cohort.tsv", SCHEMA)
    write_sheet(scans, tmp_path / "sheets/cohort.tsv", SCHEMA)
    (near,) = read_sheet(tmp_path / "cohort.tsv", SCHEMA)
    (far,) = read_sheet(tmp_path / "sheets/cohort.tsv", SCHEMA)
    assert near.labels == "my study/an na/mri/aseg.mgz"
    assert far.labels == str(tmp_path / "my study/an na/mri/aseg.mgz")
    assert find_one(tmp_path / near.image) == find_one(far.image)


def test_sheet_has_the_schemas_columns_and_is_never_overwritten_unasked(tmp_path):
    scans = survey(tree(tmp_path, *surfer("anna"))).scans
    path = tmp_path / "cohort.tsv"
    write_sheet(scans, path, SCHEMA)
    assert path.read_text().splitlines()[0].split("\t") == list(SCHEMA["properties"])
    path.write_text("mine")
    with pytest.raises(InputError, match=r"cohort.tsv: exists; .*--overwrite"):
        write_sheet(scans, path, SCHEMA)
    assert path.read_text() == "mine"
    write_sheet(scans, path, SCHEMA, overwrite=True)
    assert read_sheet(path, SCHEMA)[0].id == "sub-anna"


def test_invalid_sheet_is_refused_under_its_own_name_and_not_written(tmp_path):
    scans = settle(survey(tree(tmp_path, "a.nii", "a_seg.nii")).scans, protocol="free surfer")
    with pytest.raises(InputError) as error:
        write_sheet(scans, tmp_path / "out/cohort.tsv", SCHEMA)
    assert "out/cohort.tsv row 1" in str(error.value) and "'protocol'" in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


DEMOGRAPHICS = """ID,M/F,Hand,Age,Educ,SES,MMSE,CDR,eTIV,nWBV,ASF,Delay
OAS1_0001_MR2,F,R,75,,,,,1344,0.7,1.3,40
OAS1_0001_MR1,F,R,74,2,3,29,0,1344,0.743,1.306,N/A
OAS1_0009_MR1,M,R,20,,,,,1400,0.8,1.2,N/A
"""


def test_demographics_of_the_scans_people_go_beside_the_sheet(tmp_path):
    (tmp_path / "d.csv").write_text(DEMOGRAPHICS)
    visits = ("OAS1_0001_MR1", "OAS1_0001_MR2", "OAS1_0002_MR1")
    scans = survey(tree(tmp_path, *(name for visit in visits for name in oasis(visit)))).scans
    people = read_demographics(tmp_path / "d.csv")
    write_sheet(scans, tmp_path / "cohort.tsv", SCHEMA, people)
    lines = [line.split("\t") for line in (tmp_path / "participants.tsv").read_text().splitlines()]
    assert lines[0][:5] == ["participant_id", "sex", "handedness", "age", "Educ"]
    assert " ".join(lines[1]) == "sub-OAS10001 F R 74 2 3 29 0 1344 0.743 1.306 n/a"
    assert lines[2] == ["sub-OAS10002", *["n/a"] * 11]
    assert len(lines) == 3
    with pytest.raises(InputError, match=r"participants.tsv: exists"):
        write_sheet(scans, tmp_path / "participants.tsv", SCHEMA, people)


def test_table_without_ids_is_no_demographics(tmp_path):
    (tmp_path / "d.csv").write_text("Name,Age\nx,1\n")
    with pytest.raises(InputError, match="no column 'ID'"):
        read_demographics(tmp_path / "d.csv")
