"""`quicknat sheet` on data sets as people have them: scans, label maps, and what is neither."""

import pytest

from data_sets import T88, archive, bids, ids, oasis, surfer, tree
from quicknat.cohort.paths import find_one
from quicknat.cohort.sheet import read_sheet
from quicknat.cohort.survey import survey
from quicknat.cohort.writing import write_sheet
from quicknat.errors import InputError

MANUAL, PREP = "derivatives/manual/", "derivatives/fmriprep/"
FS, QUICKNAT = "derivatives/freesurfer/", "derivatives/quicknat/"
DEEP = "aparc.DKTatlas+aseg.deep.mgz"
TAKEN = "another file of the same scan was used"
NO_T1W = "has no anat/*_T1w.nii or .nii.gz"
UNFIT = "does not match the entities and space of any scan"
OF_NO_GRID = "lacks the desc-preproc_T1w of its grid"
TEMPLATE = "is a template shipped with FreeSurfer"
AVERAGE = "is the average of a subject's time points"
ORPHAN = "is a label map without a scan"
CONTRAST, MASK = "is another contrast than T1w, by its name", "is a mask, by its name"
NOT_ONE = "is not a folder of one scan"
WHICH = "holds {}; which is the T1w scan, and which its label map?"


def prep(folder, *descriptions):
    return [bids("sub-01", f"{description}.nii.gz", folder) for description in descriptions]


def prepared(folder):
    """The T1w scans and label maps of fMRIPrep; the second of each kind is the one to use."""
    return prep(folder, "space-MNI_desc-preproc_T1w", "desc-preproc_T1w",
                "desc-aparcaseg_dseg", "desc-aseg_dseg", "dseg")  # fmt: skip


def own(*stems):
    """Scans of BIDS without labels."""
    return {stem: (bids(stem),) for stem in stems}


def surfer_pair(subject, labels="aseg.mgz"):
    return (f"{subject}/mri/orig.mgz", f"{subject}/mri/{labels}")


def oasis_pair(visit, averaged=4, folder=""):
    stem = f"{visit}_mpr_n{averaged}_anon_111_t88_masked_gfc"
    return (f"{folder}{visit}/{T88}/{stem}.img", f"{folder}{visit}/FSL_SEG/{stem}_fseg.img")


MAPS = {  # of sub-N_run-1; those after the third do not fit it
    n: bids(stem, "dseg.nii.gz", MANUAL)
    for n, stem in enumerate(
        ["sub-1_run-1", "sub-2_run-1_desc-manual", "sub-3_run-1_space-T1w", "sub-4_run-1_space-MNI",
         "sub-5_run-1_res-2", "sub-6_run-2", "sub-7"], start=1)
}  # fmt: skip
RUN_2 = bids("sub-04_run-2", "desc-manual_dseg.nii.gz", MANUAL)
OURS = [bids("sub-02", "desc-quicknat_dseg.nii.gz", folder) for folder in ("", QUICKNAT)]
# by name: layout, files, image and labels by scan, and reasons of what is left out
DATA_SETS = {
    "BIDS": (
        "bids",
        ["dataset_description.json", *map(bids, [
            "sub-01_ses-a", "sub-01_ses-b", "sub-02", "sub-04_acq-b_ce-gad_run-1", "sub-04_run-1",
            "sub-04_run-2", "sub-05_acq-a.b", "sub-05_visit-2",
            *(f"sub-{n}_run-1" for n in MAPS)]),
         *MAPS.values(), RUN_2, "sub-01/ses-c/func/bold.nii.gz",
         bids("sub-02", "T2w.nii.gz"), bids("sub-03", "T2w.nii.gz"), *OURS,
         bids("sub-06", "T1w.NII.GZ")],
        own("sub-01_ses-a", "sub-01_ses-b", "sub-02", "sub-04_acq-b_ce-gad_run-1", "sub-04_run-1")
        | {"sub-04_run-2": (bids("sub-04_run-2"), RUN_2)}
        | {"sub-06": (bids("sub-06", "T1w.NII.GZ"),)}
        | {"sub-05_acq-ab": (bids("sub-05_acq-a.b"),),
           "sub-05_ses-visit2": (bids("sub-05_visit-2"),)}
        | {f"sub-{n}_run-1": (bids(f"sub-{n}_run-1"), *[MAPS[n]][: n < 4]) for n in MAPS},
        {MAPS[n]: UNFIT for n in (4, 5, 6, 7)} | dict.fromkeys(OURS, "was made by quicknat")
        | {"sub-01/ses-c/": NO_T1W, "sub-03/": NO_T1W},
    ),
    "fMRIPrep beside the raw scan": (
        "bids",
        [bids("sub-01"), *prepared(PREP)],
        {"sub-01": (prepared(PREP)[1], prepared(PREP)[3])},
        dict.fromkeys(prepared(PREP)[::2], TAKEN),
    ),
    "fMRIPrep alone": (
        "bids",
        prepared(""),
        {"sub-01": (prepared("")[1], prepared("")[3])},
        dict.fromkeys(prepared("")[::2], TAKEN),
    ),
    "fMRIPrep without its scans": (
        "bids",
        [bids("sub-01"), *prep(PREP, "dseg", "desc-aseg_dseg")],
        own("sub-01"),
        dict.fromkeys(prep(PREP, "dseg", "desc-aseg_dseg"), OF_NO_GRID),
    ),
    # of runs, of a visit with one whole head, and of one of two sessions or either
    "BIDS with FreeSurfer's results": (
        "bids",
        [*map(bids, ["sub-01_run-1", "sub-01_run-2", "sub-01_run-3", "sub-02_acq-hippoc",
                     "sub-02_acq-mprage", "sub-02_ce-gad", "sub-03_ses-1", "sub-03_ses-2"]),
         *(file for name in ("sub-01", "sub-01_run-3", "sub-02", "sub-03", "sub-03_ses-2",
                             "fsaverage") for file in surfer(f"{FS}{name}"))],
        own("sub-01_run-2", "sub-02_acq-hippoc", "sub-02_ce-gad", "sub-03_ses-1")
        | {"sub-01_run-1": surfer_pair(f"{FS}sub-01"),
           "sub-01_run-3": surfer_pair(f"{FS}sub-01_run-3"),
           "sub-02_acq-mprage": surfer_pair(f"{FS}sub-02"),
           "sub-03_ses-2": surfer_pair(f"{FS}sub-03_ses-2")},
        {f"{FS}fsaverage": TEMPLATE,
         f"{FS}sub-03/mri/aseg.mgz": "does not match subject and session of any scan"},
    ),
    "SUBJECTS_DIR": (
        "freesurfer",
        [*(file for name in ("anna", "disc1/OAS1_0001_MR1", "disc2/OAS1_0040_MR2", "fsaverage",
                             "fsaverage5", "cvs_avg35_inMNI152", "anna.long.base", "annabase",
                             "anna_template") for file in surfer(name)),
         *surfer("bert", "T1.mgz", "aseg.mgz", "rawavg.mgz"), *surfer("cleo", "orig.mgz"),
         *surfer("dora", "rawavg.mgz", "aseg.mgz"), "annabase/base-tps",
         "anna_template/base-tps.fastsurfer", "lh.EC_average/label/", "empty/",
         *surfer("failed", "brainmask.mgz")],
        {"sub-anna": surfer_pair("anna"), "sub-bert": ("bert/mri/T1.mgz", "bert/mri/aseg.mgz"),
         "sub-cleo": ("cleo/mri/orig.mgz",), "sub-dora": ("dora/mri/rawavg.mgz",),
         "sub-OAS10001_ses-MR1": surfer_pair("disc1/OAS1_0001_MR1"),
         "sub-OAS10040_ses-MR2": surfer_pair("disc2/OAS1_0040_MR2")},
        {"fsaverage": TEMPLATE, "fsaverage5": TEMPLATE, "cvs_avg35_inMNI152": TEMPLATE,
         "annabase": AVERAGE, "anna_template": AVERAGE,
         "anna.long.base": "is longitudinal; the cross-sectional run is used",
         "lh.EC_average": "has no folder 'mri'", "empty": "has no folder 'mri'",
         "failed": "has none of orig.mgz, T1.mgz, rawavg.mgz in mri/"},
    ),
    "FastSurfer": (
        "fastsurfer", surfer("anna", "orig.mgz", "aseg.mgz", DEEP),
        {"sub-anna": surfer_pair("anna", DEEP)}, {},
    ),
    "SynthSeg, with images resampled to the grid of its maps": (
        "synthseg",
        ["a.nii.gz", "a_synthseg.nii.gz", "a_posteriors.nii.gz", "b.nii.gz", "c.nii.gz",
         "c_synthseg.nii.gz", "c_resampled.nii.gz", "d_synthseg.nii.gz", "d_resampled.nii.gz",
         "e_synthseg.nii.gz"],
        {"sub-a": ("a.nii.gz", "a_synthseg.nii.gz"), "sub-b": ("b.nii.gz",),
         "sub-c": ("c_resampled.nii.gz", "c_synthseg.nii.gz"),
         "sub-d": ("d_resampled.nii.gz", "d_synthseg.nii.gz")},
        {"a_posteriors.nii.gz": "holds probabilities", "e_synthseg.nii.gz": ORPHAN},
    ),
    "scans and label maps in a folder": (
        "plain",
        ["u.nii", "u_dseg.nii.gz", "v.mgz", "v_seg.nii.gz", "w_T1w.nii", "w_labels.nii.gz",
         "x y.nii.gz", "x y_label.nii", "z.nii", "z_seg.nii", "z_aseg.mgz", "other.nii",
         "notes.txt", "b_dseg.nii", "c.img", "c.hdr", "p1_T1.nii.gz", "pd_1.nii", "p2.nii",
         "p1_T2.nii.gz", "p1-FLAIR.nii", "p2_brain_mask.nii", "p2_mask.nii", "p2.nii.gz", "T2.nii",
         "._a.nii.gz", ".git/annex/b.nii.gz", "b\t1.nii", "a{b}.nii"],
        {"sub-u": ("u.nii", "u_dseg.nii.gz"), "sub-v": ("v.mgz", "v_seg.nii.gz"),
         "sub-w": ("w_T1w.nii", "w_labels.nii.gz"), "sub-xy": ("x y.nii.gz", "x y_label.nii"),
         "sub-z": ("z.nii", "z_aseg.mgz"), "sub-other": ("other.nii",),
         "sub-p1": ("p1_T1.nii.gz",), "sub-p2": ("p2.nii",), "sub-pd1": ("pd_1.nii",)},
        {"z_seg.nii": TAKEN, "p2.nii.gz": TAKEN, "b_dseg.nii": ORPHAN, "p2_brain_mask.nii": MASK,
         "c.img": "is in Analyze format; add its row by hand, with 'orientation'",
         "p2_mask.nii": MASK, "p1_T2.nii.gz": CONTRAST, "p1-FLAIR.nii": CONTRAST,
         "T2.nii": CONTRAST,
         **dict.fromkeys(["b\t1.nii", "a{b}.nii"], "its path has a tab, brace, leading or "
                         "trailing space, or non-UTF-8 bytes")},
    ),
    "a folder for each scan": (
        "folders",
        ["subj_1/T1.nii.gz", "subj_1/aseg.nii.gz", "subj_2/scan.nii", "subj_3/MPRAGE.nii",
         "subj_3/flair.nii", "subj_3/MPRAGE_seg.nii", "subj_4/a.nii", "subj_4/b.nii",
         "subj_5/T1.nii", "subj_5/x_seg.nii", "subj_5/seg.nii", "subj_6/subj_6_flair.nii.gz",
         "mri/T1.mgz", "imagesTr/a.nii.gz", "notes/a.txt", "below/below/T1.nii",
         bids("sub-subj1", "desc-quicknat_dseg.nii.gz")],
        {"sub-subj1": ("subj_1/T1.nii.gz", "subj_1/aseg.nii.gz"), "sub-subj2": ("subj_2/scan.nii",),
         "sub-subj3": ("subj_3/MPRAGE.nii", "subj_3/MPRAGE_seg.nii")},
        {"subj_4": WHICH.format("2 images"), "subj_5": WHICH.format("3 images"),
         "subj_6": WHICH.format("1 image"),
         **dict.fromkeys(["mri", "imagesTr", "notes", "below", "sub-subj1"], NOT_ONE)},
    ),
    "BIDS without any T1w": (
        "bids", [bids("sub-01", "T2w.nii.gz"), "derivatives/x.nii.gz"], {}, {"sub-01/": NO_T1W},
    ),
    "OASIS-1": (
        "oasis1",
        [*(f"disc1/{name}" for name in oasis("OAS1_0001_MR1")),
         *(f"disc2/{name}" for name in oasis("OAS1_0001_MR2", 3)),
         *oasis("OAS1_0002_MR1", labels=False), "OAS1_0003_MR1/RAW/scan.img",
         *(name for name in oasis("OAS1_0004_MR1") if not name.endswith("_fseg.hdr")),
         *oasis("OAS1_0005_MR1", 3), *oasis("OAS1_0005_MR1", 4)],
        {"sub-OAS10001_ses-MR1": oasis_pair("OAS1_0001_MR1", folder="disc1/"),
         "sub-OAS10001_ses-MR2": oasis_pair("OAS1_0001_MR2", 3, "disc2/"),
         "sub-OAS10002_ses-MR1": oasis_pair("OAS1_0002_MR1")[:1],
         "sub-OAS10004_ses-MR1": oasis_pair("OAS1_0004_MR1")[:1],
         "sub-OAS10005_ses-MR1": oasis_pair("OAS1_0005_MR1", 3)},
        {"OAS1_0003_MR1": "has no PROCESSED/MPRAGE/T88_111/*_masked_gfc.img",
         oasis_pair("OAS1_0004_MR1")[1]: "lacks its .hdr",
         **dict.fromkeys(oasis_pair("OAS1_0005_MR1", 4), TAKEN)},
    ),
    "IXI": (
        "ixi",
        ["IXI002-Guys-0828-T1.nii.gz", "IXI012-HH-1211-T1.nii.gz", "IXI012-HH-1300-T1.nii.gz",
         "IXI002-Guys-0828-T2.nii.gz"],
        {"sub-IXI002": ("IXI002-Guys-0828-T1.nii.gz",),
         "sub-IXI012": ("IXI012-HH-1211-T1.nii.gz",)},
        {"IXI002-Guys-0828-T2.nii.gz": "is not named IXI###-Site-####-T1",
         "IXI012-HH-1300-T1.nii.gz": TAKEN},
    ),
}  # fmt: skip
CONVENTIONS = {"oasis1": "tissues4", "freesurfer": "freesurfer", "fastsurfer": "freesurfer",
               "synthseg": "freesurfer"}  # fmt: skip


@pytest.mark.case(40, 62, 65, 66, 67)
@pytest.mark.parametrize("name", DATA_SETS)
def test_scans_of_a_data_set_have_rows_and_the_rest_has_a_reason(tmp_path, name):
    layout, files, expected, left_out = DATA_SETS[name]
    found = survey(tree(tmp_path, *files))
    assert (found.layout, ids(found)) == (layout, sorted(expected))
    for scan in found.scans:
        paths = [path.removeprefix(f"{tmp_path}/") for path in (scan.image, scan.labels) if path]
        assert tuple(paths) == expected[scan.id]
        if layout not in ("plain", "folders"):  # which do not imply it
            convention = CONVENTIONS.get(layout, "freesurfer" if "aseg" in scan.labels else "")
            assert scan.label_convention == (convention if scan.labels else "")
        split = "pretrain" if layout == "ixi" else "auto" if scan.labels else "segment"
        assert (scan.split, scan.participant) == (split, scan.subject)
        assert scan.orientation == ("LAS" if layout == "oasis1" else "")
    assert found.left_out == left_out


def test_label_map_goes_with_the_image_of_its_name(tmp_path):
    tree(tmp_path, "p.nii", "p_T1.nii", "p_seg.nii", "q.nii", "q_T1.nii", "q_T1_seg.nii")
    pairs = {scan.image: scan.labels for scan in survey(tmp_path).scans if scan.labels}
    named = {"p.nii": "p_seg.nii", "q_T1.nii": "q_T1_seg.nii"}
    assert pairs == {f"{tmp_path / image}": f"{tmp_path / seg}" for image, seg in named.items()}


def test_layout_can_be_forced(tmp_path):
    tree(tmp_path, *surfer("anna", "orig.mgz", "aseg.mgz", DEEP))
    assert survey(tmp_path, "freesurfer").scans[0].labels.endswith("anna/mri/aseg.mgz")


@pytest.mark.parametrize("change", [str.lower, str.upper])
def test_oasis1_is_found_whatever_the_case_of_its_names(tmp_path, change):
    tree(tmp_path, *(change(f"Disc1/{name}") for name in oasis("OAS1_0001_MR1")))
    (scan,) = survey(tmp_path).scans
    assert scan.id == "sub-OAS10001_ses-MR1" and scan.labels
    assert find_one(scan.image).is_file()


def test_labels_from_freesurfer_replace_scans_and_labels(tmp_path):
    discs = tree(tmp_path / "discs", *oasis("OAS1_0001_MR1"), *oasis("OAS1_0002_MR1"))
    fs = tree(tmp_path / "fs", *surfer("OAS1_0001_MR1"), *surfer("IXI002-Guys-0828-T1"))
    found = survey(discs, labels_from=fs)
    one, two = found.scans
    assert (one.image, one.labels) == surfer_pair(fs / "OAS1_0001_MR1")
    assert (one.label_convention, one.orientation, one.split) == ("freesurfer", "", "auto")
    assert (two.labels, two.label_convention, two.split) == ("", "", "segment")
    unused = surfer_pair(fs / "IXI002-Guys-0828-T1")[1]
    assert found.left_out == {unused: "does not match subject and session of any scan"}
    (scan,) = survey(tree(tmp_path / "ixi", "IXI002-Guys-0828-T1.nii.gz"), labels_from=fs).scans
    assert (scan.split, scan.label_convention) == ("pretrain", "freesurfer")
    with pytest.raises(InputError, match="no FreeSurfer results"):
        survey(discs, labels_from=tree(tmp_path / "none", *surfer("OAS1_0001_MR1", "orig.mgz")))
    with pytest.raises(InputError, match=r"no results for any of these scans.*e.g. sub-OAS10001"):
        survey(discs, labels_from=tree(tmp_path / "other", *surfer("S02")))


@pytest.mark.parametrize(
    ("files", "layout", "name"),
    [
        ([f"./disc1/{name}" for name in oasis("OAS1_0001_MR1")], "oasis1", "sub-OAS10001_ses-MR1"),
        (surfer("disc1/OAS1_0001_MR1"), "freesurfer", "sub-OAS10001_ses-MR1"),
        (["IXI002-Guys-0828-T1.nii.gz"], "ixi", "sub-IXI002"),
    ],
)
def test_archive_is_listed_with_members_as_paths_and_not_unpacked(tmp_path, files, layout, name):
    path = archive(tmp_path / "disc 1.tar.gz", *files)
    found = survey(path, source="disc1")
    assert (found.layout, ids(found)) == (layout, [name])
    write_sheet(found.scans, tmp_path / "cohort.tsv")
    (scan,) = read_sheet(tmp_path / "cohort.tsv")
    assert scan.source == scan.labels_source == "disc1"
    assert {scan.image, scan.labels} <= {file.removeprefix("./") for file in files} | {""}
    assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / "cohort.tsv"])


def test_archive_is_refused_without_source_of_another_layout_or_if_damaged(tmp_path):
    path = archive(tmp_path / "x.tar.gz", "a.nii.gz")
    with pytest.raises(InputError, match="--source"):
        survey(path)
    with pytest.raises(InputError, match="holds no scan of a known.*oasis1, ixi, freesurfer"):
        survey(path, source="x")
    with pytest.raises(InputError, match="'plain' needs a folder"):
        survey(path, "plain", "x")
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(InputError, match="cannot be listed as a tar archive"):
        survey(path, source="x")
    with pytest.raises(InputError, match="is a folder, not an archive"):
        survey(tmp_path, source="x")
