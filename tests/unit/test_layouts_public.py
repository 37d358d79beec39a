"""`quicknat sheet` on OASIS-1 and IXI as they are published, unpacked or as archives."""

import pytest

from data_sets import T88, archive, ids, oasis, reasons, surfer, tree
from quicknat.cohort.paths import find_one
from quicknat.cohort.sheet import read_sheet
from quicknat.cohort.survey import survey
from quicknat.cohort.writing import write_sheet
from quicknat.errors import InputError


def test_oasis1_discs_give_sessions_labels_and_orientation(tmp_path):
    found = survey(tree(
        tmp_path, *(f"disc1/{name}" for name in oasis("OAS1_0001_MR1")),
        *(f"disc1/{name}" for name in oasis("OAS1_0007_MR1", 3)),
        *(f"disc2/{name}" for name in oasis("OAS1_0001_MR2")),
    ))  # fmt: skip
    assert (found.layout, found.left_out) == ("oasis1", [])
    assert ids(found) == ["sub-OAS10001_ses-MR1", "sub-OAS10001_ses-MR2", "sub-OAS10007_ses-MR1"]
    assert [scan.participant for scan in found.scans] == ["OAS10001", "OAS10001", "OAS10007"]
    last = found.scans[-1]
    stem = "OAS1_0007_MR1_mpr_n3_anon_111_t88_masked_gfc"
    assert last.image == str(tmp_path / f"disc1/OAS1_0007_MR1/{T88}/{stem}.img")
    assert last.labels == str(tmp_path / f"disc1/OAS1_0007_MR1/FSL_SEG/{stem}_fseg.img")
    assert (last.label_convention, last.orientation, last.split) == ("tissues4", "LAS", "auto")


@pytest.mark.parametrize("change", [str.lower, str.upper])
def test_oasis1_is_found_whatever_the_case_of_its_names(tmp_path, change):
    tree(tmp_path, *(change(f"Disc1/{name}") for name in oasis("OAS1_0001_MR1")))
    (scan,) = survey(tmp_path).scans
    assert scan.id == "sub-OAS10001_ses-MR1" and scan.labels
    assert find_one(scan.image).is_file()


def test_oasis1_says_what_it_leaves_out(tmp_path):
    two = oasis("OAS1_0004_MR1", 3) + oasis("OAS1_0004_MR1", 4)
    no_header = [name for name in oasis("OAS1_0003_MR1") if not name.endswith("_fseg.hdr")]
    found = survey(tree(
        tmp_path, *oasis("OAS1_0001_MR1", labels=False), "OAS1_0002_MR1/RAW/scan.img",
        *no_header, *two,
    ))  # fmt: skip
    assert ids(found) == [f"sub-OAS1000{n}_ses-MR1" for n in (1, 3, 4)]
    assert [scan.split for scan in found.scans] == ["segment", "segment", "auto"]
    assert "_n3_" in found.scans[2].image and "_n3_" in found.scans[2].labels
    assert sorted(reasons(found).values()) == [
        "another file of the same scan was used",
        "another file of the same scan was used",
        "has no PROCESSED/MPRAGE/T88_111/*_masked_gfc.img",
        "lacks its .hdr",
    ]


def test_labels_from_freesurfer_replace_oasis1s_scans_and_tissues(tmp_path):
    discs = tree(tmp_path / "discs", *oasis("OAS1_0001_MR1"), *oasis("OAS1_0002_MR1"))
    subjects = tree(tmp_path / "fs", *surfer("OAS1_0001_MR1"), *surfer("OAS1_0009_MR1"))
    one, two = survey(discs, labels_from=subjects).scans
    assert one.image == str(subjects / "OAS1_0001_MR1/mri/orig.mgz")
    assert one.labels == str(subjects / "OAS1_0001_MR1/mri/aseg.mgz")
    assert (one.label_convention, one.orientation, one.split) == ("freesurfer", "", "auto")
    assert (two.labels, two.label_convention, two.orientation, two.split) == (
        "",
        "",
        "LAS",
        "segment",
    )


def test_labels_from_a_folder_without_results_are_refused(tmp_path):
    discs = tree(tmp_path / "discs", *oasis("OAS1_0001_MR1"))
    with pytest.raises(InputError, match="no FreeSurfer results"):
        survey(discs, labels_from=tree(tmp_path / "fs", *surfer("OAS1_0001_MR1", "orig.mgz")))


def test_ixi_scans_are_for_pretraining(tmp_path):
    found = survey(tree(
        tmp_path, "IXI002-Guys-0828-T1.nii.gz", "IXI012-HH-1211-T1.nii.gz",
        "IXI012-HH-1300-T1.nii.gz", "IXI002-Guys-0828-T2.nii.gz",
    ))  # fmt: skip
    assert (found.layout, ids(found)) == ("ixi", ["sub-IXI002", "sub-IXI012"])
    assert [(s.split, s.labels, s.participant) for s in found.scans] == [
        ("pretrain", "", "IXI002"),
        ("pretrain", "", "IXI012"),
    ]
    assert reasons(found) == {
        "IXI002-Guys-0828-T2.nii.gz": "is not named IXI###-Site-####-T1",
        "IXI012-HH-1300-T1.nii.gz": "another file of the same scan was used",
    }


def test_ixi_with_freesurfer_results_stays_for_pretraining(tmp_path):
    scans = tree(tmp_path / "ixi", "IXI002-Guys-0828-T1.nii.gz")
    (scan,) = survey(scans, labels_from=tree(tmp_path / "fs", *surfer("IXI002-Guys-0828-T1"))).scans
    assert (scan.split, scan.label_convention) == ("pretrain", "freesurfer")


@pytest.mark.parametrize("prefix", ["", "./"])
def test_oasis1_archive_is_listed_with_members_as_paths(tmp_path, prefix):
    names = [f"disc1/{name}" for name in oasis("OAS1_0001_MR1")]
    path = archive(tmp_path / "disc 1.tar.gz", *(prefix + name for name in names))
    (scan,) = survey(path, source="oasis1-disc1").scans
    assert scan.source == "oasis1-disc1" and scan.image in names and scan.labels in names
    write_sheet([scan], tmp_path / "cohort.tsv")
    (read,) = read_sheet(tmp_path / "cohort.tsv")
    assert (read.image, read.labels_source) == (scan.image, "oasis1-disc1")
    # nothing was unpacked
    assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / "cohort.tsv"])


def test_ixi_archive_is_listed(tmp_path):
    path = archive(tmp_path / "IXI-T1.tar", "IXI002-Guys-0828-T1.nii.gz")
    found = survey(path, source="ixi")
    assert [(s.id, s.image) for s in found.scans] == [("sub-IXI002", "IXI002-Guys-0828-T1.nii.gz")]


def test_oasis1s_archive_of_freesurfer_results_is_listed(tmp_path):
    path = archive(tmp_path / "fs.tar.gz", *surfer("disc1/OAS1_0001_MR1"))
    found = survey(path, source="fs")
    (scan,) = found.scans
    assert (found.layout, scan.id) == ("freesurfer", "sub-OAS10001_ses-MR1")
    assert scan.labels == "disc1/OAS1_0001_MR1/mri/aseg.mgz"


def test_archive_is_refused_without_source_of_another_layout_or_if_damaged(tmp_path):
    path = archive(tmp_path / "x.tar.gz", "a.nii.gz")
    with pytest.raises(InputError, match="--source"):
        survey(path)
    with pytest.raises(
        InputError, match="holds no scan of a known layout.*oasis1, ixi, freesurfer"
    ):
        survey(path, source="x")
    with pytest.raises(InputError, match="'plain' needs a folder"):
        survey(path, "plain", "x")
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(InputError, match="cannot be listed as a tar archive"):
        survey(path, source="x")
    with pytest.raises(InputError, match="is a folder, not an archive"):
        survey(tmp_path, source="x")
