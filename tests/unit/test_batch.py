"""Scans in, result files out: names, failures, what is skipped, what is written."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from data_sets import surfer, tree
from helpers import write_conformed
from in_process import quicknat
from quicknat.cohort.naming import Selection
from quicknat.errors import InputError
from quicknat.files import sha256
from quicknat.images.slices import VIEWS
from quicknat.model.bundle import load_bundle
from quicknat.segmentation.batch import segment_all, segment_file
from quicknat.segmentation.tasks import (
    Options,
    Outcome,
    Task,
    find_scans,
    read_tasks,
    write_outcomes,
)
from quicknat.segmentation.volumes import read_totals


def test_model_folder_is_enough_to_segment_on_the_native_grid(
    model, head, head_file, protocol, tmp_path
):
    segment_file(
        load_bundle(model), Task(head_file, "sub-1"), tmp_path / "out", Options(views=True)
    )
    anat = tmp_path / "out/sub-1/anat"
    names = ("quicknat_dseg", "quicknat_uncertainty", *(f"{view}_dseg" for view in VIEWS))
    images = [nib.load(anat / f"sub-1_desc-{name}.nii.gz") for name in names]
    for image in images:
        assert image.shape == head.shape and image.get_data_dtype() == np.uint8
        np.testing.assert_allclose(image.affine, head.affine, atol=1e-4)
    assert 0.1 < images[1].get_fdata().max() <= 1  # the header's slope makes fractions
    data, _, *views = (np.asarray(image.dataobj) for image in images)
    sagittal = set(np.unique(views[VIEWS.index("sagittal")]))
    assert np.any(views) and sagittal <= set(np.unique(protocol.sagittal, return_index=True)[1])
    table = pd.read_csv(anat / "sub-1_desc-quicknat_dseg.tsv", sep="\t")
    assert list(table.columns) == ["index", "name", "abbreviation", "color", "freesurfer_id"]
    volumes = pd.read_csv(anat / "sub-1_desc-quicknat_volumes.tsv", sep="\t")
    assert volumes["voxels"].tolist() == [int((data == i).sum()) for i in range(1, 28)]
    assert volumes["volume_mm3"].sum() == pytest.approx((data > 0).sum() * 8, rel=1e-3)
    totals = read_totals(anat / "sub-1_desc-quicknat_dseg.stats")
    assert float(totals["all_structures"]) == pytest.approx(8 * (data > 0).sum(), rel=1e-6)
    qc = json.loads((anat / "sub-1_desc-quicknat_qc.json").read_text())
    assert all(set(flag) == {"flag", "reason"} for flag in qc["flags"])
    made = json.loads((anat / "sub-1_desc-quicknat_dseg.json").read_text())
    assert made["source"] == {"path": str(head_file), "sha256": sha256(head_file)}
    assert made["model"]["sha256"] == sha256(model / "bundle.json")
    assert "merged" in made["views"]["sagittal"]
    stages = {"read", "networks", "scores", "native", "brain_mask"}
    assert made["device"] == "cpu" and set(made["seconds"]) == stages


@pytest.mark.case(58)
def test_scan_that_fails_does_not_stop_the_others_and_is_listed(model, head_file, tmp_path):
    broken = tmp_path / "sub-2_T1w.nii.gz"
    broken.write_bytes(head_file.read_bytes()[:5000])
    tasks = [Task(broken, "sub-2"), Task(head_file, "sub-1"), Task(tmp_path / "no.nii", "sub-3")]
    outcomes = segment_all(load_bundle(model), tasks, tmp_path / "out")
    assert [outcome.status for outcome in outcomes] == ["failed", "done", "failed"]
    table = pd.read_csv(tmp_path / "out/scans.tsv", sep="\t").set_index("name")
    assert "damaged" in table.loc["sub-2", "reason"]
    assert "no such file" in table.loc["sub-3", "reason"]
    assert not (tmp_path / "out/sub-2").exists()
    assert not list(tmp_path.glob("out/*/anat/*desc-coronal*"))
    volumes = pd.read_csv(tmp_path / "out/volumes.tsv", sep="\t")
    own = pd.read_csv(tmp_path / "out/sub-1/anat/sub-1_desc-quicknat_volumes.tsv", sep="\t")
    assert set(volumes.pop("subject")) == {"sub-1"} and volumes.equals(own)
    flags = json.loads((tmp_path / "out/sub-1/anat/sub-1_desc-quicknat_qc.json").read_text())
    assert table.loc["sub-1", "flags"] == "; ".join(f["reason"] for f in flags["flags"]) != ""
    described = json.loads((tmp_path / "out/dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"


@pytest.mark.parametrize(
    ("line", "allowed"),  # a scan beside a good one, and the exit status if bad ones are allowed
    [("sub-2\tbad.nii\t\n", 0), ("sub-2\tgone.nii\t\n", 1), ("sub-2\thead.nii.gz\t\n", 1)],
    ids=["damaged", "gone, maybe with its disk", "full disk"],
)
def test_list_of_scans_fails_unless_only_bad_scans_failed(
    model, head_file, tmp_path, monkeypatch, line, allowed
):
    (tmp_path / "bad.nii").write_bytes(head_file.read_bytes()[:5000])
    (tmp_path / "head.nii.gz").write_bytes(head_file.read_bytes())
    monkeypatch.chdir(tmp_path)
    Path("list.tsv").write_text(f"sub-1\the*.nii.gz\tLAS\n{line}")
    Path("out/sub-2").mkdir(parents=True)
    if "head" in line:
        Path("out/sub-2/anat").write_text("in the way")
    command = "segment", "--list", "list.tsv", "--output", "out", "--tables", "tables"
    assert quicknat(*command, "--model", model).status == 1
    assert quicknat(*command, "--model", model, "--allow-bad").status == allowed
    table = pd.read_csv("tables/scans.tsv", sep="\t").set_index("name")
    assert list(table["status"]) == ["skipped", "failed"] and not Path("out/scans.tsv").exists()
    made = json.loads(Path("out/sub-1/anat/sub-1_desc-quicknat_dseg.json").read_text())
    assert made["how"]["orientation"] == "LAS"


def test_results_of_other_hardware_are_done_unless_a_precision_is_asked_for(
    model, head_file, tmp_path
):
    command = "segment", head_file, "--output", tmp_path, "--model", model
    assert quicknat(*command).status == 0
    (record,) = tmp_path.glob("sub-*/anat/*_desc-quicknat_dseg.json")
    made = json.loads(record.read_text())
    made["how"] |= {"precision": "torch.float64"}
    del made["how"]["convolutions"]  # as earlier versions
    record.write_text(json.dumps(made))
    for options, precision in (([], "torch.float64"), (["--precision", "fp32"], "torch.float32")):
        assert quicknat(*command, *options).status == 0
        assert json.loads(record.read_text())["how"]["precision"] == precision
    made = json.loads(record.read_text())
    now = made["how"].pop("format")  # as earlier versions, whose uncertainty was another
    record.write_text(json.dumps(made))
    assert quicknat(*command).status == 0
    assert json.loads(record.read_text())["how"]["format"] == now
    quality = record.with_name(record.name.replace("_dseg", "_qc"))
    quality.write_text("")  # as a power cut may leave it: `scans.tsv` needs it
    assert quicknat(*command).status == 0 and json.loads(quality.read_text())["flags"] is not None


def test_raw_scan_gets_the_labels_of_its_conformed_copy_and_either_is_the_others(
    model, head_file, tmp_path
):
    bundle = load_bundle(model)
    copy = tmp_path / "c.nii.gz"
    write_conformed(head_file, copy, bundle.spacing_mm, bundle.conform_size)
    raw, conformed = Task(head_file, "sub-1"), Task(copy, "sub-1")
    segment_file(bundle, raw, tmp_path / "raw")
    segment_file(bundle, conformed, tmp_path / "conformed", Options(conformed=True))
    name = "sub-1/anat/sub-1_desc-quicknat_dseg.nii.gz"
    assert sha256(tmp_path / "raw" / name) == sha256(tmp_path / "conformed" / name)
    (outcome,) = segment_all(bundle, [raw], tmp_path / "conformed")
    assert outcome.status == "skipped"


@pytest.mark.parametrize(
    ("lines", "message"),
    [("sub-1\ta.nii\n", "write name, file and orientation"),
     ("anat\ta.nii\t\nanat\tb.nii\t\n", "has the name anat twice")],
)  # fmt: skip
def test_list_of_scans_has_three_columns(tmp_path, lines, message):
    (tmp_path / "list.tsv").write_text(lines)
    with pytest.raises(InputError, match=message):
        read_tasks(tmp_path / "list.tsv")


def test_table_of_scans_keeps_those_of_other_calls(tmp_path):
    def row(name, status="failed", reason=""):
        return Outcome(name, "a.nii", status, reason, 1.5)

    write_outcomes([row("sub-1", reason="old"), row("sub-2")], {}, tmp_path)
    write_outcomes([row("sub-1", reason="new")], {}, tmp_path, keep_others=True)
    table = pd.read_csv(tmp_path / "scans.tsv", sep="\t")
    assert list(table["name"]) == ["sub-1", "sub-2"] and table["reason"][0] == "new"
    write_outcomes([row("sub-3")], {}, tmp_path)
    assert list(pd.read_csv(tmp_path / "scans.tsv", sep="\t")["name"]) == ["sub-3"]


@pytest.mark.slow
def test_scan_done_before_is_skipped_until_it_or_the_model_changes(
    model, head, head_file, tmp_path
):
    def status(bundle, **options):
        (outcome,) = segment_all(bundle, find_scans([head_file]), tmp_path / "out", **options)
        return outcome.status

    bundle = load_bundle(model)
    assert [status(bundle), status(bundle)] == ["done", "skipped"]
    assert status(bundle, overwrite=True) == "done"
    assert status(replace(bundle, identity="another")) == "done"
    assert status(bundle, options=Options(orientation="LAS")) == "done"
    assert status(bundle, options=Options(orientation="LAS")) == "skipped"
    assert status(load_bundle(model, bfloat16=True)) == "done"
    assert status(bundle) == "done"
    assert status(bundle, options=Options(views=True)) == "done"
    assert status(bundle) == "skipped"  # nothing of what is asked for is missing
    coronal = tmp_path / "out/sub-head/anat/sub-head_desc-coronal_dseg.nii.gz"
    assert coronal.exists()
    assert status(replace(bundle, identity="another")) == "done" and not coronal.exists()
    assert status(bundle) == "done"
    nib.save(nib.Nifti1Image(head.data.astype(np.int16)[:, :, ::-1], head.affine), head_file)
    assert status(bundle) == "done"
    (tmp_path / "out/sub-head/anat/sub-head_desc-quicknat_dseg.nii.gz").unlink()
    assert status(bundle) == "done"


@pytest.mark.case(65)
def test_folders_and_bids_data_sets_give_their_scans(tmp_path):
    names = ["sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii"]
    others = ["sub-02/anat/sub-02_T2w.nii.gz", "derivatives/sub-03/anat/sub-03_T1w.nii.gz",
              "sub-02/anat/._sub-02_T1w.nii", "sub-02/anat/sub-02_T1w.nii.md5"]  # fmt: skip
    tree(tmp_path / "bids", "dataset_description.json", *names, *others)
    no_scans = ("notes.txt", "._b.nii", "b_seg.nii", "a.nii.md5", "b_T2w.nii")
    tree(tmp_path / "plain", "a.MGZ", "b.nii", "c.img", "c.hdr", *no_scans)
    found = [task.name for task in find_scans([tmp_path / "bids", tmp_path / "plain"])]
    assert found == ["sub-01_ses-1", "sub-02", "sub-a", "sub-b", "sub-c"]
    with pytest.raises(InputError, match=r"would get the same name as .*b\.nii, sub-b"):
        find_scans([tmp_path / "plain", tmp_path / "plain/b.nii"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is not a scan"):
        find_scans([tmp_path / "plain/._b.nii"])
    for folder in ("empty", "bids/sub-01"):  # the second holds some, but further down
        with pytest.raises(InputError, match="holds no T1w scan itself; .* --participant-label"):
            find_scans([tmp_path / folder])


def test_subjects_dir_gives_each_subjects_scan_by_its_folders_name(tmp_path):
    anna, cleo = surfer("anna"), surfer("cleo", "rawavg.mgz")
    bert = surfer("bert", "T1.mgz", "rawavg.mgz")
    others = [*surfer("fsaverage"), *surfer("a.long.base"), *surfer("base"), "base/base-tps"]
    tree(tmp_path, *anna, *bert, *cleo, *others, "anna/surf/lh.white", "anna/mri/transforms/x.mgz")
    found = {task.name: str(task.path.relative_to(tmp_path)) for task in find_scans([tmp_path])}
    assert found == {
        "sub-anna": "anna/mri/orig.mgz",
        "sub-bert": "bert/mri/T1.mgz",
        "sub-cleo": "cleo/mri/rawavg.mgz",
    }
    only = Selection(participants=["bert"])
    assert [task.name for task in find_scans([tmp_path], selection=only)] == ["sub-bert"]
    (tmp_path / "p1.nii.gz").touch()
    assert len(find_scans([tmp_path])) == 4
    tree(tmp_path, "sub-7/anat/sub-7_T1w.nii.gz")  # subjects inside a BIDS data set are results
    assert [task.name for task in find_scans([tmp_path])] == ["sub-7"]


@pytest.mark.slow
def test_sampling_measures_disagreement_and_repeats_itself(model, head_file, tmp_path):
    bundle = load_bundle(model)

    def table(name, samples):
        options = Options(samples=samples, batch_size=16)
        segment_file(bundle, Task(head_file, name), tmp_path, options)
        table = tmp_path / name / f"anat/{name}_desc-quicknat_volumes.tsv"
        return pd.read_csv(table, sep="\t")

    with pytest.raises(InputError, match="trained without dropout"):
        table("sub-1", 2)
    for network in bundle.networks.values():
        network.dropout.p = 0.5
        network.settings = replace(network.settings, dropout=0.5)
    once, again, plain = table("sub-1", 3), table("sub-2", 3), table("sub-3", 0)
    pd.testing.assert_frame_equal(once, again)
    assert once["iou"].max() < 1 and once["cv"].max() > 0
    assert not once["uncertainty"].equals(plain["uncertainty"])  # of the samples' mean
    assert "iou" not in plain and plain["view_agreement"].between(0, 1).any()
    assert not any(network.dropout.training for network in bundle.networks.values())
