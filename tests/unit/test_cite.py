"""The methods paragraph names what segmented the scans, and BibTeX holds what it cites."""

import re

import pytest
from typer.testing import CliRunner

import quicknat
from quicknat.cite import REFERENCES, bibtex, methods
from quicknat.cli import app
from quicknat.model.bundle import read_description
from quicknat.package_data import DATA, MODELS


@pytest.mark.parametrize("name", MODELS)
def test_bundled_model_is_named_with_version_structures_and_licence(name):
    text = CliRunner().invoke(app, ["cite", name]).output
    for part in (f"quicknat {quicknat.__version__}", "27 structures", f"'{name}' (CC BY-NC 4.0)"):
        assert part in text
    assert "Snakemake" not in text


def test_own_model_is_described_by_its_bundle_alone():
    bundle = read_description(MODELS["small"]) | {"mirror": True, "prior_correction": 0.0}
    for view in bundle["views"].values():
        view |= {"training_scans": ["sub-1", "sub-2"]}
        view["network"]["squeeze_excitation"] = "none"
    text = methods(bundle, "mine", workflow=True)
    assert "The model 'mine' was trained on 2 scans." in text and "left–right flip" in text
    assert not re.search("squeeze|prior|OASIS", text)
    keys = re.findall(r"@article\{(\w+),", bibtex(text))
    assert keys == ["roy2019quicknat", "molder2021snakemake"]


def test_every_reference_has_its_entry_with_a_doi():
    entries = (DATA / "references.bib").read_text().strip().split("\n\n")
    keys = [re.match(r"@article\{(\w+),", entry)[1] for entry in entries]
    assert sorted(keys) == sorted(REFERENCES.values())
    assert all("doi = {10." in entry for entry in entries)
