"""The methods paragraph names what segmented the scans, and BibTeX holds what it cites."""

import json
import re
import shutil

import pytest
from typer.testing import CliRunner

import quicknat
from quicknat.cli import app
from quicknat.model.bundle import read_description
from quicknat.model.card import REFERENCES, bibtex, methods, model_card
from quicknat.package_data import DATA, MODELS, TEMPLATES


@pytest.mark.parametrize("name", MODELS)
def test_bundled_model_is_named_with_version_structures_and_licence(name):
    text = CliRunner().invoke(app, ["cite", name]).output
    assert f"quicknat {quicknat.__version__}" in text and "27 structures" in text
    assert f"We used the bundled model {name} (CC BY-NC 4.0), trained mainly on" in text
    assert "Snakemake" not in text


def test_own_model_is_described_by_its_bundle_alone():
    bundle = read_description(MODELS["small"]) | {"mirror": True, "prior_correction": 0.0}
    for view in bundle["views"].values():
        view |= {"training_scans": ["sub-1", "sub-2"], "ancestors": []}
        view["network"]["squeeze_excitation"] = "none"
        view |= {"sha256": "0" * 64, "initial_sha256": None, "warm_start": None}
    text = methods(bundle, model_card(bundle, "another's"), workflow=True)
    assert "The model was trained on 2 scans." in text and "left–right flip" in text
    assert not re.search("squeeze|prior|OASIS", text)
    keys = re.findall(r"@article\{(\w+),", bibtex(text))
    assert keys == ["roy2019quicknat", "molder2021snakemake"]


def test_reference_command_on_the_page_prints_all_that_its_paragraph_cites(tmp_path, monkeypatch):
    """`results/model` is a copy of the bundled model, which its folder's name does not tell."""
    shutil.copytree(MODELS["1mm"], tmp_path / "results/model")
    monkeypatch.chdir(tmp_path)
    page = (TEMPLATES / "cohort.html.j2").read_text()
    (command,) = re.findall("<code>quicknat (cite [^<]+)</code>", page)
    keys = re.findall(r"@article\{(\w+),", CliRunner().invoke(app, command.split()).output)
    assert sorted(keys) == sorted(REFERENCES.values())


def test_licence_and_data_follow_the_weights_and_not_the_folder_name(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    start = read_description(MODELS["1mm"])["views"]["axial"]["sha256"]
    for initial, credited in ((None, False), (start, True)):
        bundle = json.loads((MODELS["small"] / "bundle.json").read_bytes())
        for view in bundle["views"].values():
            view |= {"sha256": "0" * 64, "initial_sha256": initial, "warm_start": None}
            view |= {"training_scans": ["sub-1"], "ancestors": []}
        (folder / "bundle.json").write_text(json.dumps(bundle))
        text = CliRunner().invoke(app, ["cite", str(folder)]).output
        assert re.search(r"The model was trained on 1 scan\b", text) and "model small" not in text
        assert credited == ("CC BY-NC 4.0" in text) == ("marcus2007oasis" in bibtex(text))


def test_every_reference_has_its_entry_with_a_doi():
    entries = (DATA / "references.bib").read_text()
    assert sorted(re.findall(r"@article\{(\w+),", entries)) == sorted(REFERENCES.values())
    assert entries.count("doi = {10.") == len(REFERENCES)
