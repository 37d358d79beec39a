"""Checking a cohort: all faults in one go, and what becomes of a run with bad scans."""

import nibabel as nib
import numpy as np
import pytest

from cohort_folder import SIDE, constant
from helpers import save, tiny_labels, tiny_scan
from quicknat.cohort.check import (
    WARNING,
    Verdict,
    as_text,
    check_cohort,
    check_for_workflow,
    read_verdicts,
    write_verdicts,
)
from quicknat.cohort.examine import examine_labels
from quicknat.errors import InputError


def truncated(path):
    path.write_bytes(tiny_scan(path).read_bytes()[:-40])


def four_dimensional(path):
    save(path, np.ones((12, 12, 12, 2), np.int16))


def not_a_number(path):
    save(path, np.full((12, 12, 12), np.nan, np.float32))


def web_page(path):
    path.write_text("<!DOCTYPE html>")


def test_ten_faults_of_ten_scans_are_listed_in_one_go(cohort, tmp_path):
    save(tmp_path / "small.nii.gz", np.full((8, 8, 8), 2, np.int16))
    save(tmp_path / "unknown.nii.gz", np.full((12, 12, 12), 9999, np.int16))
    save(tmp_path / "air.nii.gz", np.zeros((12, 12, 12), np.int16))
    left_on_the_right = tiny_labels(tmp_path / "swapped.nii.gz")
    save(left_on_the_right, np.asarray(nib.load(left_on_the_right).dataobj)[::-1])
    cohort.add("absent", make=None)
    cohort.add("truncated", make=truncated)
    cohort.add("page", make=web_page)
    cohort.add("series", make=four_dimensional)
    cohort.add("nan", make=not_a_number)
    cohort.add("flat", make=constant)
    cohort.add("shape", labels="small.nii.gz", split="train")
    cohort.add("number", labels="unknown.nii.gz", split="train")
    cohort.add("air", image="air_T1w.nii.gz", labels="air.nii.gz", split="train")
    cohort.add("swapped", image="swapped_T1w.nii.gz", labels="swapped.nii.gz", split="train")
    cohort.add("good", labels="good_l.nii.gz", split="train")
    found = cohort.check()
    expected = {
        "absent": "no such file",
        "truncated": "gzip data is damaged",
        "page": "is a web page",
        "series": "the shape is (12, 12, 12, 2)",
        "nan": "1728 voxels are NaN",
        "flat": "every voxel is 7",
        "shape": "has shape (8, 8, 8), its image (12, 12, 12)",
        "number": "label value 9999 (1728 voxels) is not in the freesurfer convention",
        "air": "contains no structure",
        "swapped": "left and right are swapped",
    }
    for subject, reason in expected.items():
        assert found[f"sub-{subject}"].verdict == "bad"
        assert reason in found[f"sub-{subject}"].reason
    assert found.pop("sub-good").verdict == "warning" and len(found) == len(expected)
    assert not cohort.faulty


def test_all_faults_of_a_sheet_are_listed_and_its_other_scans_are_checked(cohort):
    cohort.add("a b", make=None)
    cohort.add("c", split="testing")
    cohort.add("d", split="train")  # without labels
    cohort.add("e", labels="e_l.nii.gz", split="train", participant="anna")
    cohort.add("f", labels="f_l.nii.gz", split="test", participant="anna")
    cohort.add("g", labels="g_l.nii.gz", split="train", label_convention="")
    cohort.add("h", source="moon", make=None)
    cohort.add("i", make=constant)
    found = cohort.check()
    assert cohort.faulty
    reasons = {
        "sub-a b": "letters and digits",
        "sub-c": "allowed: pretrain, train",
        "sub-d": "no labels",
        "sub-f": "participant 'anna' is in train (sub-e) and in test (sub-f)",
        "sub-g": "no label_convention",
        "sub-h": "source 'moon'; allowed: local",
        "sub-i": "every voxel is 7",
    }
    assert {scan for scan, verdict in found.items() if verdict.verdict == "bad"} == set(reasons)
    for scan, reason in reasons.items():
        assert reason in found[scan].reason and "\n" not in found[scan].reason


def test_table_of_people_that_the_report_could_not_read_is_found_before_the_run(cohort):
    cohort.add("a")
    people = cohort.folder / "participants.tsv"
    people.write_text("participant_id\tage\nsub-a\t30\n")
    assert set(cohort.check()) == {"sub-a"} and not cohort.faulty
    people.write_text("participant_id\tage\nsub-a\t30\nsub-a\t31\n")
    found = cohort.check()["(participants)"]
    assert cohort.faulty and found.verdict == "bad"
    assert found.image == str(people) and found.reason.startswith("has participant_id 'sub-a' in")


def test_header_and_rows_of_a_sheet_are_judged_together(cohort, tmp_path):
    arguments = cohort.arguments()
    (tmp_path / "sheet.tsv").write_text(
        "subject\timage\tsplit\tsex\tage\nx\tx.nii.gz\tsegment\tf\t3\n"
    )
    verdicts, faulty = check_cohort(*arguments)
    assert faulty
    assert [verdict.scan for verdict in verdicts] == ["(sheet)", "(sheet)", "sub-x"]
    assert "unknown key 'age'" in verdicts[1].reason and "no such file" in verdicts[2].reason


def test_label_map_in_the_place_of_an_image_is_a_warning(cohort, demo_dseg):
    save(cohort.folder / "a.nii.gz", demo_dseg.data.astype(np.int16))
    cohort.add("a")
    found = cohort.check()["sub-a"]
    assert found.verdict == WARNING and "looks like a label map" in found.reason


def test_labels_of_a_scan_to_segment_are_not_looked_at(cohort):
    cohort.add("a", labels="a_seg.nii.gz", label_convention="tissues4")
    cohort.add("b", labels="b_seg.nii.gz", label_convention="tissues4", split="test")
    found = cohort.check()
    assert "cannot be mapped" not in found["sub-a"].reason
    assert "with the setting 'protocol'" in found["sub-b"].reason


def test_head_sized_scan_is_ok_and_thick_slices_are_a_warning(cohort):
    cohort.add("ok", make=lambda path: tiny_scan(path, SIDE))
    thick = np.diag([2, 2, 5, 1.0])
    noise = np.random.default_rng(0).integers(0, 9, (SIDE, SIDE, SIDE)).astype(np.uint8)
    cohort.add("thick", make=lambda path: save(path, noise, thick))
    found = cohort.check()
    assert (found["sub-ok"].verdict, found["sub-ok"].reason) == ("ok", "")
    assert found["sub-thick"].verdict == "warning" and "2 × 2 × 5 mm" in found["sub-thick"].reason


@pytest.mark.case(35)
def test_real_label_map_has_its_sides_right_and_its_mirror_image_not(demo_dseg, protocol, tmp_path):
    path = save(tmp_path / "l.nii.gz", demo_dseg.data, demo_dseg.affine)
    assert examine_labels(path, "", "freesurfer", protocol).problem == ""
    save(path, demo_dseg.data[::-1], demo_dseg.affine)
    assert "swapped" in examine_labels(path, "", "freesurfer", protocol).problem


def test_scan_of_an_archive_is_not_here_until_it_is_unpacked(cohort, tmp_path):
    cohort.sources = {"disc": {"kind": "https", "url": "https://x/d.tar", "size_mb": "100"}}
    unpacked = tmp_path / "results/raw/disc"
    unpacked.mkdir(parents=True)
    cohort.add("a", image="a.nii.gz", source="disc", make=None)
    constant(unpacked / "a.nii.gz")  # half of an unpacking that was interrupted
    assert cohort.check()["sub-a"].verdict == "not here yet"
    (tmp_path / "results/raw/disc.members.txt").write_text("a.nii.gz\n")
    assert cohort.check()["sub-a"].verdict == "bad"
    (unpacked / "a.nii.gz").unlink()
    assert cohort.check()["sub-a"].verdict == "not here yet"


def test_bad_labels_of_a_scan_that_is_not_here_yet_are_found(cohort):
    cohort.sources = {"disc": {"kind": "https", "url": "https://x/d.tar"}}
    cohort.add(
        "a", make=None, source="disc", labels="l.nii.gz", split="train", labels_source="local"
    )
    assert cohort.check()["sub-a"].verdict == "not here yet"
    (cohort.folder / "l.nii.gz").unlink()
    verdict = cohort.check()["sub-a"]
    assert verdict.verdict == "bad" and "l.nii.gz: no such file" in verdict.reason


def test_run_is_stopped_with_a_line_for_each_bad_scan_or_goes_on_without_them(cohort, caplog):
    cohort.add("a", make=constant)
    cohort.add("b", make=web_page)
    cohort.add("c")
    with pytest.raises(InputError) as error:
        check_for_workflow(*cohort.arguments(), "stop")
    lines = str(error.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:3]] == ["sub-a", "sub-b"]
    assert "--config on_bad_scan=skip" in lines[0] and len(lines) == 3
    check_for_workflow(*cohort.arguments(), "skip")
    assert "sub-a" in caplog.text and "sub-b" in caplog.text and "sub-c" not in caplog.text


def test_scans_that_their_jobs_will_read_are_only_located(cohort):
    cohort.add("a")
    cohort.add("b", make=constant)
    cohort.add("c", make=None)
    arguments, unread = cohort.arguments(), {"sub-a", "sub-b", "sub-c"}
    verdicts = check_cohort(*arguments, unread=unread)[0]
    assert [each.verdict for each in verdicts] == ["not read yet", "not read yet", "bad"]
    cohort.check()  # which reads them, and keeps what it found out about good ones
    verdicts = check_cohort(*cohort.arguments(), unread=unread)[0]
    assert [each.verdict for each in verdicts] == ["warning", "not read yet", "bad"]


@pytest.mark.case(38)
def test_fault_of_the_sheet_cannot_be_skipped(cohort):
    cohort.add("a", labels="a_l.nii.gz", split="train", participant="anna")
    cohort.add("b", labels="b_l.nii.gz", split="test", participant="anna")
    with pytest.raises(InputError, match="participant 'anna'"):
        check_for_workflow(*cohort.arguments(), "skip")


def test_table_is_aligned_and_survives_writing(tmp_path):
    verdicts = [
        Verdict("sub-1", "train", 'a "b".nii', "ok"),
        Verdict("sub-22", "", "c.nii", "bad", "x"),
    ]
    write_verdicts(tmp_path / "t.tsv", verdicts)
    assert read_verdicts(tmp_path / "t.tsv") == verdicts
    lines = as_text(verdicts).splitlines()
    assert lines[0].index("verdict") == lines[1].index("ok") == lines[2].index("bad")
    assert lines[-1] == "2 checked: 1 ok, 0 warning, 1 bad, 0 not here yet"
    (tmp_path / "t.tsv").write_text("subject\n1\n")
    with pytest.raises(InputError, match="not a table of 'quicknat check'"):
        read_verdicts(tmp_path / "t.tsv")


def test_label_map_without_image_is_checked_by_itself(cohort):
    cohort.add("m", image=None, labels="m_l.nii.gz", split="pretrain")
    cohort.add("gone", image=None, labels="absent.nii.gz", split="pretrain")
    (cohort.folder / "absent.nii.gz").unlink()
    verdicts = cohort.check()
    assert verdicts["sub-m"].verdict == "ok" and verdicts["sub-m"].image.endswith("m_l.nii.gz")
    assert (verdicts["sub-gone"].verdict, verdicts["sub-gone"].reason) == (
        "bad", "no such file; check the path",
    )  # fmt: skip


def test_checking_needs_no_torch():
    import subprocess
    import sys

    code = "import sys, quicknat.cohort.check; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
