"""The model that comes with QuickNAT: whole, small, and clear about where it is from."""

import re

from quicknat.cli.results import SHIPPED
from quicknat.model.bundle import load_bundle


def test_shipped_model_loads_and_knows_the_27_structures():
    bundle = load_bundle(SHIPPED)
    assert len(bundle.protocol.names) == 28
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 30e6


def test_card_of_the_shipped_model_says_licence_limits_and_scores():
    card = (SHIPPED / "README.md").read_text()
    for word in ("CC BY-NC", "Intended use", "Limits", "Dice", "Neuromorphometrics"):
        assert word in card, word


def test_shipped_model_names_no_folder_of_the_machine_that_trained_it():
    for file in SHIPPED.glob("*.json"):
        assert not re.search(r"\"/|/(home|tmp|work|root|data)/", file.read_text())
