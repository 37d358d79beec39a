"""What runs again after each kind of change to a finished run, and how many jobs: the table of
docs/howto/add-subjects.md.

Two scans to train on, one each to pre-train on, validate, test and segment. Every case works on a
copy of the finished folder, so all of them prove as well that a folder can move.
"""

import json
import os
import shutil

import pandas as pd
import pytest
from project import row

from helpers import copy_workflow, job_counts
from quicknat.files import sha256
from quicknat.package_data import label_table

pytestmark = pytest.mark.slow

# jobs, from the end of the workflow to its beginning
REPORT = {"report": 1}
SEGMENT_S = {"segment": 1, "pictures": 1, "volumes": 1, **REPORT}
SCORE = {"evaluate": 1, "metrics": 1}
SEGMENT_ALL = {**SEGMENT_S, **SCORE, "segment": 2, "pictures": 2}
BUNDLE = {"bundle": 1, **SEGMENT_ALL}
FINETUNE = {"finetune": 3, **BUNDLE}
PRETRAIN = {"pretrain": 3, **FINETUNE}
NEW_TO_SEGMENT = {"convert": 1, **SEGMENT_S}
NEW_TO_TRAIN = {"convert": 1, "convert_labels": 1, "slice": 1, **FINETUNE}
RELABEL = {"convert_labels": 4, "auto_label": 1, "slice": 4, **PRETRAIN}
ALL = {"convert": 6, **RELABEL}
HEAD = "img2fmri/derivatives/T1/sub-CSI3_ses-16_anat_sub-CSI3_ses-16_T1w.nii.gz"


def test_finished_run_made_everything_once(finished):
    folders = finished.results.glob("benchmarks/*")
    jobs = {rule.name: len(list(rule.iterdir())) for rule in folders}
    assert jobs == {"download": 2, "unpack": 2, "demo": 2, **ALL}


def add(*args, **columns):
    return lambda project: project.rows.append(row(*args, **columns))


def remove(name):
    def change(project):
        project.rows = [line for line in project.rows if not line.startswith(f"{name}\t")]

    return change


def setting(section, **values):
    return lambda project: project.set(section, **values)


def delete(path):
    def change(project):
        found = project.folder / path
        shutil.rmtree(found) if found.is_dir() else found.unlink()

    return change


def reorder(project):
    project.rows = ["# a comment", *reversed(project.rows), f"# {row('t3')}"]


def touch(project):
    for path in (project.folder / "data").iterdir():
        os.utime(path)


def replace(name, age=None):
    def change(project):
        data = project.folder / "data"
        (data / f"{name}.nii").write_bytes((data / "s2.nii").read_bytes())
        if age is not None:
            os.utime(data / f"{name}.nii", (age, age))

    return change


def relabel(name):
    """Give a scan a label map of its own, as if it were corrected."""

    def change(project):
        data = project.folder / "data"
        shutil.copy(data / "labels.nii.gz", data / "corrected.nii.gz")
        project.rows = [
            line.replace("labels.nii.gz", "corrected.nii.gz")
            if line.startswith(f"{name}\t")
            else line
            for line in project.rows
        ]

    return change


def own_protocol(old="", new=""):
    """Take a copy of the table of labels, with the first cell of that kind changed."""

    def change(project):
        text = label_table("quicknat28").read_text()
        assert old in text
        table = project.folder / "quicknat28.tsv"
        table.write_text(text.replace(old, new, 1))
        project.settings["protocol"] = str(table)

    return change


def move_sheet(name):
    def change(project):
        project.sheet = project.folder / "sheets" / name
        project.rows = [text.replace("\tdata/", "\t../data/") for text in project.rows]

    return change


def decide_no_weight(project):
    project.set("training", compile=True, checkpoint_minutes=3, new_scans="warm_start")


def old_names(project):
    """Return to the names of earlier versions."""
    project.header = project.header.replace("label_convention", "protocol")
    project.header = project.header.replace("split", "use").replace("participant", "person")
    project.set("training", dice_over="batch", mirror=False, accumulate=1)
    project.set("network", squeeze_excitation="CSSE")
    project.settings["keep_slices"] = False


def all_that_reruns_nothing(project):
    """Rows, sheet, workflow and files as they were, but elsewhere, in other words, or touched."""
    for change in (reorder, touch, old_names, decide_no_weight, move_sheet("cohort.tsv")):
        change(project)
    project.root = copy_workflow(project.folder / "workflow_copy")


QUICK = {  # with those of `make test`, one of each kind
    "nothing that matters": (all_that_reruns_nothing, {}),
    "new test scan": (add("e2"), {"convert": 1, "convert_labels": 1, **SEGMENT_S, **SCORE}),
    "new training scan": (add("t3"), NEW_TO_TRAIN),
    "new scan of a known archive": (add("s9", image=HEAD, source="img2fmri"), NEW_TO_SEGMENT),
    "setting of fine-tuning": (setting("finetune", epochs=2), FINETUNE),
    "replaced file": (replace("s1"), NEW_TO_SEGMENT),
    "deleted network": (delete("results/models/finetune/axial"), {**FINETUNE, "finetune": 1}),
}
LONG = {
    "new scan to segment": (add("s2"), NEW_TO_SEGMENT),
    "new validation scan": (add("v2"), {**NEW_TO_TRAIN, "pretrain": 3}),
    "new scan to pre-train on": (add("p2"), {**NEW_TO_TRAIN, "pretrain": 3}),
    "the same without labels": (
        add("p2", labels=False),
        {"convert": 1, "auto_label": 1, "slice": 1, **PRETRAIN},
    ),
    "removed scan to segment": (remove("s1"), {"volumes": 1, **REPORT}),
    "removed test scan": (remove("ds240"), {"volumes": 1, **REPORT}),
    "removed training scan": (remove("t2"), FINETUNE),
    "replaced training scan": (replace("t2"), NEW_TO_TRAIN),
    "corrected labels": (relabel("t2"), {"convert_labels": 1, "slice": 1, **FINETUNE}),
    # what Snakemake compares begins with times; docs/howto/add-subjects.md says so
    "file older than the results": (replace("s1", age=0), {}),
    "the same, forced": (replace("s1", age=0), ALL, "-R", "convert"),
    "forced slices": (lambda project: None, {"slice": 4, **PRETRAIN}, "-R", "slice"),
    "forced scores": (lambda project: None, {**SCORE, **REPORT}, "-R", "evaluate"),
    "setting of both stages": (setting("training", batch_size=4), PRETRAIN),
    "source of pre-training": (
        setting("pretrain", source="both"),
        {"slice_tissues": 2, **PRETRAIN},
    ),
    "weights of the views": (setting("aggregation", axial=0.5, coronal=0.3), BUNDLE),
    "size of the slices": (setting("slices", size=64), {"slice": 4, **PRETRAIN}),
    "size of the voxels": (setting("conform", spacing_mm=3.9), ALL),
    "colour of a label": (own_protocol("#EBEBE1", "#EBEBE2"), BUNDLE),
    "numbers of a label": (own_protocol("2,3000-3035", "2,9999,3000-3035"), RELABEL),
    "moved label table": (own_protocol(), {}),
    "renamed sheet": (move_sheet("people.tsv"), REPORT),  # the title of the report
    "no conformed scan": (delete("results/scans/sub-t2"), {}),
    "no slices": (delete("results/slices"), {}),
    "no pre-trained networks": (delete("results/models/pretrain"), {}),
    "no model": (delete("results/model"), BUNDLE),
    "no segmentation": (delete("results/segmentations/sub-s1"), SEGMENT_S),
    "no report": (delete("results/report"), {"pictures": 2, **REPORT}),
    "no records of Snakemake": (delete(".snakemake"), {}),
}
CHANGES = QUICK | LONG


@pytest.mark.case(59)
@pytest.mark.parametrize(
    "what", [*QUICK, *(pytest.param(name, marks=pytest.mark.long) for name in LONG)]
)
def test_jobs_after_a_change(project, what):
    change, jobs, *arguments = CHANGES[what]
    change(project)
    assert project.jobs(*arguments) == jobs


@pytest.mark.case(58)
def test_added_scans(project):
    """A good one runs its own jobs and no other; bad ones are left out, and the report says so."""
    data, untouched = project.folder / "data", project.dseg("sub-ds240").stat()
    (data / "b1.nii").write_bytes((data / "s2.nii").read_bytes()[:100_000])
    project.rows += map(row, ("s2", "b1", "b2"))
    said = project.run(fails=True)
    assert "sub-b1: " in said and "sub-b2: " in said and "b2.nii: no such file" in said
    project.settings["on_bad_scan"] = "skip"
    assert job_counts(project.run()) == NEW_TO_SEGMENT
    assert project.dseg("sub-s2").is_file()
    assert project.dseg("sub-ds240").stat() == untouched
    assert not (project.results / "scans/sub-b1").exists()
    page = (project.results / "report/index.html").read_text()
    assert "sub-b1" in page and "sub-b2" in page and "were left out" in page
    assert project.jobs() == {}


@pytest.mark.long
def test_warm_start(project):
    """A new training scan resumes training from the present model."""
    results = project.results
    before = {path.stem: sha256(path) for path in results.glob("model/*.safetensors")}
    project.set("training", new_scans="warm_start", warm_start_epochs=2)
    assert project.jobs() == {}
    project.rows += [row("t3")]
    assert project.jobs() == NEW_TO_TRAIN
    text = project.run()
    for view, checksum in before.items():
        model = json.loads((results / f"models/finetune/{view}/model.json").read_text())
        assert model["warm_start"] == {"sha256": checksum, "stage_epochs": 1}
        history = pd.read_csv(results / f"models/finetune/{view}/history.tsv", sep="\t")
        assert history["epoch"].tolist() == [1, 2]
        assert f"{view}: warm start from results/model/{view}.safetensors, for 2 epoch(s)" in text
        assert f"2 from {checksum[:12]}" in (results / "report/index.html").read_text()
    assert project.jobs() == {}
