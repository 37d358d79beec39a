"""`quicknat sheet` on BIDS data sets: sessions, derivatives, what is left out."""

import pytest

from data_sets import ids, reasons, surfer, tree
from quicknat.cohort.survey import survey


def test_bids_sessions_are_scans_of_one_participant(tmp_path):
    found = survey(tree(
        tmp_path, "dataset_description.json", "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii", "sub-02/anat/sub-02_T1w.nii.gz",
        "sub-02/anat/sub-02_T2w.nii.gz",
    ))  # fmt: skip
    assert (found.layout, found.left_out) == ("bids", [])
    assert ids(found) == ["sub-01_ses-a", "sub-01_ses-b", "sub-02"]
    assert [scan.participant for scan in found.scans] == ["01", "01", "02"]
    assert {scan.split for scan in found.scans} == {"segment"}


def test_every_run_and_acquisition_is_a_scan_of_its_own_with_its_own_labels(tmp_path):
    stems = ["sub-01_acq-b_ce-gad_run-1", "sub-01_run-1", "sub-01_run-2", "sub-02"]
    names = [f"{stem[:6]}/anat/{stem}_T1w.nii.gz" for stem in stems]
    label = "derivatives/manual/sub-01/anat/sub-01_run-2_desc-manual_dseg.nii.gz"
    found = survey(tree(tmp_path, *names, label))
    assert (ids(found), found.left_out) == (stems, [])
    assert [scan.participant for scan in found.scans] == ["01", "01", "01", "02"]
    assert [bool(scan.labels) for scan in found.scans] == [False, False, True, False]


def test_scan_whose_entities_bids_does_not_know_is_kept(tmp_path):
    names = [f"sub-01/anat/sub-01_{rest}T1w.nii.gz" for rest in ("", "acq-a.b_", "visit-2_")]
    found = survey(tree(tmp_path, *names, "sub-02/anat/sub-02_T1w.nii.gz"))
    assert ids(found) == ["sub-01", "sub-01_acq-ab", "sub-01_ses-visit2", "sub-02"]
    assert {scan.participant for scan in found.scans} == {"01", "02"}


def test_freesurfers_result_of_a_session_is_that_of_its_first_run_or_of_the_named_one(tmp_path):
    root = tree(tmp_path, *(f"sub-01/anat/sub-01_run-{n}_T1w.nii.gz" for n in (1, 2, 3)),
                *surfer("derivatives/freesurfer/sub-01"),
                *surfer("derivatives/freesurfer/sub-01_run-3"))  # fmt: skip
    first, second, third = survey(root).scans
    assert first.labels == str(root / "derivatives/freesurfer/sub-01/mri/aseg.mgz")
    assert (second.labels, second.split) == ("", "segment")
    assert third.labels == str(root / "derivatives/freesurfer/sub-01_run-3/mri/aseg.mgz")


@pytest.mark.case(67)
def test_results_of_a_session_go_with_the_scan_of_the_whole_head(tmp_path):
    stems = ["sub-01_acq-hippoc", "sub-01_acq-mprage", "sub-01_ce-gad"]
    root = tree(tmp_path, *(f"sub-01/anat/{stem}_T1w.nii.gz" for stem in stems),
                *surfer("derivatives/freesurfer/sub-01"))  # fmt: skip
    found = survey(root)
    assert ids(found) == stems
    assert [bool(scan.labels) for scan in found.scans] == [False, True, False]


@pytest.mark.case(40)
def test_bids_subject_and_session_without_t1w_are_left_out(tmp_path):
    found = survey(tree(
        tmp_path, "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz", "sub-01/ses-b/func/bold.nii.gz",
        "sub-02/anat/sub-02_T2w.nii.gz",
    ))  # fmt: skip
    assert ids(found) == ["sub-01_ses-a"]
    absent = "has no anat/*_T1w.nii or .nii.gz"
    assert reasons(found) == {"sub-01/ses-b/": absent, "sub-02/": absent}


@pytest.mark.parametrize(
    ("stem", "fits"),
    [
        ("sub-01_run-1_dseg", True),
        ("sub-01_run-1_desc-manual_dseg", True),
        ("sub-01_run-1_space-T1w_dseg", True),
        ("sub-01_run-1_space-MNI152NLin2009cAsym_dseg", False),
        ("sub-01_run-1_res-2_dseg", False),
        ("sub-01_run-2_dseg", False),
        ("sub-01_dseg", False),
    ],
)
def test_bids_label_map_must_have_the_scans_entities_and_space(tmp_path, stem, fits):
    label = f"derivatives/manual/sub-01/anat/{stem}.nii.gz"
    found = survey(tree(tmp_path, "sub-01/anat/sub-01_run-1_T1w.nii.gz", label))
    (scan,) = found.scans
    assert scan.labels == (str(tmp_path / label) if fits else "")
    assert scan.split == ("auto" if fits else "segment")
    unfit = "does not match the entities and space of any scan"
    assert reasons(found) == ({} if fits else {label: unfit})


@pytest.mark.case(66)
@pytest.mark.parametrize("raw", [True, False])
def test_fmripreps_aseg_is_preferred_and_goes_with_the_preprocessed_scan(tmp_path, raw):
    folder = "derivatives/fmriprep/" * raw + "sub-01/anat/sub-01"
    names = [f"{folder}_{desc}dseg.nii.gz" for desc in ("", "desc-aparcaseg_", "desc-aseg_")]
    images = [f"{folder}_{space}desc-preproc_T1w.nii.gz" for space in ("", "space-MNI_")]
    scans = ["sub-01/anat/sub-01_T1w.nii.gz"] * raw
    found = survey(tree(tmp_path, *scans, *names, *images))
    (scan,) = found.scans
    assert (scan.image, scan.labels) == (str(tmp_path / images[0]), str(tmp_path / names[2]))
    assert (scan.id, scan.label_convention, scan.split) == ("sub-01", "freesurfer", "auto")
    assert set(names[:2]) <= set(reasons(found)) <= {*names[:2], images[1]}


@pytest.mark.case(66)
def test_label_map_of_a_preprocessed_scan_is_not_paired_with_the_raw_one(tmp_path):
    folder = "derivatives/fmriprep/sub-01/anat/sub-01"
    names = [f"{folder}_{desc}dseg.nii.gz" for desc in ("", "desc-aseg_")]
    found = survey(tree(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", *names))
    (scan,) = found.scans
    assert (scan.labels, scan.split) == ("", "segment")
    unfit = "lacks the desc-preproc_T1w of its grid"
    assert reasons(found) == dict.fromkeys(names, unfit)


@pytest.mark.case(65)
def test_our_own_results_are_no_labels_to_train_on(tmp_path):
    ours = [f"{folder}sub-01/anat/sub-01_desc-quicknat_dseg.nii.gz"
            for folder in ("", "derivatives/quicknat/")]  # fmt: skip
    found = survey(tree(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", *ours))
    assert found.scans[0].labels == ""
    assert reasons(found) == dict.fromkeys(ours, "was made by quicknat")


def test_freesurfer_in_bids_derivatives_gives_labels_and_the_image_on_their_grid(tmp_path):
    found = survey(tree(
        tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz",
        "sub-02/ses-2/anat/sub-02_ses-2_T1w.nii.gz", *surfer("derivatives/freesurfer/sub-01"),
        *surfer("derivatives/freesurfer/sub-02_ses-2"), *surfer("derivatives/freesurfer/sub-02"),
        *surfer("derivatives/freesurfer/fsaverage"),
    ))  # fmt: skip
    one, first, second = found.scans
    assert one.image == str(tmp_path / "derivatives/freesurfer/sub-01/mri/orig.mgz")
    assert (one.label_convention, one.split) == ("freesurfer", "auto")
    # results without session could be of either session
    assert (first.labels, first.split) == ("", "segment")
    assert second.labels == str(tmp_path / "derivatives/freesurfer/sub-02_ses-2/mri/aseg.mgz")
