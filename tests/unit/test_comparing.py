"""What the workflow compares between runs: contents and settings that matter, no more."""

import json

from helpers import LABELS
from quicknat.cohort.paths import CohortPaths
from quicknat.cohort.sheet import Source
from quicknat.config import Aggregation, TrainingSettings
from quicknat.reruns import ADDED, LOOKS, compared_settings, stable_path, table_digest

# what finished runs and saved states recorded of these settings: not to be changed. A new setting
# belongs into ADDED instead
TRAINING = {
    "batch_size": 4, "precision": "auto", "patience": None, "augment": True, "flip": False,
    "slice_stride": 1, "dice_reduction": "batch", "class_weight_power": 1.0,
    "class_weight_cap": None, "seed": 0, "epochs": 3, "learning_rate": 0.1, "optimizer": "sgd",
    "momentum": 0.95, "weight_decay": 1e-4, "lr_step_epochs": 10, "warmup": 0.1,
    "network": {"filters": 64, "squeeze_excitation": "scse", "dropout": 0.2, "slices": 1},
}  # fmt: skip
AGGREGATION = {
    "axial": 0.4, "coronal": 0.4, "sagittal": 0.2, "flip": False, "shift": False,
    "prior_correction": 0.0,
}  # fmt: skip


def test_path_reads_the_same_from_wherever_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    for path in ("sheets/../data/a.nii", tmp_path / "project/data/a.nii", "data/a.nii"):
        assert stable_path(path) == "data/a.nii"
    for path in ("../raw/a.nii", tmp_path / "raw/a.nii"):
        assert stable_path(path) == str(tmp_path / "raw/a.nii")


def test_settings_are_compared_as_finished_runs_recorded_them():
    settings = TrainingSettings(epochs=3, learning_rate=0.1).model_dump()
    assert compared_settings(settings) == TRAINING
    assert compared_settings(settings | {"max_minutes": 5.0}) == TRAINING | {"max_minutes": 5.0}
    # in this order, too
    assert json.dumps(compared_settings(Aggregation().model_dump())) == json.dumps(AGGREGATION)


def test_settings_of_a_later_version_are_compared_once_they_change_something(monkeypatch):
    for name, neutral in (("smoothing", 0.0), ("groups", 1)):
        monkeypatch.setitem(ADDED, name, neutral)

    def later(smoothing, groups):
        network = TRAINING["network"] | {"groups": groups}
        return TRAINING | {"smoothing": smoothing, "network": network}

    assert compared_settings(later(0.0, 1)) == TRAINING
    assert compared_settings(later(0.1, 2)) == later(0.1, 2)


def test_table_is_compared_by_its_cells_but_for_columns_left_out(tmp_path):
    original = LABELS / "quicknat28.tsv"
    text = original.read_text()

    def digests(old, new):
        path = tmp_path / original.name
        path.write_text(text.replace(old, new, 1))
        return table_digest(path), table_digest(path, without=LOOKS)

    whole, numbers = table_digest(original), table_digest(original, without=LOOKS)
    assert digests("", "") == (whole, numbers)
    assert digests("#EBEBE1", "#EBEBE2")[0] != whole and digests("#EBEBE1", "#EBEBE2")[1] == numbers
    assert digests("2,3000", "3000")[1] != numbers
    other = tmp_path / "other.tsv"
    other.write_text(text)
    assert table_digest(other) != whole  # a model records the name too


def test_job_depends_on_what_can_change_under_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.nii", "pair.img", "pair.hdr", "PAIR_2.img", "PAIR_2.HDR"):
        (tmp_path / name).touch()
    kinds = {"zip": "https", "made": "demo"}
    sources = {name: Source(source=name, kind=kind, url="") for name, kind in kinds.items()}
    inputs = CohortPaths(str(tmp_path / "sheet.tsv"), sources, "raw").inputs
    assert inputs("local", "pair.img") == ["pair.img", "pair.hdr"]
    assert inputs("local", "A.NII") == ["a.nii"]  # as the job finds it
    assert inputs("local", "pair_?.img") == ["PAIR_2.img", "PAIR_2.HDR"]
    assert inputs("local", "gone.nii") == []  # its job says so, and others go on
    assert inputs("zip", "*/a.nii") == ["raw/zip.members.txt"]
    assert inputs("made", "b.img") == ["raw/made.members.txt"]
