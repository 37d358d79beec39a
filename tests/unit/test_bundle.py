"""A model folder loads as it was made, keeps its licence, decides about a run, or is refused."""

import json
import re
import shutil

import pytest
import torch

from helpers import LABELS
from quicknat.config import Aggregation, Network
from quicknat.errors import InputError
from quicknat.files import sha256
from quicknat.images.labels import Protocol
from quicknat.images.slices import VIEWS
from quicknat.model.bundle import BUNDLE_FILES, load_bundle, read_description, write_bundle
from quicknat.model.card import OWN_LICENCE, model_card, read_card
from quicknat.model.export import metadata
from quicknat.package_data import MODELS
from quicknat.run import given_settings, require_same_network, require_usable

TABLE = "quicknat28"


@pytest.fixture
def own(model, tmp_path):
    """A copy of the model, to change."""
    return shutil.copytree(model, tmp_path / "given")


def edit(description, **values):
    """Change values of a JSON file."""
    description.write_text(json.dumps(json.loads(description.read_text()) | values))


@pytest.mark.parametrize("name", ["coronal.safetensors", "labels.tsv"])
def test_model_with_a_changed_byte_is_refused(own, name):
    content = bytearray((own / name).read_bytes())
    content[-3] ^= 1
    (own / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: has changed"):
        load_bundle(own)


def renamed(protocol):
    """A label table with another name of class 14."""
    names = protocol.table["name"].replace({"Brain stem": "Brainstem"})
    return Protocol("mine", protocol.table.assign(name=names))


@pytest.mark.case(56)
def test_model_with_another_label_table_or_views_exchanged_is_refused(own, protocol):
    views = json.loads((own / "bundle.json").read_text())["views"]
    exchanged = {**views, "axial": views["coronal"], "coronal": views["axial"]}
    edit(own / "bundle.json", views=exchanged)
    with pytest.raises(InputError, match=r"axial\.safetensors: is for the axial view, not the cor"):
        load_bundle(own)
    edit(own / "bundle.json", views={view: views[view] for view in ("axial", "coronal")})
    with pytest.raises(InputError, match="has the views axial, coronal, not all three"):
        load_bundle(own)
    for table, reason in (
        (renamed(protocol), "another label table: its class 14 is 'Brain stem', not"),
        (Protocol.read(LABELS / "tissues4.tsv"), "network has 28 classes, the label table 4"),
    ):
        table.write(own / "labels.tsv")
        labels = {"file": "labels.tsv", "sha256": sha256(own / "labels.tsv")}
        edit(own / "bundle.json", views=views, labels=labels)
        with pytest.raises(InputError, match=reason):
            load_bundle(own)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'{"format": 3, "views": 1}', b'{"format": 5}', b"{}", b"null",
     b"[" * 100_000, b"\xff\xfe{}"],
)  # fmt: skip
def test_folder_without_a_model_or_with_a_damaged_description_is_refused(tmp_path, content):
    if content:
        (tmp_path / "bundle.json").write_bytes(content)
    with pytest.raises(InputError, match=f"{tmp_path}.*; .* again|; name the folder"):
        load_bundle(tmp_path)


def bundled(views, output, protocol, **options):
    """Bundle the views that are in a folder, and return the new model's."""
    models = {view: views / view for view in VIEWS}
    write_bundle(models, protocol, Aggregation(**options), 4.0, 64, 48, output)
    return output


def test_views_of_earlier_versions_and_of_different_protocols_are_not_bundled(
    model, tmp_path, protocol
):
    views = shutil.copytree(model.parent / "views", tmp_path / "views")
    with pytest.raises(InputError, match="train it again"):
        bundled(views, tmp_path / "out", Protocol("quicknat33", protocol.table))
    edit(views / "coronal/model.json", grid_format=1)
    with pytest.raises(InputError, match="earlier version; train it again"):
        bundled(views, tmp_path / "out", protocol)


def test_prior_correction_is_in_the_network_and_not_in_its_file(model, tmp_path, protocol):
    corrected = bundled(model.parent / "views", tmp_path, protocol, prior_correction=0.8)
    before, after = (load_bundle(folder).networks["axial"] for folder in (model, corrected))
    wanted = json.loads((tmp_path / "bundle.json").read_text())["views"]["axial"]["class_weights"]
    moved = after.classifier.bias - before.classifier.bias
    torch.testing.assert_close(moved, -0.8 * torch.tensor(wanted).log(), atol=1e-5, rtol=0)
    assert moved.abs().max() > 0
    assert "prior correction 80%" in (tmp_path / "README.md").read_text()
    assert sha256(tmp_path / "axial.safetensors") == sha256(model / "axial.safetensors")


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
    assert sorted(BUNDLE_FILES) == sorted(path.name for path in model.iterdir())


@pytest.mark.parametrize("name", BUNDLE_FILES)
def test_model_that_lacks_a_file_or_is_in_the_folder_of_the_run_is_refused(own, tmp_path, name):
    (tmp_path / "link").symlink_to(own)
    with pytest.raises(InputError, match="'model' is .*; copy it to another folder first"):
        require_usable(tmp_path / "link", TABLE, own)
    (own / name).unlink()
    with pytest.raises(InputError, match=f"{name}.*; (copy|name)"):
        require_usable(own, TABLE, "results/model")


def test_model_for_another_label_table_is_refused(own, tmp_path, protocol):
    edit(own / "bundle.json", protocol="mine")
    mine = tmp_path / "mine.tsv"
    assert given_settings(own, "quicknat28")["protocol"] == "mine"
    with pytest.raises(InputError, match=r"'mine', which is not bundled; copy its labels\.tsv"):
        require_usable(own, "mine", "results/model")
    assert given_settings(own, str(mine))["protocol"] == str(mine)
    shutil.copy(own / "labels.tsv", mine)
    require_usable(own, mine, "results/model")
    renamed(protocol).write(mine)
    with pytest.raises(InputError, match="has different structures than"):
        require_usable(own, mine, "results/model")


def test_initial_weights_of_another_network_are_refused_before_anything_is_computed():
    views = read_description(MODELS["small"])["views"].values()
    for own in ({}, {"slices": 3}, {"dropout": 0.0}):
        require_same_network(views, Network(**{"filters": 24} | own))
    with pytest.raises(InputError, match=r"'network.filters' is 16, but 24 in .*; set it to 24"):
        require_same_network(views, Network(filters=16))
    with pytest.raises(InputError, match="'network.squeeze_excitation' is none, but scse in"):
        require_same_network(views, Network(filters=24, squeeze_excitation="none"))


def described(**changed):
    """The description of a bundled model, with other values in the entry of each view."""
    found = json.loads((MODELS["small"] / "bundle.json").read_bytes())
    return found | {"views": {view: found["views"][view] | changed for view in VIEWS}}


def test_bundled_model_keeps_name_and_licence_in_another_folder(tmp_path):
    shutil.copy(MODELS["small"] / "bundle.json", tmp_path)
    card = read_card(tmp_path)
    assert card.name == "bundled model small" and card.licence.startswith("CC BY-NC 4.0")
    assert read_card(tmp_path / "none") is None


def test_licence_of_the_bundled_weights_holds_for_what_starts_from_them():
    weights = json.loads((MODELS["1mm"] / "bundle.json").read_bytes())["views"]["axial"]["sha256"]
    none = {"sha256": "trained", "initial_sha256": None, "warm_start": None, "ancestors": []}
    for start in (
        {"initial_sha256": weights},
        {"warm_start": {"sha256": weights}},
        {"ancestors": [weights]},
    ):
        card = model_card(described(**none | start), "other")
        assert card.licence.startswith("CC BY-NC 4.0") and "fine-tuned" in card.name, start
    edited = model_card(described(), "of a bundle.json that somebody edited")
    assert edited.licence.startswith("CC BY-NC 4.0") and edited.origin == "bundled"
    own = model_card(described(**none), "other")
    assert own.licence == OWN_LICENCE and own.name == "own model (quicknat28, 1.5 mm)"


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_bundled_model_is_small_and_says_where_it_is_from_and_no_folder_of_its_machine(model):
    """What is exported has its licence, too."""
    bundle, described = load_bundle(model), read_description(model)
    assert len(bundle.protocol.names) == 28
    assert bundle.card.licence in metadata(bundle, described)["copyright"]
    assert sum(file.stat().st_size for file in model.iterdir()) < 30e6
    card = (model / "README.md").read_text()
    for word in ("CC BY-NC", "Intended use", "Limits", "Dice", "Neuromorphometrics"):
        assert word in card, word
    for file in model.glob("*.json"):
        assert not re.search(r"\"/|/(home|tmp|work|root|data)/", file.read_text())


WRONG = {
    "'conform.size' is 256.0; must be a valid integer": ("conform", "size", 256.0),
    "'conform.spacing_mm' is NaN; must be a finite number": ("conform", "spacing_mm", float("nan")),
    "'labels.file' is \"../a\"; must name a file here": ("labels", "file", "../a"),
    "'labels.sha256' is \"1\"; must be a SHA-256": ("labels", "sha256", "1"),
    "'population.outside' is [0.1]; must have at least 2 items": ("population", "outside", [0.1]),
    "'views.axial.network.slices' is 2; must be 1, 3, 5 or 7": ("axial", "slices", 2),
    "'views.axial.network.n_classes' is missing; add it": ("axial", "n_classes", None),
    "unknown key 'views.axial.network.filter'; did you mean 'filters'? allowed here: filters,": (
        "axial", "filter", 8
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_wrong_value_of_a_description_is_refused_with_its_path_and_what_is_right(tmp_path, message):
    section, key, value = WRONG[message]
    found = described()
    part = found["views"]["axial"]["network"] if section == "axial" else found[section]
    part[key] = value
    if value is None:
        del part[key]
    (tmp_path / "bundle.json").write_text(json.dumps(found))
    with pytest.raises(InputError) as error:
        read_description(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'bundle.json'}: {message}")
