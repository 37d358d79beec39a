"""What becomes of each scan, for which cohort and settings; what is refused."""

import dataclasses
import json

import pytest
import yaml

from helpers import ROOT
from quicknat.cohort.sheet import Scan, read_sheet
from quicknat.config import Config
from quicknat.errors import InputError
from quicknat.plan import Plan, plan


def scan(name: str, use: str, image: bool = True, labels: bool = True, session: str = "") -> Scan:
    return Scan(
        name, f"{name}.nii.gz" * image, use, session=session, labels=f"{name}_l.nii.gz" * labels,
        label_convention="freesurfer" * labels, participant=name,
    )  # fmt: skip


TRAIN = [scan("t2", "train"), scan("t1", "train")]
COHORT = [*TRAIN, scan("v", "val"), scan("e", "test")]
SEGMENT, UNLABELLED = scan("s", "segment", labels=False), scan("p", "pretrain", labels=False)
BARE = scan("m", "pretrain", image=False)


def settings(**sections):
    """Return the demo's settings with some keys of some sections changed."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    for name, value in sections.items():
        config[name] = {**config.get(name, {}), **value} if isinstance(value, dict) else value
    return Config.read(config)


def planned(scans, skipped=(), **sections):
    return plan(settings(**sections), scans, skipped)


def test_demo_uses_every_stage():
    found = plan(settings(), read_sheet(ROOT / "workflow/cohorts/demo.tsv"))
    assert found.stages == ["pretrain", "finetune"]
    assert found.test == found.segmented == ["sub-CSI3", "sub-ds240"]
    assert found.pretrain == found.unlabelled and len(found.pretrain) == 2
    assert found.atlases == ["sub-CSI1", "sub-CSI2"] and not found.synthesize
    assert len(found.scans) == len(found.train + found.val + found.test + found.pretrain)


def test_scans_are_sorted_whatever_the_order_of_rows():
    found = planned(COHORT)
    assert list(found.scans) == ["sub-e", "sub-t1", "sub-t2", "sub-v"]
    assert found.train == ["sub-t1", "sub-t2"] and found == planned(COHORT[::-1])


def test_cohort_without_scans_to_pretrain_on_is_fine_tuned_alone():
    found = planned([*COHORT, SEGMENT])
    assert found.stages == ["finetune"] == list(found.settings)
    assert found.segmented == ["sub-e", "sub-s"] and found.test == ["sub-e"]
    assert not (found.pretrain or found.synthesize or found.unlabelled or found.atlases)


def test_sessions_are_scans_of_their_own():
    rows = [scan("t", "train", session="1"), scan("t", "train", session="2")]
    assert planned(rows).train == ["sub-t_ses-1", "sub-t_ses-2"]


def test_skipped_scans_are_left_out_everywhere():
    found = planned([*COHORT, SEGMENT], skipped=["sub-s", "sub-t1"])
    assert "sub-s" not in found.scans and found.segmented == ["sub-e"] and found.train == ["sub-t2"]


BOTH = scan("b", "pretrain")
SOURCES = {  # scans to pre-train on, and label maps that images are synthesized from
    "automatic": (["sub-b", "sub-p"], []),
    "synthetic": ([], ["sub-b", "sub-m"]),
    "both": (["sub-b", "sub-p"], ["sub-b", "sub-m"]),
}


@pytest.mark.parametrize("source", SOURCES)
def test_source_of_pretraining_decides_what_becomes_of_its_rows(source):
    rows = [*COHORT, UNLABELLED, BARE, BOTH]
    found = planned(rows, pretrain={"source": source}, auto_labels={"atlases": ["sub-t1"]})
    assert (found.pretrain, found.synthesize) == SOURCES[source]
    assert found.unlabelled == (["sub-p"] if source != "synthetic" else [])
    assert found.atlases == (["sub-t1"] if source != "synthetic" else ())


def test_training_scans_serve_for_synthetic_images_where_nothing_else_does():
    found = planned(COHORT, pretrain={"source": "synthetic"})
    assert found.stages == ["pretrain", "finetune"] and found.synthesize == ["sub-t1", "sub-t2"]


def test_programs_label_scans_without_atlases():
    found = planned([*COHORT, UNLABELLED], auto_labels={"method": "recon-all", "atlases": []})
    assert found.unlabelled == ["sub-p"] and found.atlases == ()


def test_given_model_segments_and_nothing_is_trained():
    found = planned([*COHORT, UNLABELLED, BARE, SEGMENT], model="1mm")
    names = {field.name: getattr(found, field.name) for field in dataclasses.fields(Plan)}
    used = {name: value for name, value in names.items() if value and name != "scans"}
    assert used == {"test": ["sub-e"], "segmented": ["sub-e", "sub-s"]}
    assert planned([SEGMENT], model="1mm").segmented == ["sub-s"]  # which no training would take


def test_settings_of_a_stage_are_those_of_training_and_its_own():
    found = planned(COHORT, training={"batch_size": 7, "compile": False}, finetune={"epochs": 5})
    values = json.loads(found.settings["finetune"])
    assert (values["batch_size"], values["epochs"], values["compile"]) == (7, 5, False)
    weights = json.loads(found.weight_determining["finetune"])
    assert weights["epochs"] == 5 and "compile" not in weights


def test_warm_start_is_for_where_it_is_asked_for():
    chosen = {"new_scans": "warm_start", "warm_start_epochs": 3}
    assert planned(COHORT, training=chosen).warm_start_epochs == 3
    assert planned(COHORT, training=chosen | {"new_scans": "retrain"}).warm_start_epochs == 0


REFUSED = {
    "nothing to train on": ([SEGMENT], {}, "no scan has split=train"),
    "nothing to segment": (TRAIN, {"model": "1mm"}, "no scan has split=segment or test"),
    "no atlas": (
        [*COHORT, UNLABELLED],
        {"auto_labels": {"atlases": []}},
        "sub-p has no labels, and 'auto_labels.atlases' is []; allowed: sub-t1, sub-t2",
    ),
    "atlas of another split": (
        [*COHORT, UNLABELLED],
        {"auto_labels": {"atlases": ["sub-v"]}},
        "'auto_labels.atlases' is ['sub-v']; allowed: sub-t1",
    ),
    "labels that were to be there": (
        [*COHORT, UNLABELLED],
        {"auto_labels": {"method": "precomputed"}},
        "sub-p has no labels, and 'auto_labels.method' is precomputed",
    ),
    "label maps where images are to be trained on": (
        [*COHORT, BARE],
        {},
        "'pretrain.source' is automatic",
    ),
    "no settings to pre-train with": (
        [*COHORT, BOTH],
        {"pretrain": None},
        "'pretrain' is missing",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused(case):
    scans, sections, message = REFUSED[case]
    config = settings(**sections)
    with pytest.raises(InputError) as error:
        plan(config, scans)
    assert message in str(error.value)
