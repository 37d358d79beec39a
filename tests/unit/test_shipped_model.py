"""The bundled models: whole, small, and clear about where they are from."""

import re

import pytest

from quicknat.model.bundle import load_bundle
from quicknat.package_data import MODELS

each = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


@each
def test_shipped_model_loads_and_knows_the_27_structures(model):
    bundle = load_bundle(model)
    assert len(bundle.protocol.names) == 28
    assert sum(file.stat().st_size for file in model.iterdir()) < 30e6


@each
def test_card_of_the_shipped_model_says_licence_limits_and_scores(model):
    card = (model / "README.md").read_text()
    for word in ("CC BY-NC", "Intended use", "Limits", "Dice", "Neuromorphometrics"):
        assert word in card, word


@each
def test_shipped_model_names_no_folder_of_the_machine_that_trained_it(model):
    for file in model.glob("*.json"):
        assert not re.search(r"\"/|/(home|tmp|work|root|data)/", file.read_text())
