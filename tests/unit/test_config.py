"""Settings are refused with the key's name and what would be right; old names are read."""

from dataclasses import fields
from typing import get_args

import pytest
import yaml

from helpers import ROOT
from quicknat import config as settings
from quicknat.config import (
    Aggregation,
    Config,
    Network,
    TrainingSettings,
    check_consistency,
    stage_settings,
)
from quicknat.errors import InputError
from quicknat.model.losses import DiceReduction
from quicknat.model.network import NetworkSettings, SqueezeExcitation
from quicknat.run import require_for_storage
from quicknat.validation import section_model

REFUSED = {
    "unknown nested key": (
        {"network": {"filter": 8}},
        "unknown key 'network.filter'; did you mean 'filters'? allowed here: filters, squeeze",
    ),
    "unknown key at the top": ({"shet": {}}, "unknown key 'shet'; did you mean 'sheet'?"),
    "key that is no text": ({"finetune": {3: 1}}, "unknown key 'finetune.3'"),
    "wrong choice": (
        {"network": {"squeeze_excitation": "SE"}},
        "'network.squeeze_excitation' is \"SE\"; must be 'none', 'cse', 'sse' or 'scse'",
    ),
    "wrong type": ({"finetune": {"epochs": "many"}}, 'is "many"; must be a valid integer'),
    "float for an integer": ({"slices": {"size": 96.0}}, "'slices.size' is 96.0; must be a valid"),
    "not a number": ({"finetune": {"learning_rate": float("nan")}}, "is NaN; must be a finite"),
    "infinite": ({"conform": {"spacing_mm": float("inf")}}, "'conform.spacing_mm' is Infinity; mu"),
    "true for an integer": ({"conform": {"size": True}}, "'conform.size' is true; must be a valid"),
    "wrong multiple": ({"slices": {"size": 100}}, "must be a multiple of 16"),
    "out of range": (
        {"network": {"dropout": 1.5}},
        "is 1.5; must be less than or equal to 0.9 (Fraction of channels dropped)",
    ),
    "unit": (
        {"conform": {"spacing_mm": "1mm"}},
        '"1mm"; must be a valid number (Voxel size in mm)',
    ),
    "null": ({"finetune": {"epochs": None}}, "'finetune.epochs' is null; must be a valid integer"),
    "empty": ({"auto_labels": {"subjects_dir": ""}}, "must have at least 1 character"),
    "in a list": ({"auto_labels": {"atlases": [1]}}, "'auto_labels.atlases.0' is 1; must be a"),
    "gone: accumulate": ({"training": {"accumulate": 2}}, "raise 'batch_size' instead"),
    "gone: devices": ({"training": {"devices": 2}}, "each view uses one GPU"),
    "gone: kernel": ({"network": {"kernel": 3}}, "convolutions are always 5 × 5"),
    "gone: freeze": ({"training": {"new_scans": "freeze"}}, "to another folder, and set 'mod"),
    "old and new name": (
        {"finetune": {"step_epochs": 3, "lr_step_epochs": 3}},
        "'finetune.step_epochs' is the old name of 'lr_step_epochs'; remove it",
    ),
}


def merged(changes):
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    for section, values in changes.items():
        config[section] = config.get(section, {}) | values
    return config


@pytest.mark.parametrize("fault", REFUSED)
def test_wrong_setting_is_refused_naming_key_and_choices(fault):
    changes, message = REFUSED[fault]
    with pytest.raises(InputError) as error:
        Config.read(merged(changes))
    text = str(error.value)
    assert text.startswith("configuration: ") and message in text and "\n" not in text


def test_missing_setting_is_named_unless_it_is_there_under_a_wrong_name():
    config = merged({})
    del config["finetune"]["epochs"]
    with pytest.raises(InputError, match=r"'finetune\.epochs' is missing; add it"):
        Config.read(config)
    config["finetune"]["epoks"] = 3
    with pytest.raises(InputError, match=r"unknown key 'finetune\.epoks'; did you mean 'epochs'"):
        Config.read(config)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"slices": {"size": 512}}, "'slices.size' is 512; must be at most conform.size"),
        (
            {"aggregation": {"axial": 0.6}},
            "^configuration: 'aggregation' is .*; must add up to 1 .axial 0.6, ",
        ),
        ({"training": {"initial_model": "results/model/"}}, "copy it to another folder first"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, problem):
    with pytest.raises(InputError, match=problem):
        check_consistency(Config.read(merged(changes)))


def test_weights_of_views_on_the_command_line_must_add_up_too():
    with pytest.raises(InputError, match="^--aggregation: is {.*}; must add up to 1 .axial 0.6, "):
        Aggregation.read({"axial": 0.6}, "--aggregation")


def test_defaults_are_filled_in_and_the_result_is_read_as_itself():
    config = Config.read(merged({}))
    filled = config.model_dump()
    assert filled["training"]["seed"] == 0 and filled["report"] == {"interactive": True}
    assert Config.read(filled) == config
    without = {key: value for key, value in filled.items() if key != "pretrain"}
    assert Config.read(without).model_dump() == without  # rather than an empty section
    assert Config.read({**without, "pretrain": None}) == Config.read(without)


def test_stage_has_its_own_settings_and_the_shared_ones_but_none_of_the_workflow():
    config = Config.read(merged({"training": {"seed": 7, "new_scans": "warm_start"}}))
    stage = stage_settings(config, "finetune")
    assert (stage.epochs, stage.seed, stage.network.filters) == (7, 7, 16)
    assert TrainingSettings.read(stage.model_dump()) == stage
    assert not {"new_scans", "warm_start_epochs", "source", "initial_model"} & set(dict(stage))
    without = Config.read({k: v for k, v in merged({}).items() if k != "pretrain"})
    with pytest.raises(InputError, match="'pretrain' is missing"):
        stage_settings(without, "pretrain")


def test_network_that_stands_alone_has_the_settings_defaults_and_choices():
    """``network.py`` is copied beside exported weights, so it cannot import them."""
    assert Network().model_dump() == {f.name: f.default for f in fields(NetworkSettings)}
    kinds = Network.model_fields["squeeze_excitation"].annotation
    assert get_args(kinds) == get_args(SqueezeExcitation)
    ways = settings.SharedSettings.model_fields["dice_reduction"].annotation
    assert get_args(ways) == get_args(DiceReduction)


def test_every_setting_is_described():
    for name, field in Config.model_fields.items():
        section = section_model(field)
        for key, one in section.model_fields.items() if section else [(name, field)]:
            assert one.description, f"{name}.{key}"


OLD = {  # setting and value of earlier versions, and what is read
    "dice_over": ("training.dice_over", "slice", "training.dice_reduction", "slice"),
    "mirror": ("training.mirror", True, "training.flip", True),
    "mirror passes": ("aggregation.mirror", True, "aggregation.flip", True),
    "step_epochs": ("pretrain.step_epochs", 3, "pretrain.lr_step_epochs", 3),
    "NONE": ("network.squeeze_excitation", "NONE", "network.squeeze_excitation", "none"),
    "CSSE": ("network.squeeze_excitation", "CSSE", "network.squeeze_excitation", "scse"),
}


@pytest.mark.parametrize("what", OLD)
def test_old_name_is_read_with_a_notice_that_has_the_new_one(what):
    old, given, path, value = OLD[what]
    (section, key), notices = path.split("."), []
    changes = {section: {old.split(".")[1]: given}}
    found = Config.read(merged(changes), notify=notices.append).model_dump()
    assert found[section][key] == value
    (notice,) = notices
    assert notice.startswith("configuration: '") and "\n" not in notice
    assert (path if old != path else f"is now '{value}'") in notice
    assert Config.read(merged(changes), notify=None) == Config.read(found)


@pytest.mark.parametrize(
    "changes",
    [{"training": {"accumulate": 1}}, {"training": {"devices": 1}}, {"network": {"kernel": 5}}],
)
def test_setting_that_is_gone_is_ignored_where_it_asks_for_what_happens_anyway(changes):
    notices = []
    assert Config.read(merged(changes), notify=notices.append) == Config.read(merged({}))
    (notice,) = notices
    assert notice.endswith("is no longer a setting; remove it")
    assert Config.read(merged({}) | {"keep_slices": False}) == Config.read(merged({}))


def test_old_names_are_read_in_settings_of_a_training_too():
    old = {"epochs": 1, "learning_rate": 1, "dice_over": "slice", "network": {"kernel": 5}}
    notices = []
    assert TrainingSettings.read(old, notify=notices.append).dice_reduction == "slice"
    assert len(notices) == 2


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("on_bad_scan", {"on_bad_scan": "skip"}),
        ("training.new_scans", {"training": {"new_scans": "warm_start"}}),
        ("training.initial_model", {"training": {"initial_model": "1mm"}}),
    ],
)
def test_setting_that_needs_a_shared_disk_is_refused_with_storage(path, given):
    with pytest.raises(InputError, match=f"'{path}' needs a disk"):
        require_for_storage(given)
    require_for_storage({"on_bad_scan": "stop", "training": {"new_scans": "retrain"}})
