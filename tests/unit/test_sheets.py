"""Sheets as `quicknat sheet` writes them, and the table of people beside."""

import pytest
from typer.testing import CliRunner

from data_sets import oasis, surfer, tree
from quicknat.cli import app
from quicknat.cohort.paths import find_one
from quicknat.cohort.sheet import by_source, read_sheet
from quicknat.cohort.survey import survey
from quicknat.cohort.writing import add_to_sheet, read_demographics, resolve, write_sheet
from quicknat.config import Config
from quicknat.errors import InputError
from quicknat.plan import plan
from quicknat.schema import load_schema


def test_split_is_given_to_the_scans_that_can_have_it(tmp_path):
    scans = survey(tree(tmp_path, *surfer("anna"), *surfer("bert", "orig.mgz"))).scans
    assert [scan.split for scan in resolve(scans, "train")] == ["train", "segment"]
    assert [scan.split for scan in resolve(scans, "pretrain")] == ["pretrain", "pretrain"]
    assert [scan.split for scan in resolve(scans)] == ["auto", "segment"]


def test_convention_that_no_layout_states_must_be_given(tmp_path):
    scans = survey(tree(tmp_path, "a.nii", "a_seg.nii")).scans
    with pytest.raises(InputError, match=r"a_seg.nii: .*convention.*--label-convention"):
        resolve(scans)
    assert [scan.label_convention for scan in resolve(scans, convention="seed4")] == ["seed4"]


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
    columns = [name for name in load_schema("sheet")["properties"] if name != "entities"]
    assert path.read_text().splitlines()[0].split("\t") == columns
    path.write_text("mine")
    with pytest.raises(InputError, match=r"cohort.tsv: already exists; .*--overwrite"):
        write_sheet(scans, path)
    assert path.read_text() == "mine"
    write_sheet(scans, path, overwrite=True)
    assert read_sheet(path)[0].id == "sub-anna"


def test_results_of_freesurfer_that_fit_no_scan_are_named(tmp_path):
    bids = [f"bids/sub-0{n}/anat/sub-0{n}_T1w.nii.gz" for n in (1, 2)]
    tree(tmp_path, "bids/dataset_description.json", *bids)
    tree(tmp_path / "fs", *surfer("sub-01"), *surfer("S02"))
    found = survey(tmp_path / "bids", labels_from=tmp_path / "fs")
    assert [bool(scan.labels) for scan in found.scans] == [True, False]
    assert [(item.path.split("/")[-3], item.reason) for item in found.left_out] == [
        ("S02", "does not match subject and session of any scan")
    ]
    tree(tmp_path / "other", *surfer("S02"))
    with pytest.raises(InputError, match=r"none of these scans.*e.g. sub-01"):
        survey(tmp_path / "bids", labels_from=tmp_path / "other")


def test_scans_can_be_selected_by_participant_and_session(tmp_path):
    names = [f"sub-{n}/ses-{v}/anat/sub-{n}_ses-{v}_T1w.nii.gz" for n in "12" for v in "ab"]
    tree(tmp_path / "bids", "dataset_description.json", *names)
    arguments = ["sheet", tmp_path / "bids", "--output", tmp_path / "c.tsv"]
    arguments += ["--participant_label", "sub-2", "--session-label", "b"]
    assert CliRunner().invoke(app, list(map(str, arguments))).exit_code == 0
    assert [scan.id for scan in read_sheet(tmp_path / "c.tsv")] == ["sub-2_ses-b"]


def test_with_a_finished_model_all_scans_of_a_sheet_are_segmented(tmp_path, caplog):
    caplog.set_level("INFO")
    root = tree(tmp_path / "fs", *(file for n in range(20) for file in surfer(f"s{n:02}")))
    arguments = ["sheet", str(root), "--output", str(tmp_path / "c.tsv")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert "with a finished model (model=…), split=auto means segment" in caplog.text
    config = Config.read({"sheet": "c.tsv", "model": "1mm"})
    found = plan(config, read_sheet(tmp_path / "c.tsv", auto="segment"))
    assert len(found.segmented) == 20 and not found.stages


def test_path_with_a_brace_is_left_out_and_refused(tmp_path):
    found = survey(tree(tmp_path, "a{b}.nii", "c.nii"))
    assert [scan.id for scan in found.scans] == ["sub-c"] and "a brace" in found.left_out[0].reason
    (tmp_path / "cohort.tsv").write_text("subject\timage\tsplit\na\ta{b}.nii\tsegment\n")
    with pytest.raises(InputError, match="sub-a has a path with a brace"):
        read_sheet(tmp_path / "cohort.tsv")


def test_name_of_two_sources_is_refused(tmp_path):
    rows = [{"source": "a"}, {"source": "b"}]
    assert by_source(rows, "s.tsv") == {"a": rows[0], "b": rows[1]}
    with pytest.raises(InputError, match=r"s\.tsv: has two rows for 'a'"):
        by_source([*rows, {"source": "a"}], "s.tsv")


def grown(folder, *more):
    """A sheet of one person with a choice of the user's, and scans of a data set that has grown."""
    scans = survey(tree(folder / "data", *surfer("anna"), *surfer("bert"), *surfer("cleo"))).scans
    sheet = folder / "cohort.tsv"
    write_sheet(scans, sheet)
    header, anna, bert, cleo = sheet.read_text().splitlines()
    text = "\n".join(["# mine", header, anna.replace("auto", "val"), f"# {bert}"])
    sheet.write_text(text)  # no line end at its end, as some editors leave it
    return survey(tree(folder / "data", *more)).scans, sheet, text, cleo


def test_new_scans_are_added_to_a_sheet_and_the_rest_of_it_stays(tmp_path):
    scans, sheet, text, cleo = grown(tmp_path)
    found, new = add_to_sheet(scans, sheet)
    assert sheet.read_text() == f"{text}\n{cleo}\n"  # bert was taken out by hand, and stays out
    assert new == 1 and (found[0].id, found[0].split) == ("sub-anna", "val")
    assert add_to_sheet(scans, sheet)[1] == 0
    assert sheet.read_text() == f"{text}\n{cleo}\n"


def test_new_scans_are_added_to_a_sheet_with_old_names_of_columns(tmp_path, caplog):
    scans, sheet, text, cleo = grown(tmp_path)
    old = text.replace("label_convention\tsplit\tparticipant", "protocol\tuse\tperson")
    sheet.write_text(old)
    found, new = add_to_sheet(scans, sheet)
    assert old != text and sheet.read_text() == f"{old}\n{cleo}\n"
    assert new == 1 and found[0].split == "val"


def test_new_scans_go_into_the_columns_that_a_sheet_has(tmp_path):
    scans, sheet, _, _ = grown(tmp_path)
    sheet.write_text("split\tlabels\timage\tlabel_convention\tsubject\nsegment\t\tx.nii\t\tanna\n")
    found, new = add_to_sheet(scans[2:], sheet)
    assert new == 1 and [scan.id for scan in found] == ["sub-anna", "sub-cleo"]
    sheet.write_text("split\timage\tsubject\nsegment\tx.nii\tanna\n")
    with pytest.raises(InputError, match="has no column 'labels', which new scans need"):
        add_to_sheet(scans, sheet)
    assert sheet.read_text() == "split\timage\tsubject\nsegment\tx.nii\tanna\n"
    with pytest.raises(InputError, match="no such file"):
        add_to_sheet(scans, tmp_path / "absent.tsv")


def test_rows_without_trailing_cells_and_foreign_line_ends_stay_as_they_are(tmp_path):
    scans, sheet, _, _ = grown(tmp_path)
    text = "\ufeffsubject\timage\tlabels\tsplit\tlabel_convention\tsession\r\n"
    text += "anna\ta.nii\t\tsegment\r\n#bert\tb.nii\t\tsegment\r\n"
    sheet.write_bytes(text.encode())
    _, new = add_to_sheet(scans, sheet)
    found = sheet.read_bytes().decode()
    assert new == 1 and found.startswith(text + "cleo\t") and found.endswith("\t\r\n")
    sheet.write_text(
        "subject\timage\tsplit\tlabels\tlabel_convention\tage\nanna\ta.nii\tsegment\t\t\t30\n"
    )
    with pytest.raises(InputError, match=r"cohort\.tsv: unknown key 'age'"):
        add_to_sheet(scans, sheet)


def test_people_of_new_scans_are_added_to_those_that_are_known(tmp_path):
    table = "ID,M/F,Hand,Age\nOAS1_0001_MR1,F,R,74\nOAS1_0002_MR1,M,R,20\n"
    (tmp_path / "oasis.csv").write_text(table)
    demographics = read_demographics(tmp_path / "oasis.csv")
    first, second = (
        survey(tree(tmp_path / name, *oasis(name))).scans
        for name in ("OAS1_0001_MR1", "OAS1_0002_MR1")
    )
    sheet = tmp_path / "cohort.tsv"
    write_sheet(first, sheet, demographics)
    people = sheet.with_name("participants.tsv")
    people.write_text(people.read_text().replace("74", "75"))  # corrected by hand
    add_to_sheet([*first, *second], sheet, demographics)
    rows = [line.split("\t") for line in people.read_text().splitlines()]
    assert [(row[0], row[-1]) for row in rows[1:]] == [
        ("sub-OAS10001", "75"),
        ("sub-OAS10002", "20"),
    ]


def test_invalid_sheet_is_refused_under_its_own_name_and_not_written(tmp_path):
    scans = resolve(survey(tree(tmp_path, "a.nii", "a_seg.nii")).scans, convention="free surfer")
    with pytest.raises(InputError) as error:
        write_sheet(scans, tmp_path / "out/cohort.tsv")
    assert "out/cohort.tsv row 1" in str(error.value) and "'label_convention'" in str(error.value)
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
    write_sheet(scans, tmp_path / "cohort.tsv", people)
    lines = [line.split("\t") for line in (tmp_path / "participants.tsv").read_text().splitlines()]
    assert lines[0][:5] == ["participant_id", "sex", "handedness", "age", "Educ"]
    assert " ".join(lines[1]) == "sub-OAS10001 F R 74 2 3 29 0 1344 0.743 1.306 n/a"
    assert lines[2] == ["sub-OAS10002", *["n/a"] * 11]
    assert len(lines) == 3
    with pytest.raises(InputError, match=r"participants.tsv: already exists"):
        write_sheet(scans, tmp_path / "participants.tsv", people)


def test_table_without_ids_is_no_demographics(tmp_path):
    (tmp_path / "d.csv").write_text("Name,Age\nx,1\n")
    with pytest.raises(InputError, match="no column 'ID'"):
        read_demographics(tmp_path / "d.csv")
