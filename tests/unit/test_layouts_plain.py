"""`quicknat sheet` on plain folders: scans beside label maps, or a folder for each person."""

import pytest

from data_sets import ids, reasons, tree
from quicknat.cohort.survey import survey


@pytest.mark.parametrize("kind", ["dseg", "seg", "labels", "label", "aseg"])
@pytest.mark.parametrize("image", ["x y.nii.gz", "x y_T1w.nii", "x y.mgz"])
def test_plain_folder_pairs_scans_with_label_maps_beside(tmp_path, image, kind):
    found = survey(tree(tmp_path, image, f"x y_{kind}.nii.gz", "z.nii", "notes.txt"))
    assert (found.layout, ids(found), found.left_out) == ("plain", ["sub-xy", "sub-z"], [])
    first, second = found.scans
    assert (first.image, first.split) == (str(tmp_path / image), "auto")
    assert first.labels == str(tmp_path / f"x y_{kind}.nii.gz")
    assert second.split == "segment"


def test_plain_folder_says_what_it_leaves_out(tmp_path):
    found = survey(
        tree(tmp_path, "a.nii", "a_seg.nii", "a_aseg.mgz", "b_dseg.nii", "c.img", "c.hdr")
    )
    assert ids(found) == ["sub-a"]
    assert reasons(found) == {
        "a_seg.nii": "another file of the same scan was used",
        "b_dseg.nii": "is a label map without a scan",
        "c.img": "is in Analyze format; add its row by hand, with 'orientation'",
    }


@pytest.mark.case(67)
def test_other_contrasts_masks_and_copies_are_left_out_with_a_reason(tmp_path):
    kept = ["p1_T1.nii.gz", "pd_1.nii", "p2.nii"]
    others = [
        "p1_T2.nii.gz",
        "p1-FLAIR.nii",
        "p2_brain_mask.nii",
        "p2_mask.nii",
        "p2.nii.gz",
        "T2.nii",
    ]
    found = survey(tree(tmp_path, *kept, *others), "plain")
    assert sorted(scan.image.rpartition("/")[2] for scan in found.scans) == sorted(kept)
    assert sorted(reasons(found)) == sorted(others)


def test_label_map_goes_with_the_image_of_its_name(tmp_path):
    tree(tmp_path, "p.nii", "p_T1.nii", "p_seg.nii", "q.nii", "q_T1.nii", "q_T1_seg.nii")
    pairs = {scan.image: scan.labels for scan in survey(tmp_path).scans if scan.labels}
    named = {"p.nii": "p_seg.nii", "q_T1.nii": "q_T1_seg.nii"}
    assert pairs == {f"{tmp_path / image}": f"{tmp_path / seg}" for image, seg in named.items()}


@pytest.mark.case(65)
def test_results_in_a_data_set_do_not_hide_its_layout(tmp_path):
    results = "sub-subj1/anat/sub-subj1_desc-quicknat_dseg.nii.gz"
    found = survey(tree(tmp_path, "subj_1/T1.nii.gz", "subj_2/T1.nii.gz", results))
    assert (found.layout, ids(found)) == ("folders", ["sub-subj1", "sub-subj2"])


def test_folder_for_each_person_gives_its_image_and_label_map(tmp_path):
    tree(tmp_path, "subj_1/T1.nii.gz", "subj_1/aseg.nii.gz", "subj_2/scan.nii", "notes/a.txt")
    tree(tmp_path, "subj_3/MPRAGE.nii", "subj_3/flair.nii", "subj_3/MPRAGE_seg.nii")
    tree(
        tmp_path,
        "subj_4/a.nii",
        "subj_4/b.nii",
        "subj_5/T1.nii",
        "subj_5/x_seg.nii",
        "subj_5/seg.nii",
    )
    found = survey(tmp_path)
    assert found.layout == "folders"
    base = f"{tmp_path}/"
    files = {scan.id: (scan.image, scan.labels) for scan in found.scans}
    assert files == {
        "sub-subj1": (f"{base}subj_1/T1.nii.gz", f"{base}subj_1/aseg.nii.gz"),
        "sub-subj2": (f"{base}subj_2/scan.nii", ""),
        "sub-subj3": (f"{base}subj_3/MPRAGE.nii", f"{base}subj_3/MPRAGE_seg.nii"),
    }
    assert [item.path for item in found.left_out] == ["notes", "subj_4", "subj_5"]
    assert "holds 2 images; which is the T1w scan" in found.left_out[1].reason


def test_data_set_of_which_nothing_can_be_used_is_not_taken_for_folders_of_scans(tmp_path):
    tree(tmp_path / "bids", "sub-01/anat/sub-01_T2w.nii.gz", "derivatives/x.nii.gz")
    found = survey(tmp_path / "bids")
    assert found.layout == "bids" and found.scans == []
    tree(tmp_path / "ixi", "IXI-T2/IXI002-Guys-0828-T2.nii.gz")
    assert survey(tmp_path / "ixi").scans == []


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (["patient1/patient1_flair.nii.gz"], None),
        (["patient1/patient1_flair.nii.gz", "patient1/other.nii.gz"], None),
        (["subject1/subject1_T1.nii", "subject1/subject1_flair.nii"], "subject1_T1.nii"),
        (["mri/T1.mgz", "mri/aseg.mgz"], None),
        (["imagesTr/a.nii.gz", "labelsTr/a.nii.gz"], None),
        (["B/x.txt", "C/below/T1.nii"], None),
    ],
)
def test_folder_that_is_not_of_one_scan_is_left_out_with_a_reason(tmp_path, files, taken):
    found = survey(tree(tmp_path, *files), layout="folders")
    assert [scan.image.rpartition("/")[2] for scan in found.scans] == ([taken] if taken else [])
    folders = {name.partition("/")[0] for name in files}
    assert {item.path for item in found.left_out} == (set() if taken else folders)
