"""Settings are refused with the key's name and what would be right."""

import itertools
from dataclasses import asdict

import pytest
import yaml

from helpers import ROOT
from quicknat.config import check_consistency
from quicknat.errors import InputError
from quicknat.schema import check, load_schema
from quicknat.training.optimizers import TrainingSettings

SCHEMA = load_schema("config")
REFUSED = {
    "unknown nested key": ({"network": {"filter": 8}}, "unknown key 'network.filter'"),
    "wrong choice": ({"network": {"squeeze_excitation": "SE"}}, "allowed: NONE, CSE, SSE, CSSE"),
    "wrong type": (
        {"finetune": {"epochs": "many"}},
        "'finetune.epochs' is \"many\"; must be integer",
    ),
    "wrong multiple": ({"slices": {"size": 100}}, "must be a multiple of 16"),
    "out of range": (
        {"network": {"dropout": 1.5}},
        "'network.dropout' is 1.5; must be at most 0.9",
    ),
    "missing": ({"finetune": {"epochs": None}}, "'finetune.epochs' is null; must be integer"),
}


def merged(changes):
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    for section, values in changes.items():
        config[section] = config[section] | values
    return config


@pytest.mark.parametrize("fault", REFUSED)
def test_wrong_setting_is_refused_naming_key_and_choices(fault):
    changes, message = REFUSED[fault]
    with pytest.raises(InputError) as error:
        check(merged(changes), SCHEMA, "configuration")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(InputError, match=r"'slices.size' is 512; must be at most conform.size"):
        check_consistency(merged({"slices": {"size": 512}}))
    with pytest.raises(InputError, match="'aggregation' adds up to 1.2; must be 1"):
        check_consistency(merged({"aggregation": {"axial": 0.6}}))
    check_consistency(merged({}))


def test_default_settings_are_accepted():
    check(merged({}), SCHEMA, "configuration")


def test_settings_of_a_training_default_to_the_schemas():
    sections = (
        SCHEMA["properties"]["training"],
        SCHEMA["$defs"]["stage"],
        SCHEMA["properties"]["network"],
    )
    documented = {
        name: child["default"]
        for section in (*sections, SCHEMA["$defs"]["stage"])
        for name, child in section["properties"].items()
        if "default" in child
    }
    settings = asdict(TrainingSettings(epochs=1, learning_rate=1.0))
    defaults = settings.pop("network") | settings
    assert {name: documented.get(name, value) for name, value in defaults.items()} == defaults


def test_every_setting_is_described():
    def leaves(schema, path=()):
        for name, child in schema.get("properties", {}).items():
            if "properties" in child:
                yield from leaves(child, (*path, name))
            elif "$ref" not in child:
                yield ".".join((*path, name)), child

    stages = (leaves(schema, (name,)) for name, schema in SCHEMA["$defs"].items())
    found = itertools.chain(leaves(SCHEMA), *stages)
    undescribed = [name for name, child in found if "description" not in child]
    assert [n for n in undescribed if not n.startswith("aggregation.")] == []
