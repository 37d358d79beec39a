"""A model folder loads as it was made, or is refused."""

import json
import shutil

import pytest

from quicknat.bundle import load_bundle, write_bundle
from quicknat.errors import InputError
from quicknat.network import QuickNAT
from quicknat.slices import VIEWS


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


def test_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a model folder"):
        load_bundle(tmp_path)


def test_model_of_an_earlier_version_is_not_bundled(model, tmp_path, protocol):
    models = {view: tmp_path / view for view in VIEWS}
    shutil.copytree(model.parent / "views", tmp_path, dirs_exist_ok=True)
    described = json.loads((tmp_path / "coronal/model.json").read_text())
    del described["population"]
    (tmp_path / "coronal/model.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match="earlier version; train it again"):
        write_bundle(models, protocol, dict.fromkeys(VIEWS, 1 / 3), 4.0, 64, 48, tmp_path / "out")


def test_views_of_different_protocols_are_not_bundled(model, tmp_path, protocol):
    from quicknat.labels import Protocol

    other = Protocol("quicknat33", protocol.table)
    models = {view: model.parent / "views" / view for view in VIEWS}
    weights = {"coronal": 0.4, "axial": 0.4, "sagittal": 0.2}
    with pytest.raises(InputError, match="train it again"):
        write_bundle(models, other, weights, 4.0, 64, 48, tmp_path / "out")
    weights["axial"] = 0.9
    with pytest.raises(InputError, match=r"add up to 1\.5"):
        write_bundle(models, protocol, weights, 4.0, 64, 48, tmp_path / "out")
