"""`quicknat sheet`: what is found in data sets as people have them, what is left out, and why.

Only names matter, so the trees are of empty files.
"""

import io
import logging
import subprocess
import sys
import tarfile

import pytest

from data_sets import T88, oasis, surfer, tree
from helpers import ROOT
from quicknat.cli.cohorts import Layout
from quicknat.cohort.layouts import LAYOUTS
from quicknat.cohort.naming import name_parts
from quicknat.cohort.sheet import find_one, read_sheet
from quicknat.cohort.survey import survey
from quicknat.cohort.writing import write_sheet
from quicknat.errors import InputError
from quicknat.schema import load_schema

SCHEMA = load_schema(ROOT / "workflow/schemas/sheet.schema.yaml")


def archive(path, *names):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    return path


def ids(found):
    return [scan.id for scan in found.scans]


def reasons(found):
    return {item.path: item.reason for item in found.left_out}


# FreeSurfer, FastSurfer


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
    assert (anna.protocol, anna.use, anna.person) == ("freesurfer", "auto", "anna")
    assert bert.image == str(root / "bert/mri/T1.mgz")


def test_freesurfer_subject_without_aseg_is_to_segment(tmp_path):
    (scan,) = survey(tree(tmp_path, *surfer("anna", "orig.mgz"))).scans
    assert (scan.use, scan.labels, scan.protocol) == ("segment", "", "")


LEFT_OUT_OF_SUBJECTS_DIR = {
    "fsaverage": (surfer("fsaverage"), "template"),
    "fsaverage5": (surfer("fsaverage5"), "template"),
    "cvs_avg35_inMNI152": (surfer("cvs_avg35_inMNI152"), "template"),
    "lh.EC_average": (["lh.EC_average/label/"], "no folder 'mri'"),
    "empty": (["empty/"], "no folder 'mri'"),
    "anna1.long.anna": (surfer("anna1.long.anna"), "longitudinal"),
    "annabase": ([*surfer("annabase"), "annabase/base-tps"], "time points"),
    "failed": (surfer("failed", "rawavg.mgz"), "neither mri/orig.mgz nor mri/T1.mgz"),
}


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


# SynthSeg, plain folders


def test_synthseg_folder_pairs_scans_with_their_maps(tmp_path):
    found = survey(tree(tmp_path, "a.nii.gz", "a_synthseg.nii.gz", "b.nii.gz"))
    assert found.layout == "synthseg"
    a, b = found.scans
    assert (a.labels, a.protocol) == (str(tmp_path / "a_synthseg.nii.gz"), "freesurfer")
    assert (b.labels, b.use) == ("", "segment")


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
    assert reasons(found) == {"a_synthseg.nii.gz": "is a label map without its scan"}


@pytest.mark.parametrize("kind", ["dseg", "seg", "labels", "aseg"])
@pytest.mark.parametrize("image", ["x y.nii.gz", "x y_T1w.nii", "x y.mgz"])
def test_plain_folder_pairs_scans_with_label_maps_beside(tmp_path, image, kind):
    found = survey(tree(tmp_path, image, f"x y_{kind}.nii.gz", "z.nii", "notes.txt"))
    assert (found.layout, ids(found), found.left_out) == ("plain", ["sub-xy", "sub-z"], [])
    first, second = found.scans
    assert (first.image, first.use) == (str(tmp_path / image), "auto")
    assert first.labels == str(tmp_path / f"x y_{kind}.nii.gz")
    assert second.use == "segment"


def test_plain_folder_says_what_it_leaves_out(tmp_path):
    found = survey(
        tree(tmp_path, "a.nii", "a_seg.nii", "a_aseg.mgz", "b_dseg.nii", "c.img", "c.hdr")
    )
    assert ids(found) == ["sub-a"]
    assert reasons(found) == {
        "a_seg.nii": "another of the same scan was taken",
        "b_dseg.nii": "is a label map without its scan",
        "c.img": "is Analyze; write its row, with 'orientation', yourself",
    }


# BIDS


def test_bids_sessions_are_scans_of_one_person(tmp_path):
    found = survey(tree(
        tmp_path, "dataset_description.json", "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii", "sub-02/anat/sub-02_T1w.nii.gz",
        "sub-02/anat/sub-02_T2w.nii.gz",
    ))  # fmt: skip
    assert (found.layout, found.left_out) == ("bids", [])
    assert ids(found) == ["sub-01_ses-a", "sub-01_ses-b", "sub-02"]
    assert [scan.person for scan in found.scans] == ["01", "01", "02"]
    assert {scan.use for scan in found.scans} == {"segment"}


def test_first_t1w_of_a_bids_session_is_taken_and_the_others_are_listed(tmp_path):
    names = [f"sub-01/anat/sub-01_{rest}_T1w.nii.gz" for rest in ("acq-b", "run-1", "run-2")]
    found = survey(tree(tmp_path, *names))
    assert [scan.image for scan in found.scans] == [str(tmp_path / names[0])]
    assert reasons(found) == dict.fromkeys(names[1:], "another of the same scan was taken")


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
    assert scan.use == ("auto" if fits else "segment")
    unfit = "has not the entities and space of a scan that was taken"
    assert reasons(found) == ({} if fits else {label: unfit})


def test_fmripreps_aseg_is_preferred_and_its_numbering_known(tmp_path):
    folder = "derivatives/fmriprep/sub-01/anat/sub-01"
    names = [f"{folder}_{desc}dseg.nii.gz" for desc in ("", "desc-aparcaseg_", "desc-aseg_")]
    found = survey(tree(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", *names))
    assert found.scans[0].labels == str(tmp_path / names[2])
    assert found.scans[0].protocol == "freesurfer"
    assert sorted(reasons(found)) == sorted(names[:2])


def test_freesurfer_in_bids_derivatives_gives_labels_and_the_image_on_their_grid(tmp_path):
    found = survey(tree(
        tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz",
        "sub-02/ses-2/anat/sub-02_ses-2_T1w.nii.gz", *surfer("derivatives/freesurfer/sub-01"),
        *surfer("derivatives/freesurfer/sub-02_ses-2"), *surfer("derivatives/freesurfer/sub-02"),
        *surfer("derivatives/freesurfer/fsaverage"),
    ))  # fmt: skip
    one, first, second = found.scans
    assert one.image == str(tmp_path / "derivatives/freesurfer/sub-01/mri/orig.mgz")
    assert (one.protocol, one.use) == ("freesurfer", "auto")
    # results without session could be of either session
    assert (first.labels, first.use) == ("", "segment")
    assert second.labels == str(tmp_path / "derivatives/freesurfer/sub-02_ses-2/mri/aseg.mgz")


# OASIS-1, IXI


def test_oasis1_discs_give_sessions_labels_and_orientation(tmp_path):
    found = survey(tree(
        tmp_path, *(f"disc1/{name}" for name in oasis("OAS1_0001_MR1")),
        *(f"disc1/{name}" for name in oasis("OAS1_0007_MR1", 3)),
        *(f"disc2/{name}" for name in oasis("OAS1_0001_MR2")),
    ))  # fmt: skip
    assert (found.layout, found.left_out) == ("oasis1", [])
    assert ids(found) == ["sub-OAS10001_ses-MR1", "sub-OAS10001_ses-MR2", "sub-OAS10007_ses-MR1"]
    assert [scan.person for scan in found.scans] == ["OAS10001", "OAS10001", "OAS10007"]
    last = found.scans[-1]
    stem = "OAS1_0007_MR1_mpr_n3_anon_111_t88_masked_gfc"
    assert last.image == str(tmp_path / f"disc1/OAS1_0007_MR1/{T88}/{stem}.img")
    assert last.labels == str(tmp_path / f"disc1/OAS1_0007_MR1/FSL_SEG/{stem}_fseg.img")
    assert (last.protocol, last.orientation, last.use) == ("tissues4", "LAS", "auto")


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
    assert [scan.use for scan in found.scans] == ["segment", "segment", "auto"]
    assert "_n3_" in found.scans[2].image and "_n3_" in found.scans[2].labels
    assert sorted(reasons(found).values()) == [
        "another of the same scan was taken",
        "another of the same scan was taken",
        "has no PROCESSED/MPRAGE/T88_111/*_masked_gfc.img",
        "its .hdr is absent",
    ]


def test_labels_from_freesurfer_replace_oasis1s_scans_and_tissues(tmp_path):
    discs = tree(tmp_path / "discs", *oasis("OAS1_0001_MR1"), *oasis("OAS1_0002_MR1"))
    subjects = tree(tmp_path / "fs", *surfer("OAS1_0001_MR1"), *surfer("OAS1_0009_MR1"))
    one, two = survey(discs, labels_from=subjects).scans
    assert one.image == str(subjects / "OAS1_0001_MR1/mri/orig.mgz")
    assert one.labels == str(subjects / "OAS1_0001_MR1/mri/aseg.mgz")
    assert (one.protocol, one.orientation, one.use) == ("freesurfer", "", "auto")
    assert (two.labels, two.protocol, two.orientation, two.use) == ("", "", "LAS", "segment")


def test_labels_from_a_folder_without_results_are_refused(tmp_path):
    discs = tree(tmp_path / "discs", *oasis("OAS1_0001_MR1"))
    with pytest.raises(InputError, match="no results of FreeSurfer"):
        survey(discs, labels_from=tree(tmp_path / "fs", *surfer("OAS1_0001_MR1", "orig.mgz")))


def test_ixi_scans_are_for_pretraining(tmp_path):
    found = survey(tree(
        tmp_path, "IXI002-Guys-0828-T1.nii.gz", "IXI012-HH-1211-T1.nii.gz",
        "IXI012-HH-1300-T1.nii.gz", "IXI002-Guys-0828-T2.nii.gz",
    ))  # fmt: skip
    assert (found.layout, ids(found)) == ("ixi", ["sub-IXI002", "sub-IXI012"])
    assert [(s.use, s.labels, s.person) for s in found.scans] == [
        ("pretrain", "", "IXI002"),
        ("pretrain", "", "IXI012"),
    ]
    assert reasons(found) == {
        "IXI002-Guys-0828-T2.nii.gz": "is not named IXI###-Site-####-T1",
        "IXI012-HH-1300-T1.nii.gz": "another of the same scan was taken",
    }


def test_ixi_with_freesurfer_results_stays_for_pretraining(tmp_path):
    scans = tree(tmp_path / "ixi", "IXI002-Guys-0828-T1.nii.gz")
    (scan,) = survey(scans, labels_from=tree(tmp_path / "fs", *surfer("IXI002-Guys-0828-T1"))).scans
    assert (scan.use, scan.protocol) == ("pretrain", "freesurfer")


# archives


@pytest.mark.parametrize("prefix", ["", "./"])
def test_oasis1_archive_is_listed_with_members_as_paths(tmp_path, prefix):
    names = [f"disc1/{name}" for name in oasis("OAS1_0001_MR1")]
    path = archive(tmp_path / "disc 1.tar.gz", *(prefix + name for name in names))
    (scan,) = survey(path, source="oasis1-disc1").scans
    assert scan.source == "oasis1-disc1" and scan.image in names and scan.labels in names
    write_sheet([scan], tmp_path / "cohort.tsv", SCHEMA)
    (read,) = read_sheet(tmp_path / "cohort.tsv", SCHEMA)
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
    with pytest.raises(InputError, match="holds no scan of any layout.*oasis1, ixi, freesurfer"):
        survey(path, source="x")
    with pytest.raises(InputError, match="'plain' needs a folder"):
        survey(path, "plain", "x")
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(InputError, match="cannot be listed as a tar archive"):
        survey(path, source="x")
    with pytest.raises(InputError, match="is a folder, which has no source"):
        survey(tmp_path, source="x")


# names and paths


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("sub-01_ses-2_run-3", ("01", "2")),
        ("sub-01", ("01", "")),
        ("OAS1_0001_MR1", ("OAS10001", "MR1")),
        ("oas1_0457_mr2", ("OAS10457", "MR2")),
        ("IXI002-Guys-0828-T1", ("IXI002", "")),
        ("002_S_0413 (é)", ("002S0413", "")),
        ("sub-01.x", ("sub01x", "")),
        ("…", ("", "")),
    ],
)
def test_subject_and_session_come_from_names(name, parts):
    assert name_parts(name) == parts


@pytest.mark.parametrize(
    ("one", "two"), [("a_1", "a1"), ("sub-01_run-1", "sub-01_run-2"), ("x/anna", "y/anna")]
)
def test_two_scans_that_would_get_one_name_are_refused_naming_both(tmp_path, one, two):
    tree(tmp_path, *surfer(one), *surfer(two))
    with pytest.raises(InputError) as error:
        survey(tmp_path)
    assert f"{one}/mri" in str(error.value) and f"{two}/mri" in str(error.value)
    assert "rename" in str(error.value)


def test_scan_that_a_sheet_cannot_name_is_left_out(tmp_path):
    found = survey(tree(tmp_path, "a.nii", "b\t1.nii", "….nii"))
    assert ids(found) == ["sub-a"]
    assert reasons(found) == {
        "b\t1.nii": "its path holds a tab, a brace or an outer space",
        "….nii": "no letter or digit in its name",
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
    assert list(reasons(found).values()) == ["is a link to a file that is not there; fetch it"]


def test_hidden_files_are_not_scans(tmp_path):
    found = survey(tree(tmp_path, "a.nii.gz", "._a.nii.gz", ".git/annex/b.nii.gz"))
    assert (ids(found), found.left_out) == (["sub-a"], [])


def test_layout_can_be_forced(tmp_path):
    tree(tmp_path, "IXI002-Guys-0828-T1.nii.gz")
    assert [s.use for s in survey(tmp_path, "plain").scans] == ["segment"]
    assert [layout.value for layout in Layout] == list(LAYOUTS)


def test_folder_without_scans_and_no_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no scan.*oasis1, ixi, bids, .*plain"):
        survey(tree(tmp_path, "notes.txt"))
    with pytest.raises(InputError, match="no such folder or archive"):
        survey(tmp_path / "absent")


# the command


def quicknat(monkeypatch, *arguments):
    """Exit status of the command line in this process."""
    from quicknat.cli import main

    monkeypatch.setattr(sys, "argv", ["quicknat", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


def test_command_writes_the_sheet_and_reports_uses_and_what_it_left_out(
    tmp_path, monkeypatch, caplog
):
    people = [f"p{n}" for n in range(30)]
    files = [name for person in people for name in surfer(person)]
    root = tree(tmp_path / "fs", *files, *surfer("bert", "orig.mgz"), *surfer("fsaverage"))
    caplog.set_level(logging.INFO)
    assert quicknat(monkeypatch, "sheet", root, "--output", tmp_path / "cohort.tsv") == 0
    said = caplog.text
    assert "31 scans of 31 people (layout freesurfer)" in said
    uses = [scan.use for scan in read_sheet(tmp_path / "cohort.tsv", SCHEMA)]
    for use in ("train", "val", "test", "segment"):
        assert uses.count(use) and f"  {use:8}  {uses.count(use)}" in said
    assert "fsaverage  comes with FreeSurfer; it is a template" in said


def test_command_adds_what_is_new_and_says_what_a_cohort_lacks(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    root, sheet = tree(tmp_path / "fs", *surfer("anna", "orig.mgz")), tmp_path / "cohort.tsv"

    def command(*options):
        caplog.clear()
        return quicknat(monkeypatch, "sheet", root, "--output", sheet, *options), caplog.text

    status, said = command()
    assert status == 0 and "no scan to train on: give a finished model" in said
    assert f"next: quicknat check {sheet}" in said
    tree(root, *surfer("bert"))
    assert command()[0] == 1 and len(read_sheet(sheet, SCHEMA)) == 1
    status, said = command("--add", "--use", "train")
    assert status == 0 and "1 of them are new to it, which makes 2" in said
    assert "no scan to validate on" in said and "no scan to test on" in said
    assert [scan.use for scan in read_sheet(sheet, SCHEMA)] == ["segment", "train"]
    assert command("--add", "--overwrite")[0] == 2


def test_command_that_finds_no_scan_says_why_and_exits_with_1(
    tmp_path, monkeypatch, caplog, capsys
):
    caplog.set_level(logging.INFO)
    root = tree(tmp_path / "fs", *surfer("fsaverage"))
    assert quicknat(monkeypatch, "sheet", root, "--output", tmp_path / "cohort.tsv") == 1
    assert "fsaverage  comes with FreeSurfer" in caplog.text
    assert "holds no scan to write (layout freesurfer)" in capsys.readouterr().err
    assert not (tmp_path / "cohort.tsv").exists()
    assert quicknat(monkeypatch, "sheet", tmp_path / "absent") == 1


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


def test_looking_at_a_data_set_needs_no_torch():
    code = (
        "import sys\nfrom quicknat.cohort import survey, writing\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
