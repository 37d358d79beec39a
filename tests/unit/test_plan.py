"""What becomes of each scan, for which cohort and settings; what is refused."""

import dataclasses
import json

import pytest
import yaml

from helpers import ROOT
from quicknat.cohort.sheet import Scan, read_sheet
from quicknat.config import Config, check_consistency
from quicknat.errors import InputError
from quicknat.plan import FEW_SCANS, Plan, chunked, plan


def scan(name: str, use: str, image: bool = True, labels: bool = True) -> Scan:
    return Scan(
        subject=name, image=f"{name}.nii.gz" * image, labels=f"{name}_l.nii.gz" * labels,
        label_convention="freesurfer" * labels, split=use, participant=name,
    )  # fmt: skip


TRAIN = [scan("t2", "train"), scan("t1", "train")]
COHORT = [*TRAIN, scan("v", "val"), scan("e", "test")]
SEGMENT, UNLABELLED = scan("s", "segment", labels=False), scan("p", "pretrain", labels=False)
BARE = scan("m", "pretrain", image=False)


def settings(notify=None, **sections):
    """Return the demo's settings with some keys of some sections changed."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    for name, value in sections.items():
        config[name] = {**config.get(name, {}), **value} if isinstance(value, dict) else value
    return Config.read(config, notify=notify)


def planned(scans, skipped=(), **sections):
    return plan(settings(**sections), scans, skipped)


def test_demo_uses_every_stage():
    found = plan(settings(), read_sheet(ROOT / "workflow/cohorts/demo.tsv"))
    assert found.stages == ["pretrain", "finetune"]
    assert found.test == found.segmented == ["sub-CSI3", "sub-ds240"]
    assert found.pretrain == found.unlabelled and len(found.pretrain) == 2
    assert found.atlases == ["sub-CSI1", "sub-CSI2"] and not found.synthesize
    assert len(found.scans) == len(found.train + found.val + found.test + found.pretrain)


@pytest.mark.parametrize("overlay", sorted((ROOT / "workflow/configs").glob("*.yaml")), ids=str)
def test_configurations_of_the_repository_are_valid_and_without_a_notice(overlay):
    notices = []
    config = settings(notices.append, **yaml.safe_load(overlay.read_text()))
    check_consistency(config)
    assert plan(config, read_sheet(ROOT / config.sheet)).train and notices == []


def test_cohort_without_scans_to_pretrain_on_is_fine_tuned_alone():
    rows = [*COHORT, SEGMENT]
    found = planned(rows)
    assert found == planned(rows[::-1])
    assert list(found.scans) == ["sub-e", "sub-s", "sub-t1", "sub-t2", "sub-v"]
    assert found.stages == ["finetune"] == list(found.settings)
    assert json.loads(found.settings["finetune"])["epochs"] == settings().finetune.epochs
    assert (found.train, found.val, found.test) == (["sub-t1", "sub-t2"], ["sub-v"], ["sub-e"])
    assert found.segmented == ["sub-e", "sub-s"]
    assert not (found.pretrain or found.synthesize or found.unlabelled or found.atlases)
    assert found.warm_start_epochs == 0
    found = planned(rows, skipped=["sub-s", "sub-t1"])
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
    both = ["sub-e", "sub-s"]
    assert used == {"test": ["sub-e"], "segmented": both, "single": both}
    assert planned([SEGMENT], model="1mm").segmented == ["sub-s"]  # which no training would take


def many(count):
    return [scan(f"{k:05d}", "segment", labels=False) for k in range(count)]


def test_up_to_a_hundred_scans_to_segment_have_a_job_each():
    few = planned([*COHORT, *many(FEW_SCANS)], model="1mm")
    assert not few.chunks and few.single == few.segmented and len(few.single) == FEW_SCANS + 1
    rows = many(FEW_SCANS + 1)
    more = planned([*COHORT, *rows], model="1mm")
    assert more.single == ["sub-e"] and len(more.chunks) > 1
    assert sum(map(len, more.chunks.values())) == FEW_SCANS + 1
    assert planned([*COHORT, *rows]).chunks == more.chunks  # and if it is trained
    chunk, (bad, *others) = next(iter(more.chunks.items()))
    assert planned(rows, [bad], model="1mm").chunks == {**more.chunks, chunk: others}
    assert not planned(many(500), model="1mm", scans_per_job=1).chunks
    names = ["sub-00000", "sub-00001", "sub-00002"]
    assert planned(many(3), model="1mm", scans_per_job=9).chunks == {"all": names}


def test_new_scan_changes_its_own_chunk_only():
    config, before = settings(scans_per_job=8), {}
    for count in range(1, 200):
        now = chunked(config, many(count))
        new = {chunk: names for chunk, names in now.items() if before.get(chunk) != names}
        gone = {chunk: names for chunk, names in before.items() if chunk not in now}
        if gone:  # split, usually into two
            ((old, names),) = gone.items()
            assert all(old == "all" or chunk.startswith(old) for chunk in new)
            assert set(names) < {name for members in new.values() for name in members}
        assert gone or len(new) == 1
        assert max(map(len, now.values())) <= 8
        before = now


def test_chunks_are_the_same_everywhere_and_in_any_order():
    rows = many(9)
    found = chunked(settings(scans_per_job=4), rows)
    assert found == chunked(settings(scans_per_job=4), rows[::-1])
    assert found == {
        "000": ["sub-00002", "sub-00006", "sub-00007"],
        "001": ["sub-00003", "sub-00004", "sub-00005"],
        "01": ["sub-00008"],
        "1": ["sub-00000", "sub-00001"],
    }


def test_chunks_of_50000_scans_are_half_full_at_least_on_average():
    found = chunked(settings(), many(50_000))
    assert 500 <= len(found) <= 1024 and max(map(len, found.values())) <= FEW_SCANS


def test_warm_start_is_for_where_it_is_asked_for():
    chosen = {"new_scans": "warm_start", "warm_start_epochs": 3}
    assert planned(COHORT, training=chosen).warm_start_epochs == 3
    assert planned(COHORT, training=chosen | {"new_scans": "retrain"}).warm_start_epochs == 0


UNLABELLED_ROWS = [*COHORT, UNLABELLED]
REFUSED = {
    "nothing to train on": ([SEGMENT], {}, "no scan has split=train"),
    "nothing to segment": (TRAIN, {"model": "1mm"}, "no scan has split=segment or test"),
    "no atlas": (
        UNLABELLED_ROWS, {"auto_labels": {"atlases": []}},
        "sub-p has no labels, and 'auto_labels.atlases' is []; allowed: sub-t1, sub-t2",
    ),
    "atlas of another split": (
        UNLABELLED_ROWS, {"auto_labels": {"atlases": ["sub-v"]}},
        "'auto_labels.atlases' is ['sub-v']; allowed: sub-t1",
    ),
    "labels that were to be there": (
        UNLABELLED_ROWS, {"auto_labels": {"method": "precomputed"}},
        "sub-p has no labels, and 'auto_labels.method' is precomputed",
    ),
    "label maps instead of images": ([*COHORT, BARE], {}, "'pretrain.source' is automatic"),
    "no settings to pre-train": ([*COHORT, BOTH], {"pretrain": None}, "'pretrain' is missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused(case):
    scans, sections, message = REFUSED[case]
    with pytest.raises(InputError) as error:
        planned(scans, **sections)
    assert message in str(error.value)
