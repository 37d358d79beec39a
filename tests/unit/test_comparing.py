"""What the workflow compares between runs: contents and settings that matter, no more."""

import json

import pytest

from helpers import LABELS
from quicknat.cohort.paths import Places
from quicknat.errors import InputError
from quicknat.images.slices import VIEWS
from quicknat.reruns import (
    LOOKS,
    file_digest,
    stable_path,
    stage_settings,
    table_digest,
    weight_determining,
)
from quicknat.training.trained import (
    MODEL_FILES,
    require_fit,
    trained_stages,
    untrained_scans,
)

CONFIG = {
    "protocol": "quicknat28",
    "conform": {"spacing_mm": 2.0, "size": 128},
    "slices": {"size": 96},
    "network": {"filters": 16},
    "training": {"batch_size": 4, "workers": 2, "new_scans": "freeze", "warm_start_epochs": 2},
    "finetune": {"epochs": 3},
}


def test_path_reads_the_same_from_wherever_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    assert stable_path("sheets/../data/a.nii") == stable_path(tmp_path / "project/data/a.nii")
    assert stable_path("data/a.nii") == "data/a.nii"
    assert stable_path("../raw/a.nii") == stable_path(tmp_path / "raw/a.nii")
    assert stable_path("../raw/a.nii") == str(tmp_path / "raw/a.nii")


def test_settings_that_decide_no_weight_are_not_compared():
    settings = stage_settings(CONFIG, "finetune")
    assert settings == {"batch_size": 4, "workers": 2, "epochs": 3, "network": {"filters": 16}}
    assert json.loads(weight_determining(settings)).keys() == {"batch_size", "epochs", "network"}


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


def test_digest_of_a_file_that_is_not_there_is_empty(tmp_path):
    assert file_digest(tmp_path / "none.md") == ""
    (tmp_path / "some.md").write_text("text")
    assert len(file_digest(tmp_path / "some.md")) == 64


def make_models(folder, stage, scans):
    for view in VIEWS:
        (folder / stage / view).mkdir(parents=True)
        for name in MODEL_FILES:
            (folder / stage / view / name).touch()
        described = json.dumps({"training_scans": scans})
        (folder / stage / view / "model.json").write_text(described)


def test_stage_counts_as_trained_when_all_files_of_its_three_views_are_there(tmp_path):
    assert trained_stages(tmp_path) == []
    make_models(tmp_path, "finetune", [])
    assert trained_stages(tmp_path) == ["finetune"]
    make_models(tmp_path, "pretrain", [])
    assert trained_stages(tmp_path) == ["pretrain", "finetune"]
    (tmp_path / "finetune/axial/history.tsv").unlink()
    assert trained_stages(tmp_path) == ["pretrain"]


def test_scan_waits_unless_all_views_were_trained_on_it(tmp_path):
    make_models(tmp_path, "finetune", ["sub-1", "sub-2"])
    path = tmp_path / "finetune/sagittal/model.json"
    path.write_text(json.dumps({"training_scans": ["sub-1"]}))
    names = ["sub-1", "sub-2", "sub-3"]
    assert untrained_scans(tmp_path / "finetune", names) == ["sub-2", "sub-3"]
    path.write_text("{")
    with pytest.raises(InputError, match="sagittal/model.json: describes no model"):
        untrained_scans(tmp_path / "finetune", names)


@pytest.mark.parametrize(
    ("section", "key"), [("conform", "spacing_mm"), ("conform", "size"), ("slices", "size")]
)
def test_frozen_models_are_kept_for_their_own_grid_only(tmp_path, section, key):
    bundle = tmp_path / "bundle.json"
    require_fit(bundle, CONFIG)  # there is none, so nothing can differ
    described = {name: dict(CONFIG[name]) for name in ("conform", "slices")}
    bundle.write_text(json.dumps(described | {"protocol": "quicknat28"}))
    require_fit(bundle, CONFIG)
    described[section][key] += 16
    bundle.write_text(json.dumps(described | {"protocol": "quicknat28"}))
    with pytest.raises(InputError, match=f"'{section}.{key}' is .* new_scans=freeze keeps have"):
        require_fit(bundle, CONFIG)


def test_job_depends_on_what_can_change_under_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.nii", "pair.img", "pair.hdr"):
        (tmp_path / name).touch()
    sources = {"zip": {"kind": "https"}, "made": {"kind": "demo"}}
    places = Places(str(tmp_path / "sheet.tsv"), sources, "raw")
    assert places.inputs("local", "a.nii") == ["a.nii"]
    assert places.inputs("local", "pair.img") == ["pair.img", "pair.hdr"]
    (tmp_path / "PAIR_2.img").touch()
    (tmp_path / "PAIR_2.HDR").touch()
    assert places.inputs("local", "A.NII") == ["a.nii"]  # as the job finds it
    assert places.inputs("local", "pair_?.img") == ["PAIR_2.img", "PAIR_2.HDR"]
    assert places.inputs("local", "gone.nii") == []  # its job says so, and others go on
    assert places.inputs("zip", "*/a.nii") == ["raw/zip.members.txt"]
    assert places.inputs("made", "b.img") == ["raw/made.members.txt"]
