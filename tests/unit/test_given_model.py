"""A finished model decides about a run, or is refused before anything is computed."""

import json
import shutil

import pytest

from quicknat.errors import InputError
from quicknat.images.labels import Protocol
from quicknat.model.given_model import BUNDLE_FILES, given_settings, require_usable

TABLE = "quicknat28"


@pytest.fixture
def own(model, tmp_path):
    """A copy of the model, to change."""
    return shutil.copytree(model, tmp_path / "given")


def test_model_brings_its_grid_its_protocol_and_how_it_segments(model):
    assert given_settings(model, "quicknat28") == {
        "protocol": "quicknat28",
        "conform": {"spacing_mm": 4.0, "size": 64},
        "slices": {"size": 48},
        "aggregation": {
            "coronal": 0.4, "axial": 0.4, "sagittal": 0.2, "flip": False, "shift": False,
            "prior_correction": 0.0,
        },
    }  # fmt: skip
    require_usable(model, TABLE, "results/model")


def test_files_of_a_model_are_those_that_bundling_writes(model):
    assert sorted(BUNDLE_FILES) == sorted(path.name for path in model.iterdir())


@pytest.mark.parametrize("name", BUNDLE_FILES)
def test_model_that_lacks_a_file_is_refused(own, name):
    (own / name).unlink()
    with pytest.raises(InputError, match=f"{name}.*; (copy|name)"):
        require_usable(own, TABLE, "results/model")


def test_model_with_a_changed_file_is_refused(own):
    (own / "axial.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"axial\.safetensors: has changed since the model was"):
        require_usable(own, TABLE, "results/model")


def test_model_for_another_label_table_is_refused(own, tmp_path, protocol):
    described = json.loads((own / "bundle.json").read_text())
    (own / "bundle.json").write_text(json.dumps(described | {"protocol": "mine"}))
    mine = tmp_path / "mine.tsv"
    assert given_settings(own, "quicknat28")["protocol"] == "mine"
    with pytest.raises(InputError, match=r"'mine', which is no bundled one; copy its labels\.tsv"):
        require_usable(own, "mine", "results/model")
    assert given_settings(own, str(mine))["protocol"] == str(mine)
    shutil.copy(own / "labels.tsv", mine)
    require_usable(own, mine, "results/model")
    table = protocol.table.copy()
    table["name"] = table["name"].replace({"Brain stem": "Brainstem"})
    Protocol("mine", table).write(mine)
    with pytest.raises(InputError, match="has other structures than"):
        require_usable(own, mine, "results/model")


def test_folder_that_the_run_writes_to_is_refused(own, tmp_path):
    (tmp_path / "link").symlink_to(own)
    with pytest.raises(InputError, match="'model' is .*; copy it to another folder first"):
        require_usable(tmp_path / "link", TABLE, own)
