"""`quicknat sheet` on results of FreeSurfer, FastSurfer and SynthSeg."""

from pathlib import Path

import pytest

from data_sets import ids, reasons, surfer, tree
from quicknat.cohort.survey import survey


def test_freesurfer_subjects_have_orig_and_aseg(tmp_path):
    root = tree(tmp_path, *surfer("anna"), *surfer("bert", "T1.mgz", "aseg.mgz", "rawavg.mgz"))
    found = survey(root)
    assert (found.layout, ids(found), found.left_out) == (
        "freesurfer",
        ["sub-anna", "sub-bert"],
        [],
    )
    anna, bert = found.scans
    assert anna.image == str(root / "anna/mri/orig.mgz")
    assert anna.labels == str(root / "anna/mri/aseg.mgz")
    assert (anna.label_convention, anna.split, anna.participant) == ("freesurfer", "auto", "anna")
    assert bert.image == str(root / "bert/mri/T1.mgz")


def test_freesurfer_subject_without_aseg_is_to_segment(tmp_path):
    (scan,) = survey(tree(tmp_path, *surfer("anna", "orig.mgz"))).scans
    assert (scan.split, scan.labels, scan.label_convention) == ("segment", "", "")


def test_run_that_failed_early_has_a_scan_but_no_labels_on_its_grid(tmp_path):
    (scan,) = survey(tree(tmp_path, *surfer("anna", "rawavg.mgz", "aseg.mgz"))).scans
    assert (Path(scan.image).name, scan.labels, scan.split) == ("rawavg.mgz", "", "segment")


LEFT_OUT_OF_SUBJECTS_DIR = {
    "fsaverage": (surfer("fsaverage"), "template"),
    "fsaverage5": (surfer("fsaverage5"), "template"),
    "cvs_avg35_inMNI152": (surfer("cvs_avg35_inMNI152"), "template"),
    "lh.EC_average": (["lh.EC_average/label/"], "no folder 'mri'"),
    "empty": (["empty/"], "no folder 'mri'"),
    "anna1.long.anna": (surfer("anna1.long.anna"), "longitudinal"),
    "annabase": ([*surfer("annabase"), "annabase/base-tps"], "time points"),
    "anna_template": (
        [*surfer("anna_template"), "anna_template/base-tps.fastsurfer"],
        "time points",
    ),
    "failed": (surfer("failed", "brainmask.mgz"), "none of orig.mgz, T1.mgz, rawavg.mgz in mri/"),
}


@pytest.mark.case(62)
@pytest.mark.parametrize("folder", LEFT_OUT_OF_SUBJECTS_DIR)
def test_what_is_no_scan_in_a_subjects_dir_is_left_out_with_its_reason(tmp_path, folder):
    files, reason = LEFT_OUT_OF_SUBJECTS_DIR[folder]
    found = survey(tree(tmp_path, *surfer("anna1"), *files))
    assert ids(found) == ["sub-anna1"]
    assert list(reasons(found)) == [folder] and reason in reasons(found)[folder]


def test_subjects_in_groups_are_found_and_the_groups_are_not_called_failures(tmp_path):
    found = survey(tree(tmp_path, *surfer("disc1/OAS1_0001_MR1"), *surfer("disc2/OAS1_0040_MR2")))
    assert ids(found) == ["sub-OAS10001_ses-MR1", "sub-OAS10040_ses-MR2"]
    assert found.left_out == []


def test_fastsurfer_is_told_from_freesurfer_by_its_label_map(tmp_path):
    deep = "aparc.DKTatlas+aseg.deep.mgz"
    found = survey(tree(tmp_path, *surfer("anna", "orig.mgz", "aseg.mgz", deep)))
    assert found.layout == "fastsurfer"
    assert found.scans[0].labels.endswith(f"anna/mri/{deep}")
    assert survey(tmp_path, "freesurfer").scans[0].labels.endswith("anna/mri/aseg.mgz")


def test_synthseg_folder_pairs_scans_with_their_maps(tmp_path):
    found = survey(tree(tmp_path, "a.nii.gz", "a_synthseg.nii.gz", "b.nii.gz"))
    assert found.layout == "synthseg"
    a, b = found.scans
    assert (a.labels, a.label_convention) == (str(tmp_path / "a_synthseg.nii.gz"), "freesurfer")
    assert (b.labels, b.split) == ("", "segment")


def test_synthseg_map_goes_with_the_image_resampled_to_its_grid(tmp_path):
    names = ["a.nii.gz", "a_synthseg.nii.gz", "a_resampled.nii.gz", "a_posteriors.nii.gz"]
    found = survey(tree(tmp_path, *names))
    assert [scan.image for scan in found.scans] == [str(tmp_path / "a_resampled.nii.gz")]
    assert reasons(found) == {"a_posteriors.nii.gz": "holds probabilities"}


def test_folder_of_synthseg_s_results_alone_has_the_resampled_images(tmp_path):
    found = survey(tree(tmp_path, "a_resampled.nii.gz", "a_synthseg.nii.gz"))
    (scan,) = found.scans
    assert (found.layout, scan.id, found.left_out) == ("synthseg", "sub-a", [])
    assert scan.image == str(tmp_path / "a_resampled.nii.gz")
    assert scan.labels == str(tmp_path / "a_synthseg.nii.gz")


def test_label_maps_of_synthseg_alone_are_no_scans(tmp_path):
    found = survey(tree(tmp_path, "a_synthseg.nii.gz", "b.nii.gz"))
    assert ids(found) == ["sub-b"]
    assert reasons(found) == {"a_synthseg.nii.gz": "is a label map without a scan"}
