"""What the workflow compares between runs: contents and settings that matter, no more."""

import json

from helpers import LABELS
from quicknat.cohort.paths import CohortPaths
from quicknat.cohort.sheet import Source
from quicknat.config import TrainingSettings
from quicknat.reruns import LOOKS, stable_path, table_digest, weight_determining


def test_path_reads_the_same_from_wherever_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    for path in ("sheets/../data/a.nii", tmp_path / "project/data/a.nii", "data/a.nii"):
        assert stable_path(path) == "data/a.nii"
    for path in ("../raw/a.nii", tmp_path / "raw/a.nii"):
        assert stable_path(path) == str(tmp_path / "raw/a.nii")


def test_settings_that_determine_no_weight_are_not_compared():
    settings = TrainingSettings(epochs=3, learning_rate=0.1).model_dump()
    compared = json.loads(weight_determining(settings)).keys()
    assert settings.keys() - compared == {"compile", "checkpoint_minutes", "max_minutes"}
    assert "max_minutes" in json.loads(weight_determining(settings | {"max_minutes": 5.0}))


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
