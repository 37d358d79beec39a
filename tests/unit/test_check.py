"""`quicknat check`: all faults in one go, what a run does about them, and what is read again."""

import gzip
import os
import time

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from cohort_folder import SIDE, constant
from helpers import LABELS, save, tiny_scan
from quicknat.cli import app
from quicknat.cohort import examine
from quicknat.cohort.check import (
    Verdict,
    as_text,
    check_cohort,
    read_verdicts,
    require_usable_scans,
    write_verdicts,
)
from quicknat.cohort.examine import examine_image, examine_labels
from quicknat.cohort.sheet import Source
from quicknat.errors import InputError


def truncated(path):
    path.write_bytes(tiny_scan(path).read_bytes()[:-40])


def web_page(path):
    path.write_text("<!DOCTYPE html>")


IMAGES = {
    "absent": (None, "no such file"),
    "truncated": (truncated, "gzip data is damaged"),
    "page": (web_page, "is a web page"),
    "series": (lambda path: save(path, np.ones((12, 12, 12, 2), np.int16)), "is (12, 12, 12, 2)"),
    "nan": (lambda path: save(path, np.full((12, 12, 12), np.nan)), "1728 voxels are NaN"),
    "flat": (constant, "every voxel is 7"),
}
RIGHT = np.repeat(np.int16([2, 41]), 6)[:, None, None] * np.ones((1, 12, 12), np.int16)
LABEL_MAPS = {
    "shape": (RIGHT[:8, :8, :8], "has shape (8, 8, 8), its image (12, 12, 12)"),
    "number": (RIGHT * 0 + 9999, "9999 (1728 voxels) is in no row of the label table 'quicknat28'"),
    "both": (RIGHT[:8] * 0 + 9999, "9999 (1152 voxels) is in no row of the label table"),
    "smaller": (RIGHT[:8] * 0 + 9999, "has shape (8, 12, 12), its image (12, 12, 12)"),
    "air": (RIGHT * 0, "contains no structure"),
    "swapped": (RIGHT[::-1], "left and right are swapped"),
}


def test_faults_of_all_scans_are_listed_in_one_go(cohort, tmp_path):
    for subject, (make, _) in IMAGES.items():
        cohort.add(subject, make=make)
    for subject, (data, _) in LABEL_MAPS.items():
        save(tmp_path / f"{subject}_l.nii.gz", data)
        cohort.add(subject, labels=f"{subject}_l.nii.gz", split="train")
    cohort.add("good", labels="good_l.nii.gz", split="train")
    found = cohort.check()
    for subject, (_, reason) in (IMAGES | LABEL_MAPS).items():
        assert found[f"sub-{subject}"].verdict == "bad"
        assert reason in found[f"sub-{subject}"].reason
    assert found["sub-good"].verdict == "warning" and len(found) == 13
    assert not cohort.faulty


@pytest.mark.case(38)
def test_all_faults_of_a_sheet_are_listed_and_cannot_be_skipped(cohort, tmp_path):
    cohort.add("a b", make=None)
    cohort.add("d", split="train")  # without labels
    cohort.add("e", labels="e_l.nii.gz", split="train", participant="anna")
    cohort.add("f", labels="f_l.nii.gz", split="test", participant="anna")
    for _ in range(2):
        cohort.add("h", source="moon", make=None)
    cohort.add("i", make=constant)
    found = cohort.check()
    reasons = {
        "sub-a b": "letters and digits",
        "sub-d": "no labels",
        "sub-f": "participant 'anna' is in train (sub-e) and in test (sub-f)",
        "sub-h": "source 'moon'; allowed: local",
        "sub-i": "every voxel is 7",
    }
    assert {scan for scan, verdict in found.items() if verdict.verdict == "bad"} == set(reasons)
    for scan, reason in reasons.items():
        assert reason in found[scan].reason and "\n" not in found[scan].reason
    # the rows of h have several errors, and count once
    with pytest.raises(InputError, match=r"5 cannot be used; repair the sheet\n(.*\n)*.*'anna'"):
        require_usable_scans(*check_cohort(*cohort.arguments()), "sheet.tsv", "skip")
    arguments = cohort.arguments()
    (tmp_path / "sheet.tsv").write_text("subject\timage\tsplit\tage\nx\tx.nii\tsegment\t3\n")
    verdicts, faulty = check_cohort(*arguments)
    assert faulty and [verdict.scan for verdict in verdicts] == ["(sheet)", "sub-x"]
    assert "unknown key 'age'" in verdicts[0].reason and "no such file" in verdicts[1].reason


def test_table_of_people_that_the_report_could_not_read_is_found_before_the_run(cohort):
    cohort.add("a")
    people = cohort.folder / "participants.tsv"
    people.write_text("participant_id\tage\nsub-a\t30\n")
    assert set(cohort.check()) == {"sub-a"} and not cohort.faulty
    people.write_text("participant_id\tage\nsub-a\t30\nsub-a\t31\n")
    found = cohort.check()["(participants)"]
    assert cohort.faulty and found.verdict == "bad"
    assert found.image == str(people) and found.reason.startswith("has participant_id 'sub-a' in")


def test_unusual_scans_are_warnings(cohort, demo_dseg):
    save(cohort.folder / "labels.nii.gz", demo_dseg.data.astype(np.int16))
    cohort.add("labels")
    cohort.add("ok", make=lambda path: tiny_scan(path, SIDE))
    thick = np.diag([2, 2, 5, 1.0])
    noise = np.random.default_rng(0).integers(0, 9, (SIDE, SIDE, SIDE)).astype(np.uint8)
    cohort.add("thick", make=lambda path: save(path, noise, thick))
    found = cohort.check()
    assert (found["sub-ok"].verdict, found["sub-ok"].reason) == ("ok", "")
    for scan, reason in (("sub-labels", "looks like a label map"), ("sub-thick", "2 × 2 × 5 mm")):
        assert found[scan].verdict == "warning" and reason in found[scan].reason


def test_label_map_is_checked_without_an_image_and_not_where_it_is_not_used(cohort):
    cohort.add("a", labels="a_seg.nii.gz", label_convention="tissues4")
    cohort.add("b", labels="b_seg.nii.gz", label_convention="tissues4", split="test")
    cohort.add("m", image=None, labels="m_l.nii.gz", split="pretrain")
    cohort.add("gone", image=None, labels="absent.nii.gz", split="pretrain")
    (cohort.folder / "absent.nii.gz").unlink()
    found = cohort.check()
    assert "cannot be mapped" not in found["sub-a"].reason
    assert "with the setting 'protocol'" in found["sub-b"].reason
    assert found["sub-m"].verdict == "ok" and found["sub-m"].image.endswith("m_l.nii.gz")
    gone = found["sub-gone"]
    assert (gone.verdict, gone.reason) == ("bad", "no such file; check the path")


@pytest.mark.case(35)
def test_real_label_map_has_its_sides_right_and_its_mirror_image_not(demo_dseg, protocol, tmp_path):
    path = save(tmp_path / "l.nii.gz", demo_dseg.data, demo_dseg.affine)
    assert examine_labels(path, "", "freesurfer", protocol).problem == ""
    save(path, demo_dseg.data[::-1], demo_dseg.affine)
    assert "swapped" in examine_labels(path, "", "freesurfer", protocol).problem


def test_scan_of_an_archive_is_not_here_until_it_is_unpacked(cohort, tmp_path):
    cohort.sources = {"disc": Source(source="disc", kind="https", url="https://x/d.tar")}
    unpacked = tmp_path / "results/raw/disc"
    unpacked.mkdir(parents=True)
    cohort.add("a", source="disc", labels="l.nii.gz", split="train", labels_source="local",
               make=None)  # fmt: skip
    constant(unpacked / "a.nii.gz")  # half of an unpacking that was interrupted
    assert cohort.check()["sub-a"].verdict == "not here yet"
    (tmp_path / "results/raw/disc.members.txt").write_text("a.nii.gz\n")
    assert cohort.check()["sub-a"].verdict == "bad"
    (unpacked / "a.nii.gz").unlink()
    assert cohort.check()["sub-a"].verdict == "not here yet"
    (cohort.folder / "l.nii.gz").unlink()
    verdict = cohort.check()["sub-a"]
    assert verdict.verdict == "bad" and "l.nii.gz: no such file" in verdict.reason


def test_run_is_stopped_with_a_line_for_each_bad_scan_or_goes_on_without_them(cohort, caplog):
    cohort.add("a", make=constant)
    cohort.add("b", make=web_page)
    cohort.add("c")
    checked = check_cohort(*cohort.arguments())
    with pytest.raises(InputError) as error:
        require_usable_scans(*checked, "sheet.tsv", "stop")
    lines = str(error.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:3]] == ["sub-a", "sub-b"]
    assert "--config on_bad_scan=skip" in lines[0] and len(lines) == 3
    require_usable_scans(*checked, "sheet.tsv", "skip")
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


def test_table_is_aligned_and_survives_writing(tmp_path):
    verdicts = [Verdict("sub-1", "train", 'a "b".nii', "ok"), Verdict("s", "", "c", "bad", "x")]
    write_verdicts(tmp_path / "t.tsv", verdicts)
    assert read_verdicts(tmp_path / "t.tsv") == verdicts
    lines = as_text(verdicts).splitlines()
    assert lines[0].index("verdict") == lines[1].index("ok") == lines[2].index("bad")
    assert lines[-1] == "2 checked: 1 ok, 0 warning, 1 bad, 0 not here yet"
    (tmp_path / "t.tsv").write_text("subject\n1\n")
    with pytest.raises(InputError, match="not a table of 'quicknat check'"):
        read_verdicts(tmp_path / "t.tsv")


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that are read."""
    names = []

    def note(look):
        return lambda path, *rest: (names.append(path.name), look(path, *rest))[1]

    monkeypatch.setattr(examine, "examine_image", note(examine_image))
    monkeypatch.setattr(examine, "examine_labels", note(examine_labels))
    return names


def test_second_check_reads_only_new_and_changed_files_and_says_the_same(cohort, reads, tmp_path):
    cohort.add("a", labels="a_l.nii.gz", split="train")
    cohort.add("b")
    pair = nib.Nifti1Pair(np.arange(1728, dtype=np.int16).reshape(12, 12, 12), np.eye(4))
    pair.set_sform(np.eye(4), 1)
    cohort.add("p", image="p.img", make=lambda path: nib.save(pair, path))
    first = cohort.check()
    assert sorted(reads) == ["a.nii.gz", "a_l.nii.gz", "b.nii.gz", "p.img"]
    reads.clear()
    assert cohort.check() == first and reads == []
    cohort.add("bad", make=constant)
    for touched in ("b.nii.gz", "p.hdr"):
        later = time.time() + 100
        os.utime(tmp_path / touched, (later, later))
    cohort.check()
    assert sorted(reads) == ["b.nii.gz", "bad.nii.gz", "p.img"]
    reads.clear()
    paths, _, cache, threads = cohort.arguments()
    check_cohort(paths, LABELS / "tissues4.tsv", cache, threads)  # other classes
    assert sorted(reads) == ["a_l.nii.gz", "bad.nii.gz"]


@pytest.mark.parametrize("content", ["[1, 2]", "{", '{"a": {"colour": 1}}'])
def test_damaged_cache_is_made_anew(cohort, content):
    cohort.add("a")
    first = cohort.check()
    (cohort.table.parent / "check.cache.json").write_text(content)
    assert cohort.check() == first


def compressed_again(path, source):
    path.write_bytes(gzip.compress(gzip.decompress(source.read_bytes()), compresslevel=1))


def as_mgz(path, source):
    image = nib.as_closest_canonical(nib.load(source))
    turned = image.as_reoriented(np.array([[0, -1], [2, 1], [1, -1]]))
    data = np.asarray(turned.dataobj).astype(np.float32)
    nib.save(nib.MGHImage(data, turned.affine), path)


@pytest.mark.case(39)
@pytest.mark.parametrize(("name", "copy"), [("b.nii.gz", compressed_again), ("b.mgz", as_mgz)])
def test_copy_in_another_split_is_bad_and_in_the_same_a_warning(cohort, tmp_path, name, copy):
    source = tiny_scan(tmp_path / "a.nii.gz")
    copy(tmp_path / name, source)
    assert source.read_bytes() != (tmp_path / name).read_bytes()
    cohort.add("a", labels="l.nii.gz", split="train")
    cohort.add("b", image=name, split="pretrain")
    cohort.add("c")
    found = cohort.check()
    assert "the same image as sub-b (pretrain)" in found["sub-a"].reason
    assert {verdict.verdict for verdict in found.values()} == {"warning"}
    cohort.rows[1] |= {"split": "test", "labels": "l.nii.gz", "label_convention": "freesurfer"}
    found = cohort.check()
    for scan, other in (("sub-a", "sub-b (test)"), ("sub-b", "sub-a (train)")):
        assert found[scan].verdict == "bad"
        assert f"the same image is in another split: {other}" in found[scan].reason
    assert "same image" not in found["sub-c"].reason


def run(*arguments):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_command_checks_bare_files_and_exits_with_1_when_one_is_bad(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = ("--output", tmp_path / "check.tsv")
    good, bad = (tmp_path / name for name in ("sub-1_T1w.nii.gz", "bad.nii.gz"))
    tiny_scan(good, SIDE)
    done = run(good)
    assert done.exit_code == 0 and "1 checked: 1 ok" in done.output
    assert list(tmp_path.iterdir()) == [good]  # a sheet's table may lie there
    constant(bad)
    assert run(good, bad, *output).exit_code == 1
    assert [v.scan for v in read_verdicts(tmp_path / "check.tsv")] == ["sub-1", "sub-bad"]
    data = np.random.default_rng(0).integers(1, 9, (12, 12, 12)).astype(np.int16)
    nib.save(nib.AnalyzeImage(data, None), tmp_path / "a.img")  # states no orientation
    assert run(tmp_path / "a.img", *output).exit_code == 1
    assert run(tmp_path / "a.img", *output, "--orientation", "LAS").exit_code == 0


def test_command_checks_a_sheet_and_no_sheet_among_files(cohort):
    cohort.add("a")
    cohort.arguments()  # which writes the sheet
    sheet = cohort.folder / "sheet.tsv"
    done = run(sheet, "--output", cohort.table)
    assert done.exit_code == 0, done.output
    assert "sub-a" in done.output and f"table: {cohort.table}" in done.output
    assert run(sheet, cohort.folder / "a.nii.gz").exit_code == 2
