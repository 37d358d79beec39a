"""Names of scans, participants and folders under which results could be lost or leak (61 to 69)."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import yaml

from data_sets import ids, surfer, tree
from helpers import LABELS, ROOT, save, tiny_cohort, tiny_labels, tiny_scan
from in_process import quicknat
from quicknat.cohort.check import check_cohort
from quicknat.cohort.naming import default_name, possible_visits
from quicknat.cohort.participants import read_participants, repeated_participants, trained_on
from quicknat.cohort.paths import CohortPaths, find_all
from quicknat.cohort.sheet import Scan, read_sheet
from quicknat.cohort.survey import find_images, survey
from quicknat.cohort.writing import add_to_sheet, write_sheet
from quicknat.model.bundle import read_description
from quicknat.package_data import MODELS
from quicknat.run import load_run
from quicknat.segmentation.batch import segment_all
from quicknat.segmentation.tasks import find_scans

VISITS = {
    "OAS20001": ["OAS2_0001_MR1", "OAS2_0001_MR2", "oas2_0001_mr3"],
    "OAS30001": ["OAS30001_MR_d0129", "OAS30001_Freesurfer53_d0757"],
    "002S0413": ["002_S_0413_bl", "002_S_0413_m12", "ADNI_002_S_0413_MR_MPRAGE_S13893_I45112"],
}


@pytest.mark.case(61)
@pytest.mark.parametrize("participant", VISITS)
def test_visits_in_names_of_public_data_sets_are_of_one_participant(tmp_path, participant):
    found = survey(tree(tmp_path, *(file for name in VISITS[participant] for file in surfer(name))))
    assert {scan.participant for scan in found.scans} == {participant}
    assert len(set(ids(found))) == len(VISITS[participant])
    files = [f"{name}.nii.gz" for name in VISITS[participant]]
    plain = survey(tree(tmp_path / "plain", *files), "plain")
    assert ids(plain) == ids(found)  # `segment`, too, calls them so
    assert sorted(name for name, _ in find_images([tmp_path / "plain"])) == ids(found)


@pytest.mark.case(61)
@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["p1_v1", "p1_v2", "p2_v1"], [["p1_v1", "p1_v2"]]),
        (["p1v1", "p1v2", "p2v1"], [["p1v1", "p1v2"]]),
        (["anna", "anna_tp2", "bert"], [["anna", "anna_tp2"]]),
        (["001a", "001b", "002a"], [["001a", "001b"]]),
        (["1000012_2_0", "1000012_3_0", "1000013_2_0"], [["1000012_2_0", "1000012_3_0"]]),
        (["OAS20001MR1", "OAS20001MR2"], [["OAS20001MR1", "OAS20001MR2"]]),  # of older sheets
        (["p1", "p2", "p10"], []),
        (["study_1", "study_2"], []),
        (["s1", "s2"], []),
    ],
)
def test_names_that_may_be_visits_of_one_participant_are_found(names, groups):
    assert possible_visits(names) == groups


def named(subject, split, session=""):
    return Scan(subject=subject, image="", split=split, session=session)


def participants_verdict(sheet):
    """What `quicknat check` says of the participants of a sheet: a warning."""
    paths = CohortPaths(str(sheet), {}, "")
    verdicts, faulty = check_cohort(paths, LABELS / "quicknat28.tsv", {}, 1)
    (found,) = [verdict for verdict in verdicts if verdict.scan == "(participants)"]
    assert (found.verdict, faulty) == ("warning", False)
    return found.reason


@pytest.mark.case(61)
def test_sheet_and_check_warn_of_participants_that_may_be_one(tmp_path):
    names = [f"p{n}_v{visit}" for n in range(20) for visit in (1, 2)]
    root = tree(tmp_path / "fs", *(file for name in names for file in surfer(name)))
    done = quicknat("sheet", root, "--output", tmp_path / "cohort.tsv")
    warning = "p0_v1, p0_v2 (and 19 more groups) look like scans of one participant"
    assert done.status == 0 and any(warning in line for line in done.err)
    assert warning in participants_verdict(tmp_path / "cohort.tsv")
    scans = read_sheet(tmp_path / "cohort.tsv")
    people = [replace(scan, participant=scan.subject[:-2]) for scan in scans]
    assert repeated_participants(people) == ""
    ukb = [f"sub-10000{k}_2_{visit}_T1w.nii.gz" for k in "123" for visit in "01"]
    scans = [replace(scan, split="train") for scan in survey(tree(tmp_path / "ukb", *ukb)).scans]
    assert "100001_2_0, 100001_2_1 (and 2 more groups)" in repeated_participants(scans)
    assert repeated_participants([named("p1v1", "segment"), named("p1v2", "segment")]) == ""


@pytest.mark.case(63)
def test_result_of_another_scan_of_the_same_name_is_not_replaced(stand_in, tmp_path, head_file):
    bundle = stand_in(lambda brightness: (brightness > 0.4).long())
    image, paths = nib.load(head_file), [tmp_path / folder / "scan.nii.gz" for folder in "ab"]

    def save_brighter(path, number):
        path.parent.mkdir(exist_ok=True)
        save(path, np.asarray(image.dataobj) + number, image.affine)

    def status(path, **options):
        (outcome,) = segment_all(bundle, find_scans([path]), tmp_path / "out", **options)
        return outcome.status, outcome.reason

    for number, path in enumerate(paths):
        save_brighter(path, number)
    assert status(paths[0]) == ("done", "")
    record = tmp_path / "out/sub-scan/anat/sub-scan_desc-quicknat_dseg.json"
    before = record.read_bytes()
    failed, reason = status(paths[1])
    assert failed == "failed" and record.read_bytes() == before
    assert f"{paths[1]}: has the same name as another scan, {paths[0]}" in reason
    assert "--overwrite" in reason
    assert status(paths[1], overwrite=True) == ("done", "")
    moved = paths[1].rename(tmp_path / "scan.nii.gz")
    assert status(moved)[0] == "skipped"  # the same scan elsewhere
    save_brighter(moved, 2)
    record.write_text(record.read_text().replace(str(paths[1]), str(moved)))
    assert status(moved) == ("done", "")  # changed in place


@pytest.mark.case(63)
def test_every_step_refuses_to_replace_the_result_of_another_scan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_scan(tmp_path / "a.nii.gz"), tiny_scan(tmp_path / "b.nii.gz")
    tiny_labels(tmp_path / "labels.nii.gz")
    (tmp_path / "auto.nii.gz").touch()  # as labelled before
    steps = [
        "convert a.nii.gz --output c_T1w.nii.gz --spacing 2 --size 16",
        "convert-labels labels.nii.gz --scan c_T1w.nii.gz --label-convention freesurfer"
        " --output dseg.nii.gz --native native.nii.gz",
        "slice c_T1w.nii.gz dseg.nii.gz --folder s --name x --size 16",
        "slice-tissues labels.nii.gz --folder s --name x_tissues --spacing 2 --size 16"
        " --slice-size 16",
        "slice-png s/axial/x.npy --output png",
        "evaluate dseg.nii.gz dseg.nii.gz --name x --output x.tsv",
        "auto-label c_T1w.nii.gz --atlas c_T1w.nii.gz --atlas-labels dseg.nii.gz"
        " --output auto.nii.gz",
    ]
    for step in steps:
        command, *arguments = step.split()
        if command != "auto-label":
            assert quicknat("-q", command, *arguments).status == 0, command
        if command == "convert":
            arguments[0] = "b.nii.gz"
        done = quicknat("-q", command, *arguments)
        assert done.status == 1 and "--overwrite" in done.err[0], (command, done)
        if command not in ("auto-label", "convert"):
            assert quicknat("-q", command, *arguments, "--overwrite").status == 0, command
    assert quicknat("-q", *steps[0].split()).status == 0  # the same scan
    assert json.loads((tmp_path / "c_T1w.json").read_text())["source"] == "a.nii.gz"


@pytest.mark.case(63)
def test_scan_of_a_name_in_the_sheet_is_not_dropped_silently(tmp_path, caplog):
    one, two = tree(tmp_path / "one", "anna.nii"), tree(tmp_path / "two", "anna.nii", "bert.nii")
    sheet = tmp_path / "cohort.tsv"
    write_sheet(survey(one).scans, sheet)
    scans, new = add_to_sheet(survey(two).scans, sheet)
    assert (new, [scan.id for scan in scans]) == ({"sub-bert"}, ["sub-anna", "sub-bert"])
    assert "1 scans are not added" in caplog.text and "two/anna.nii" in caplog.text


@pytest.mark.case(63)
def test_scan_that_older_versions_gave_another_name_is_not_added_again(tmp_path):
    root, sheet = tree(tmp_path / "fs", *surfer("OAS2_0001_MR1", "orig.mgz")), tmp_path / "c.tsv"
    sheet.write_text("subject\timage\tsplit\nOAS20001MR1\tfs/OAS2_0001_MR1/mri/orig.mgz\tsegment\n")
    assert not add_to_sheet(survey(root).scans, sheet)[1]


@pytest.mark.case(64)
def test_names_that_differ_stay_different(tmp_path):
    names = [
        "sub-002_S_0413_T1w", "sub-002_S_0559_T1w", "sub-WMH_MRI_21_01H_T1w", "sub-WMH_MRI_21_02H",
        "sub-01-a_T1w", "sub-01-b_T1w", "sub-01_run-1_T1w", "sub-01_run-2_T1w", "sub-01_T2w",
        "sub-01_ses-post_T1w", "sub-01_ses-post+pre_T1w", "扫描一", "扫描二", "Søren", "Særen", "…",
        "IXI002-Guys-0828-T1", "IXI002-Guys-0828-T2", "OAS1_0001_MR1_mpr-1", "OAS1_0001_MR1_mpr-2",
        "sub-02_run-1_run-2", "sub-02_run-2",
    ]  # fmt: skip
    found = {name: default_name(tmp_path / f"{name}.nii.gz") for name in names}
    assert len(set(found.values())) == len(names)
    assert found["sub-002_S_0413_T1w"] == "sub-002S0413"
    assert all(name.removeprefix("sub-") and name.isascii() for name in found.values())
    for name in found.values():  # results are named after themselves
        assert default_name(tmp_path / f"{name}_desc-quicknat_volumes.tsv") == name
    assert default_name(tmp_path / "bert/mri/T1.mgz") == "sub-bert"
    decomposed = "e\u0301a\u6587"  # as macOS writes them
    assert default_name(tmp_path / decomposed) == default_name(tmp_path / "éa文")


@pytest.mark.case(65)
def test_folder_of_scans_may_be_that_of_the_results(tmp_path):
    tree(tmp_path, "p1.nii.gz", "p2.nii.gz", "dataset_description.json", "scans.tsv")
    tree(tmp_path, "sub-p1/anat/sub-p1_desc-quicknat_dseg.nii.gz", "labels/quicknat28_itksnap.txt")
    assert [task.name for task in find_scans([tmp_path])] == ["sub-p1", "sub-p2"]
    assert ids(survey(tmp_path)) == ["sub-p1", "sub-p2"]


@pytest.mark.case(65)
def test_glob_of_a_sheet_does_not_match_hidden_files(tmp_path):
    tree(tmp_path, "a_T1w.nii.gz", "._a_T1w.nii.gz")
    assert find_all(tmp_path / "*_T1w.nii.gz") == [tmp_path / "a_T1w.nii.gz"]
    assert find_all(tmp_path / "._a*") == [tmp_path / "._a_T1w.nii.gz"]


@pytest.mark.case(67)
def test_sheet_keeps_all_scans_of_a_visit_and_says_which_are_special(tmp_path):
    stems = ["sub-002_S_0413_run-1", "sub-002_S_0413_run-2", "sub-01_acq-hippoc", "sub-01"]
    root = tree(tmp_path, *(f"{stem[:6]}/anat/{stem}_T1w.nii.gz" for stem in stems),
                "sub-01/anat/sub-01_dseg.nii.gz")  # fmt: skip
    convention = ("--label-convention", "freesurfer")
    done = quicknat("sheet", root, "--output", tmp_path / "c.tsv", *convention)
    assert [scan.id for scan in read_sheet(tmp_path / "c.tsv")] == [
        "sub-002S0413_run-1", "sub-002S0413_run-2", "sub-01", "sub-01_acq-hippoc",
    ]  # fmt: skip
    said = "\n".join(done.err)
    assert "3 without labels: sub-002S0413_run-1" in said
    assert "4 share a visit with others" in said
    assert "set split=exclude for unwanted ones" in said
    assert "not whole-head scans, by their names: sub-01_acq-hippoc" in said


@pytest.mark.case(68)
@pytest.mark.parametrize(
    ("ids", "subjects"),
    [
        (["01", "02"], ["01", "02"]),
        (["sub-1", "sub-2"], ["01", "02"]),  # a spreadsheet dropped the zeros
        (["50772", "50773"], ["0050772", "0050773"]),
        (["002_S_0413", "sub-002_S_0559"], ["002S0413", "002S0559"]),
        ([" sub-01", "SUB-02 "], ["01", "02"]),
    ],
)
def test_participants_are_joined_however_their_ids_are_written(tmp_path, ids, subjects):
    path = tmp_path / "participants.tsv"
    path.write_text("participant_id\tage\n" + "".join(f"{name}\t30,5\n" for name in ids) + "\t\n")
    table = read_participants(path, subjects)
    assert [*table.index] == [f"sub-{subject}" for subject in subjects]
    assert [*table["age"]] == ["30.5", "30.5"]  # decimal commas
    path.write_text("participant_id\nsub-001\nsub-2\n")  # the first could be two subjects
    assert [*read_participants(path, ["1", "01", "2"]).index] == ["sub-001", "sub-2"]


@pytest.mark.case(68)
def test_participants_of_several_sessions_count_once_and_absent_ones_are_told(tmp_path):
    for name in ("a", "b", "c"):
        tiny_scan(tmp_path / f"{name}.nii.gz")
    write_sheet(survey(tmp_path).scans, tmp_path / "c.tsv")
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tsession_id\tage\nsub-a\tses-1\t30\nsub-a\tses-2\t31\nsub-c\tses-1\t9\n"
    )
    reason = participants_verdict(tmp_path / "c.tsv")
    assert "has no row for 1 of 3 subjects, e.g. sub-b" in reason
    assert read_participants(tmp_path / "participants.tsv").loc["sub-a", "age"] == "30"


@pytest.mark.case(68)
def test_empty_rows_of_a_spreadsheet_are_no_rows(tmp_path):
    rows = ["subject\timage\tsplit", "a\ta.nii\tsegment", "\t\t", " \t\t", "b\tb.nii\tsegment", ""]
    (tmp_path / "c.tsv").write_text("\n".join(rows))
    assert [scan.id for scan in read_sheet(tmp_path / "c.tsv")] == ["sub-a", "sub-b"]


@pytest.mark.case(69)
def test_scores_of_a_model_on_participants_that_it_was_trained_on_are_warned_of(tmp_path, caplog):
    views = read_description(MODELS["1mm"])["views"].values()
    assert "MALC" in trained_on(views, [named("OAS10061", "test", "MR1")])
    assert "same names, sub-CSI1." in trained_on(views, [named("CSI1", "test")])
    before = [{"training_scans": ["sub-1"], "ancestor_scans": ["sub-2"]}]  # of initial weights
    assert "same names, sub-2." in trained_on(before, [named("2", "test")])
    for scan in (named("OAS10061", "segment"), named("OAS20061", "test")):
        assert trained_on(views, [scan]) == ""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config |= {"sheet": tiny_cohort(tmp_path, OAS10061="test"), "model": "small"}
    load_run(config, ".", str(tmp_path / "results"), str(tmp_path / "raw"), check=True)
    assert "MALC and OASIS-1 share participants" in caplog.text
