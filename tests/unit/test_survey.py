"""`quicknat sheet`: names of scans, links, what is refused, and the command itself."""

from typing import get_args

import pytest
from typer.testing import CliRunner

from data_sets import bids, ids, surfer, tree
from quicknat.cli import app
from quicknat.cli.cohort import Layout
from quicknat.cohort.layouts import LAYOUTS
from quicknat.cohort.naming import name_parts
from quicknat.cohort.sheet import read_sheet
from quicknat.cohort.survey import survey
from quicknat.errors import InputError


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("sub-01_ses-2_run-3_space-x_T1w", ("01", "2", "run-3")),
        ("sub-01_acq-b_ce-gad_run-2_T1w", ("01", "", "acq-b_ce-gad_run-2")),
        ("OAS1_0001_MR1", ("OAS10001", "MR1", "")),
        ("oas1_0457_mr2", ("OAS10457", "MR2", "")),
        ("IXI002-Guys-0828-T1", ("IXI002", "", "")),
        ("002_S_0413 (é)", ("002S0413", "e", "")),
        ("sub-01.x", ("01x", "", "")),
    ],
)
def test_subject_and_session_come_from_names(name, parts):
    assert name_parts(name) == parts


@pytest.mark.case(64)
@pytest.mark.parametrize(("one", "two"), [("a_1", "a1"), ("x/anna", "y/anna")])
def test_two_scans_of_one_name_are_told_apart_by_a_digest(tmp_path, caplog, one, two):
    found = survey(tree(tmp_path, *surfer(one), *surfer(two), *surfer("bert")))
    assert len(set(ids(found))) == 3 and "sub-bert" in ids(found)
    name = one.rpartition("/")[2].replace("_", "")
    assert [scan.participant for scan in found.scans].count(name) == 2
    assert f"{one}/mri" in caplog.text and f"{two}/mri" in caplog.text
    assert ids(survey(tmp_path)) == ids(found)


@pytest.mark.case(42)
def test_linked_subjects_are_found_and_links_to_nothing_or_in_circles_do_no_harm(tmp_path):
    tree(tmp_path / "store", *surfer("anna"))
    root = tree(tmp_path / "study", *surfer("bert", "orig.mgz"))
    (root / "anna").symlink_to(tmp_path / "store/anna")
    (root / "bert/mri/aseg.mgz").symlink_to("annex/not/fetched")
    (root / "anna/mri/round").symlink_to(root)
    found = survey(root)
    assert ids(found) == ["sub-anna"]
    assert list(found.left_out.values()) == [
        "is a link to a missing file (annex/not/fetched); fetch that file, or repair the link"
    ]


def test_folder_without_scans_and_no_folder_are_refused(tmp_path, command):
    assert list(get_args(Layout)) == list(LAYOUTS)
    with pytest.raises(InputError, match=r"holds no scan.*oasis1, ixi, bids, .*plain"):
        survey(tree(tmp_path, "notes.txt"))
    with pytest.raises(InputError, match="no such folder or archive"):
        survey(tmp_path / "absent")
    done, said = command(tree(tmp_path / "fs", *surfer("fsaverage")))
    assert done.exit_code == 1 and "fsaverage  is a template shipped with FreeSurfer" in said
    assert "has no usable scan (layout freesurfer)" in str(done.exception)
    assert not (tmp_path / "cohort.tsv").exists()


@pytest.fixture
def command(tmp_path, caplog):
    """Run `quicknat sheet` on a folder: its result, and what it logs."""
    caplog.set_level("INFO")

    def run(folder, *options):
        caplog.clear()
        arguments = ["sheet", folder, "--output", tmp_path / "cohort.tsv", *options]
        return CliRunner().invoke(app, [str(argument) for argument in arguments]), caplog.text

    return run


def test_command_writes_the_sheet_and_reports_splits_and_what_it_left_out(tmp_path, command):
    files = [name for n in range(30) for name in surfer(f"p{n}")]
    root = tree(tmp_path / "fs", *files, *surfer("bert", "orig.mgz"), *surfer("fsaverage"))
    done, said = command(root)
    assert done.exit_code == 0 and "31 scans of 31 participants (layout freesurfer)" in said
    splits = [scan.split for scan in read_sheet(tmp_path / "cohort.tsv")]
    for split in ("train", "val", "test", "segment"):
        assert splits.count(split) and f"  {split:8}  {splits.count(split)}" in said
    assert "fsaverage  is a template shipped with FreeSurfer" in said
    assert "with an existing model (model=…), split=auto means segment" in said


def test_command_adds_what_is_new_and_says_what_a_cohort_lacks(tmp_path, command):
    root, sheet = tree(tmp_path / "fs", *surfer("anna", "orig.mgz")), tmp_path / "cohort.tsv"
    done, said = command(root)
    assert done.exit_code == 0 and "no training scan: use a bundled model" in said
    assert f"next: quicknat check {sheet}" in said
    tree(root, *surfer("bert"))
    assert command(root)[0].exit_code == 1 and len(read_sheet(sheet)) == 1
    done, said = command(root, "--add", "--split", "train")
    assert done.exit_code == 0 and "1 of them are new, for a total of 2" in said
    assert "no validation scan" in said and "no test scan" in said
    assert [scan.split for scan in read_sheet(sheet)] == ["segment", "train"]
    assert command(root, "--add", "--overwrite")[0].exit_code == 2


def test_scans_can_be_selected_by_participant_and_session(tmp_path, command):
    root = tree(tmp_path / "bids", *(bids(f"sub-{n}_ses-{v}") for n in "12" for v in "ab"))
    command(root, "--participant_label", "sub-2", "--session-label", "b")
    assert [scan.id for scan in read_sheet(tmp_path / "cohort.tsv")] == ["sub-2_ses-b"]


@pytest.mark.parametrize("again", [[], ["--add"]])
def test_scans_rated_fail_are_excluded_in_a_new_sheet_and_in_an_old_one(tmp_path, command, again):
    root = tree(tmp_path / "data", "a.nii.gz", "b.nii.gz")
    (tmp_path / "r.tsv").write_text("scan\trating\nsub-a\tfail\nsub-c\tfail\n")
    if again:
        command(root)
    done, said = command(root, *again, "--exclude", tmp_path / "r.tsv")
    assert done.exit_code == 0 and "not in the sheet: sub-c" in said
    assert [scan.id for scan in read_sheet(tmp_path / "cohort.tsv")] == ["sub-b"]
    assert "\texclude" in (tmp_path / "cohort.tsv").read_text()
