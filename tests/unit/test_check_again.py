"""Checking a cohort again: nothing is read twice, and a scan under two names is found."""

import gzip
import os
import time

import nibabel as nib
import numpy as np
import pytest

from cohort_folder import constant
from helpers import LABELS, tiny_scan
from quicknat.cohort import examine
from quicknat.cohort.check import check_cohort
from quicknat.cohort.examine import examine_image, examine_labels


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that are read."""
    names = []

    def note(look):
        return lambda path, *rest: (names.append(path.name), look(path, *rest))[1]

    monkeypatch.setattr(examine, "examine_image", note(examine_image))
    monkeypatch.setattr(examine, "examine_labels", note(examine_labels))
    return names


def test_second_check_reads_no_good_file_again_and_says_the_same(cohort, reads):
    cohort.add("a", labels="a_l.nii.gz", split="train")
    cohort.add("b")
    first = cohort.check()
    assert sorted(reads) == ["a.nii.gz", "a_l.nii.gz", "b.nii.gz"]
    reads.clear()
    assert cohort.check() == first and reads == []
    cohort.add("c")
    cohort.check()
    assert reads == ["c.nii.gz"]


def test_touched_file_and_changed_header_of_a_pair_are_read_again(cohort, reads, tmp_path):
    cohort.add("a")
    pair = nib.Nifti1Pair(np.arange(1728, dtype=np.int16).reshape(12, 12, 12), np.eye(4))
    pair.set_sform(np.eye(4), 1)
    cohort.add("p", image="p.img", make=lambda path: nib.save(pair, path))
    cohort.check()
    for name in ("a.nii.gz", "p.hdr"):
        reads.clear()
        later = time.time() + 100
        os.utime(tmp_path / name, (later, later))
        cohort.check()
        assert reads == [name.replace("hdr", "img")]


def test_bad_file_and_orientation_that_changed_are_looked_at_again(cohort, reads):
    cohort.add("a")
    cohort.add("bad", make=constant)
    cohort.check()
    reads.clear()
    cohort.check()
    assert reads == ["bad.nii.gz"]
    protocol = LABELS / "tissues4.tsv"
    cohort.add("l", labels="l_l.nii.gz", split="train")
    cohort.check()
    reads.clear()
    paths, _, cache, threads = cohort.arguments()
    check_cohort(paths, protocol, cache, threads)
    assert sorted(reads) == ["bad.nii.gz", "l_l.nii.gz"]


def test_damaged_cache_is_made_anew(cohort):
    cohort.add("a")
    first = cohort.check()
    for content in ("[1, 2]", "{", '{"a": {"colour": 1}}'):
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
@pytest.mark.parametrize(
    ("name", "copy"), [("b.nii.gz", compressed_again), ("b.mgz", as_mgz)], ids=["gzip", "mgz"]
)
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
