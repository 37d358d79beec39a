"""What runs again after each kind of change to a finished run, and how many jobs: the table of
docs/howto/add-subjects.md.

Two scans to train on, one each to pre-train on, validate, test and segment. Every case works on a
copy of the finished folder, so all of them prove as well that a folder can move.
"""

import copy
import json
import os
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from helpers import ROOT, job_counts, run_snakemake
from quicknat.files import sha256
from quicknat.package_data import label_table

pytestmark = pytest.mark.slow
USES = {"t": "train", "v": "val", "p": "pretrain", "e": "test", "s": "segment"}
SCANS = ("t1", "t2", "v1", "p1", "e1", "s1")
NEW = ("t3", "t4", "v2", "p2", "e2", "s2")
SETTINGS = {
    "conform": {"spacing_mm": 4.0, "size": 64},
    "slices": {"size": 48},
    "auto_labels": {"atlases": ["sub-t1"]},
    "network": {"filters": 4},
    "training": {"precision": "32-true", "compile": False, "batch_size": 8, "augment": False},
    "pretrain": {"epochs": 1, "learning_rate": 0.001},
    "finetune": {"epochs": 1, "learning_rate": 0.001},
}

# jobs, from the end of the workflow to its beginning
REPORT = {"report": 1}
SEGMENT_S = {"segment": 1, "pictures": 1, "volumes": 1, **REPORT}
SCORE = {"evaluate": 1, "metrics": 1, "score_figures": 1}
SEGMENT_ALL = {**SEGMENT_S, **SCORE, "segment": 2, "pictures": 2}
BUNDLE = {"bundle": 1, **SEGMENT_ALL}
FINETUNE = {"finetune": 3, "curves": 1, **BUNDLE}
PRETRAIN = {"pretrain": 3, **FINETUNE}
NEW_TO_TRAIN = {"convert": 1, "convert_labels": 1, "slice": 1, **FINETUNE}
ALL = {"convert": 6, "convert_labels": 5, "slice": 4, **PRETRAIN}


def row(name, labels=True):
    """A line of the sheet; the first letter says the use."""
    given = ["data/labels.nii.gz", "freesurfer"] if labels and name[0] != "s" else ["", ""]
    return "\t".join([name, f"data/{name}.nii", *given, USES[name[0]]])


class Project:
    """A folder with results, and what its user may change about it."""

    def __init__(self, folder):
        self.folder, self.root, self.sheet = folder, ROOT, folder / "cohort.tsv"
        self.rows, self.settings = [row(name) for name in SCANS], copy.deepcopy(SETTINGS)
        self.header = "subject\timage\tlabels\tlabel_convention\tsplit"

    def set(self, section, **values):
        self.settings.setdefault(section, {}).update(values)

    def run(self, *arguments):
        self.sheet.parent.mkdir(exist_ok=True)
        lines = [self.header, *self.rows]
        self.sheet.write_text("\n".join(lines) + "\n")
        overlay = {"sheet": str(self.sheet), **self.settings}
        done = run_snakemake(self.folder, *arguments, overlay=overlay, root=self.root)
        assert done.returncode == 0, done.text[-5000:]
        return done.text

    def jobs(self, *arguments):
        """Jobs per rule that a run would start."""
        return job_counts(self.run("--dry-run", *arguments))

    def copy_workflow(self):
        """Go on with a copy of the workflow, which lies elsewhere."""
        self.root = self.folder / "workflow_copy"
        for name in ("workflow", "profiles", "envs"):
            shutil.copytree(ROOT / name, self.root / name)
        for name in ("Snakefile", "config.yaml"):
            shutil.copy(ROOT / name, self.root)

    def own_protocol(self, old="", new=""):
        """Take a copy of the table of labels, with the first cell of that kind changed."""
        table = self.folder / "quicknat28.tsv"
        text = label_table("quicknat28").read_text()
        assert old in text
        table.write_text(text.replace(old, new, 1))
        self.settings["protocol"] = str(table)

    def delete(self, path):
        path = self.folder / "results" / path
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="session")
def finished(tmp_path_factory, head, demo_dseg):
    """A folder in which a run has finished, with more scans in `data` than it used."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "data").mkdir()
    labels = nib.Nifti1Image(demo_dseg.data.astype(np.uint8), demo_dseg.affine)
    nib.save(labels, folder / "data/labels.nii.gz")
    for seed, name in enumerate((*SCANS, *NEW)):
        noise = np.random.default_rng(seed).normal(0, 3, head.shape)
        scan = nib.Nifti1Image((head.data + noise).astype(np.float32), head.affine)
        nib.save(scan, folder / f"data/{name}.nii")  # over 1 MB, as real ones are
    Project(folder).run()
    return folder


@pytest.fixture
def project(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")


def test_finished_run_made_everything_once(finished):
    jobs = {rule.name: len(list(rule.iterdir())) for rule in finished.glob("results/benchmarks/*")}
    assert jobs == ALL


ADDED = {
    "nothing": ((), {}),
    "a scan to segment": (["s2"], {"convert": 1, **SEGMENT_S}),
    "a test scan": (["e2"], {"convert": 1, "convert_labels": 1, **SEGMENT_S, **SCORE}),
    "a scan to train on": (["t3"], NEW_TO_TRAIN),
    "a validation scan": (["v2"], {**NEW_TO_TRAIN, "pretrain": 3}),
    "a scan to pre-train on, with labels": (["p2"], {**NEW_TO_TRAIN, "pretrain": 3}),
}


@pytest.mark.parametrize("what", ADDED)
def test_added_scan_runs_its_own_jobs_and_what_follows(project, what):
    names, jobs = ADDED[what]
    project.rows += [row(name) for name in names]
    assert project.jobs() == jobs


def test_added_scan_to_pretrain_on_without_labels_gets_them(project):
    project.rows += [row("p2", labels=False)]
    assert project.jobs() == {"convert": 1, "auto_label": 1, "slice": 1, **PRETRAIN}


def test_another_choice_for_new_scans_reruns_nothing_by_itself(project):
    project.set("training", new_scans="warm_start", warm_start_epochs=7)
    assert project.jobs() == {}


def test_old_names_of_settings_rerun_nothing_and_are_noticed(project):
    project.set("pretrain", step_epochs=10)
    project.set("training", dice_over="batch", mirror=False, accumulate=1)
    project.set("network", squeeze_excitation="CSSE")
    project.settings["keep_slices"] = False
    text = project.run("--dry-run")
    assert job_counts(text) == {}
    assert "'training.dice_over' is now 'training.dice_reduction'; please rename it" in text


def test_keeping_frozen_models_is_refused_with_what_to_do_instead(project):
    project.set("training", new_scans="freeze")
    with pytest.raises(
        AssertionError, match="freeze, which was removed; copy results/model to another folder"
    ):
        project.jobs()


REMOVED = {
    "s1": {"volumes": 1, **REPORT},
    "e1": {"volumes": 1, **REPORT},
    "t2": FINETUNE,
}


@pytest.mark.parametrize("name", REMOVED)
def test_removed_scan_reruns_what_used_it(project, name):
    project.rows.remove(row(name))
    assert project.jobs() == REMOVED[name]


def test_reordered_and_commented_rows_rerun_nothing(project):
    project.rows = ["# a comment", *reversed(project.rows), f"# {row('t3')}"]
    assert project.jobs() == {}


def test_renamed_columns_rerun_nothing(project):
    project.header = "subject\timage\tlabels\tprotocol\tuse"  # as sheets of earlier versions
    assert project.jobs() == {}


@pytest.mark.case(59)
def test_touched_raw_files_rerun_nothing(project):
    for path in (project.folder / "data").iterdir():
        os.utime(path)
    assert project.jobs() == {}


REPLACED = {"s1": {"convert": 1, **SEGMENT_S}, "t1": NEW_TO_TRAIN}


@pytest.mark.case(59)
@pytest.mark.parametrize("name", REPLACED)
def test_replaced_raw_file_reruns_its_scan_and_what_follows(project, name):
    data = project.folder / "data"
    (data / f"{name}.nii").write_bytes((data / "s2.nii").read_bytes())
    assert project.jobs() == REPLACED[name]


def test_raw_file_replaced_by_one_that_is_older_than_the_results_goes_unseen(project):
    """What Snakemake compares begins with times; docs/howto/add-subjects.md says so."""
    data = project.folder / "data"
    (data / "s1.nii").write_bytes((data / "s2.nii").read_bytes())
    os.utime(data / "s1.nii", (0, 0))
    assert project.jobs() == {}
    assert project.jobs("-R", "convert")["convert"] == 6


SETTING = {
    "of fine-tuning": ("finetune", {"epochs": 2}, FINETUNE),
    "of both stages": ("training", {"batch_size": 4}, PRETRAIN),
    "of what pre-training sees": ("pretrain", {"source": "both"}, {"slice_tissues": 1, **PRETRAIN}),
    "that decides no weight": ("training", {"workers": 1, "checkpoint_minutes": 3}, {}),
    "weights of the views": ("aggregation", {"axial": 0.5, "coronal": 0.3}, BUNDLE),
    "size of the slices": ("slices", {"size": 64}, {"slice": 4, **PRETRAIN}),
    "size of the voxels": ("conform", {"spacing_mm": 3.9}, ALL),
}


@pytest.mark.parametrize("what", SETTING)
def test_changed_setting_reruns_what_it_decides(project, what):
    section, values, jobs = SETTING[what]
    project.set(section, **values)
    assert project.jobs() == jobs


LABELS = {
    "a colour": ("#EBEBE1", "#EBEBE2", BUNDLE),
    "a number": ("2,3000-3035", "2,9999,3000-3035", {"convert_labels": 5, "slice": 4, **PRETRAIN}),
}


@pytest.mark.parametrize("what", LABELS)
def test_changed_label_protocol_trains_again_unless_only_its_looks_changed(project, what):
    old, new, jobs = LABELS[what]
    project.own_protocol(old, new)
    assert project.jobs() == jobs


def test_workflow_that_lies_elsewhere_reruns_nothing(project):
    project.copy_workflow()
    assert project.jobs() == {}


def test_label_table_that_lies_elsewhere_reruns_nothing(project):
    project.own_protocol()
    assert project.jobs() == {}


DELETED = {
    "a conformed scan": ("scans/sub-t1/anat/sub-t1_space-conformed_T1w.nii.gz", {}),
    "the slices": ("slices", {}),
    "the pre-trained networks": ("models/pretrain", {}),
    "a fine-tuned network": ("models/finetune/axial", {**FINETUNE, "finetune": 1}),
    "the model": ("model", BUNDLE),
    "a segmentation": ("segmentations/sub-s1", SEGMENT_S),
    "the report": ("report", {"curves": 1, "score_figures": 1, "pictures": 2, **REPORT}),
}


@pytest.mark.parametrize("what", DELETED)
def test_deleted_product_is_made_again_and_what_leads_to_one_is_when_needed(project, what):
    path, jobs = DELETED[what]
    project.delete(path)
    assert project.jobs() == jobs


def test_results_without_the_records_of_snakemake_rerun_nothing(project):
    shutil.rmtree(project.folder / ".snakemake")
    assert project.jobs() == {}


def test_moved_sheet_of_the_same_files_reruns_nothing_and_a_renamed_one_the_report(project):
    project.sheet = project.folder / "sheets/cohort.tsv"
    project.rows = [text.replace("data/", "../data/") for text in project.rows]
    assert project.jobs() == {}
    project.sheet = project.folder / "sheets/people.tsv"  # the title of the report
    assert project.jobs() == REPORT


def test_forced_rule_runs_with_all_that_follows(project):
    """As after a change of the library, which Snakemake does not see."""
    assert project.jobs("-R", "slice") == {"slice": 4, **PRETRAIN}
    assert project.jobs("-R", "evaluate") == {**SCORE, **REPORT}


def test_warm_start_continues_from_the_present_model(project):
    results = project.folder / "results"
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
        assert f"{view}: warm start from results/model/{view}.safetensors, 2 epoch(s)" in text
        assert f"from <code>{checksum[:12]}" in (results / "report/index.html").read_text()
    assert project.jobs() == {}
    rows = list(project.rows)
    for what in ("a scan to segment", "a test scan"):
        names, jobs = ADDED[what]
        project.rows = rows + [row(name) for name in names]
        assert project.jobs() == jobs
    project.rows = [*rows, row("t4")]
    assert project.jobs() == NEW_TO_TRAIN
