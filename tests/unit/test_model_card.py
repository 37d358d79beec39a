"""Name and licence of a model go with it: copied, fine-tuned, exported."""

import json
import shutil

from quicknat.model.bundle import load_bundle
from quicknat.model.card import OWN_LICENCE, model_card, read_card
from quicknat.model.export import metadata
from quicknat.package_data import MODELS


def described(**changed):
    found = json.loads((MODELS["small"] / "bundle.json").read_bytes())
    for entry in found["views"].values():
        entry.update(changed)
    return found


def test_bundled_model_keeps_name_and_licence_in_another_folder(tmp_path):
    shutil.copy(MODELS["small"] / "bundle.json", tmp_path)
    card = read_card(tmp_path)
    assert card.name == "bundled model small" and card.licence.startswith("CC BY-NC 4.0")
    assert read_card(tmp_path / "none") is None


def test_licence_of_the_bundled_weights_holds_for_what_starts_from_them():
    weights = json.loads((MODELS["1mm"] / "bundle.json").read_bytes())["views"]["axial"]["sha256"]
    ways = (
        {"initial_sha256": weights},
        {"warm_start": {"sha256": weights}},
        {"ancestors": [weights]},
    )
    for changed in ways:
        card = model_card(described(sha256="trained", **changed), "other")
        assert card.licence.startswith("CC BY-NC 4.0") and "fine-tuned" in card.name
    edited = model_card(described(), "of a bundle.json that somebody edited")
    assert edited.licence.startswith("CC BY-NC 4.0") and edited.origin == "bundled"
    own = model_card(described(sha256="trained", initial_sha256=None, warm_start=None), "other")
    assert own.licence == OWN_LICENCE and own.name == "own model (quicknat28, 1.5 mm)"


def test_export_passes_the_licence_on():
    bundle = load_bundle(MODELS["small"])
    assert bundle.card.licence in metadata(bundle, described())["copyright"]
