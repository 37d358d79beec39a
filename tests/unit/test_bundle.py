"""A model folder loads as it was made, decides about a run, or is refused."""

import json
import shutil

import pytest
import torch

from helpers import LABELS
from quicknat.errors import InputError
from quicknat.files import sha256
from quicknat.images.labels import Protocol
from quicknat.images.slices import VIEWS
from quicknat.model.bundle import BUNDLE_FILES, load_bundle, write_bundle
from quicknat.model.network import QuickNAT
from quicknat.run import given_settings, require_usable

TABLE = "quicknat28"


def test_networks_load_as_they_were_saved(model):
    bundle = load_bundle(model)
    assert set(bundle.networks) == set(VIEWS)
    assert isinstance(bundle.networks["axial"], QuickNAT) and not bundle.networks["axial"].training


@pytest.mark.parametrize("name", ["coronal.safetensors", "labels.tsv"])
def test_model_with_a_changed_byte_is_refused(model, tmp_path, name):
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    content = bytearray((copy / name).read_bytes())
    content[-3] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: has changed"):
        load_bundle(copy)


def changed(model, folder, **values):
    """A copy of a model whose description was edited."""
    shutil.copytree(model, folder)
    described = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps({**described, **values}))
    return folder


@pytest.mark.case(56)
def test_model_with_another_label_table_or_views_exchanged_is_refused(model, tmp_path, protocol):
    described = json.loads((model / "bundle.json").read_text())
    views = described["views"]
    exchanged = {**views, "axial": views["coronal"], "coronal": views["axial"]}
    with pytest.raises(InputError, match=r"axial\.safetensors: is for the axial view, not the cor"):
        load_bundle(changed(model, tmp_path / "exchanged", views=exchanged))
    two = {view: views[view] for view in ("axial", "coronal")}
    with pytest.raises(InputError, match="has the views axial, coronal, not all three"):
        load_bundle(changed(model, tmp_path / "two", views=two))
    other = changed(model, tmp_path / "other")
    table = protocol.table.copy()
    table["name"] = table["name"].replace({"Brain stem": "Brainstem"})
    Protocol("x", table).write(other / "labels.tsv")
    labels = {"file": "labels.tsv", "sha256": sha256(other / "labels.tsv")}
    with pytest.raises(InputError, match="another label table: its class 14 is 'Brain stem', not"):
        load_bundle(changed(other, tmp_path / "renamed", labels=labels))
    Protocol.read(LABELS / "tissues4.tsv").write(other / "labels.tsv")
    labels = {"file": "labels.tsv", "sha256": sha256(other / "labels.tsv")}
    with pytest.raises(InputError, match="network has 28 classes, the label table 4"):
        load_bundle(changed(other, tmp_path / "fewer", labels=labels))


def test_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a model folder"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{", '{"format": 3}', '{"format": 5}', "{}"])
def test_damaged_description_of_a_model_is_refused(tmp_path, content):
    (tmp_path / "bundle.json").write_text(content)
    with pytest.raises(InputError, match=f"{tmp_path}.*; .* again|; name the folder"):
        load_bundle(tmp_path)


def test_model_of_an_earlier_version_is_not_bundled(model, tmp_path, protocol):
    models = {view: tmp_path / view for view in VIEWS}
    shutil.copytree(model.parent / "views", tmp_path, dirs_exist_ok=True)
    described = json.loads((tmp_path / "coronal/model.json").read_text())
    described["grid_format"] = 1
    (tmp_path / "coronal/model.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match="earlier version; train it again"):
        write_bundle(models, protocol, dict.fromkeys(VIEWS, 1 / 3), 4.0, 64, 48, tmp_path / "out")


def test_views_of_different_protocols_are_not_bundled(model, tmp_path, protocol):
    other = Protocol("quicknat33", protocol.table)
    models = {view: model.parent / "views" / view for view in VIEWS}
    weights = {"coronal": 0.4, "axial": 0.4, "sagittal": 0.2}
    with pytest.raises(InputError, match="train it again"):
        write_bundle(models, other, weights, 4.0, 64, 48, tmp_path / "out")
    weights["axial"] = 0.9
    with pytest.raises(InputError, match=r"add up to 1\.5"):
        write_bundle(models, protocol, weights, 4.0, 64, 48, tmp_path / "out")


def test_prior_correction_is_in_the_network_and_not_in_its_file(model, tmp_path, protocol):
    models = {view: model.parent / "views" / view for view in VIEWS}
    weights = {"coronal": 0.4, "axial": 0.4, "sagittal": 0.2}
    write_bundle(models, protocol, weights, 4.0, 64, 48, tmp_path, prior_correction=0.8)
    before, after = (load_bundle(folder).networks["axial"] for folder in (model, tmp_path))
    wanted = json.loads((tmp_path / "bundle.json").read_text())["views"]["axial"]["class_weights"]
    moved = after.classifier.bias - before.classifier.bias
    torch.testing.assert_close(moved, -0.8 * torch.tensor(wanted).log(), atol=1e-5, rtol=0)
    assert moved.abs().max() > 0
    assert "prior correction 80%" in (tmp_path / "README.md").read_text()
    assert sha256(tmp_path / "axial.safetensors") == sha256(model / "axial.safetensors")


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
