"""`quicknat sheet`: names of scans, links, what is refused, and the command itself."""

import logging
import subprocess
import sys

import pytest

from data_sets import ids, reasons, surfer, tree
from quicknat.cli.sheet import Layout
from quicknat.cohort.layouts import LAYOUTS
from quicknat.cohort.naming import name_parts
from quicknat.cohort.sheet import read_sheet
from quicknat.cohort.survey import survey
from quicknat.errors import InputError


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("sub-01_ses-2_run-3", ("01", "2", "run-3")),
        ("sub-01_acq-b_ce-gad_run-2_T1w", ("01", "", "acq-b_ce-gad_run-2")),
        ("sub-01", ("01", "", "")),
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


def test_scan_that_a_sheet_cannot_name_is_left_out(tmp_path):
    found = survey(tree(tmp_path, "a.nii", "b\t1.nii"))
    assert ids(found) == ["sub-a"]
    assert reasons(found) == {
        "b\t1.nii": "its path has a tab, a brace, an outer space or bytes that are not UTF-8"
    }


@pytest.mark.case(42)
def test_linked_subjects_are_found_and_links_to_nothing_or_in_circles_do_no_harm(tmp_path):
    tree(tmp_path / "store", *surfer("anna"))
    root = tree(tmp_path / "study", *surfer("bert", "orig.mgz"))
    (root / "anna").symlink_to(tmp_path / "store/anna")
    (root / "bert/mri/aseg.mgz").symlink_to("annex/not/fetched")
    (root / "anna/mri/round").symlink_to(root)
    found = survey(root)
    assert ids(found) == ["sub-anna"]
    assert list(reasons(found).values()) == [
        "is a link to a missing file (annex/not/fetched); fetch that file, or repair the link"
    ]


def test_hidden_files_are_not_scans(tmp_path):
    found = survey(tree(tmp_path, "a.nii.gz", "._a.nii.gz", ".git/annex/b.nii.gz"))
    assert (ids(found), found.left_out) == (["sub-a"], [])


def test_layout_can_be_forced(tmp_path):
    tree(tmp_path, "IXI002-Guys-0828-T1.nii.gz")
    assert [s.split for s in survey(tmp_path, "plain").scans] == ["segment"]
    assert [layout.value for layout in Layout] == list(LAYOUTS)


def test_folder_without_scans_and_no_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no scan.*oasis1, ixi, bids, .*plain"):
        survey(tree(tmp_path, "notes.txt"))
    with pytest.raises(InputError, match="no such folder or archive"):
        survey(tmp_path / "absent")


def quicknat(monkeypatch, *arguments):
    """Exit status of the command line in this process."""
    from quicknat.cli import main

    monkeypatch.setattr(sys, "argv", ["quicknat", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


def test_command_writes_the_sheet_and_reports_splits_and_what_it_left_out(
    tmp_path, monkeypatch, caplog
):
    people = [f"p{n}" for n in range(30)]
    files = [name for person in people for name in surfer(person)]
    root = tree(tmp_path / "fs", *files, *surfer("bert", "orig.mgz"), *surfer("fsaverage"))
    caplog.set_level(logging.INFO)
    assert quicknat(monkeypatch, "sheet", root, "--output", tmp_path / "cohort.tsv") == 0
    said = caplog.text
    assert "31 scans of 31 participants (layout freesurfer)" in said
    uses = [scan.split for scan in read_sheet(tmp_path / "cohort.tsv")]
    for use in ("train", "val", "test", "segment"):
        assert uses.count(use) and f"  {use:8}  {uses.count(use)}" in said
    assert "fsaverage  is a template shipped with FreeSurfer" in said


def test_command_adds_what_is_new_and_says_what_a_cohort_lacks(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    root, sheet = tree(tmp_path / "fs", *surfer("anna", "orig.mgz")), tmp_path / "cohort.tsv"

    def command(*options):
        caplog.clear()
        return quicknat(monkeypatch, "sheet", root, "--output", sheet, *options), caplog.text

    status, said = command()
    assert status == 0 and "no training scan: use a bundled model" in said
    assert f"next: quicknat check {sheet}" in said
    tree(root, *surfer("bert"))
    assert command()[0] == 1 and len(read_sheet(sheet)) == 1
    status, said = command("--add", "--split", "train")
    assert status == 0 and "1 of them are new, for a total of 2" in said
    assert "no validation scan" in said and "no test scan" in said
    assert [scan.split for scan in read_sheet(sheet)] == ["segment", "train"]
    assert command("--add", "--overwrite")[0] == 2


def test_command_that_finds_no_scan_says_why_and_exits_with_1(
    tmp_path, monkeypatch, caplog, capsys
):
    caplog.set_level(logging.INFO)
    root = tree(tmp_path / "fs", *surfer("fsaverage"))
    assert quicknat(monkeypatch, "sheet", root, "--output", tmp_path / "cohort.tsv") == 1
    assert "fsaverage  is a template shipped with FreeSurfer" in caplog.text
    assert "has no usable scan (layout freesurfer)" in capsys.readouterr().err
    assert not (tmp_path / "cohort.tsv").exists()
    assert quicknat(monkeypatch, "sheet", tmp_path / "absent") == 1


def test_looking_at_a_data_set_needs_no_torch():
    code = (
        "import sys\nfrom quicknat.cohort import survey, writing\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
