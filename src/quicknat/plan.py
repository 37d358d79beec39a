"""Decide what a run has to do; all rules of the workflow follow this plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from quicknat.cohort.sheet import Scan
from quicknat.config import Config, Pretrain, stage_settings
from quicknat.errors import InputError
from quicknat.reruns import compared_settings

# scans of the split `segment` that have a job each; also the most scans of a larger job
FEW_SCANS = 100


@dataclass(frozen=True)
class Plan:
    """Names of the scans to process in each way, and the settings of the stages."""

    scans: Mapping[str, Scan]  # every scan of the run by its name, sorted
    # which of pretrain and finetune are trained; none with a given model
    stages: Sequence[str] = ()
    train: Sequence[str] = ()  # scans of these splits
    val: Sequence[str] = ()
    test: Sequence[str] = ()
    segmented: Sequence[str] = ()  # scans of the splits test and segment
    single: Sequence[str] = ()  # those of them that are segmented in a job of their own
    chunks: Mapping[str, Sequence[str]] = field(default_factory=dict)  # the others, by chunk
    pretrain: Sequence[str] = ()  # scans whose images the networks are pre-trained on
    synthesize: Sequence[str] = ()  # scans whose label maps images are synthesized from
    unlabelled: Sequence[str] = ()  # scans of pretrain that need automatic labels
    atlases: Sequence[str] = ()  # labelled scans used as atlases, with that labelling method
    settings: Mapping[str, str] = field(default_factory=dict)  # of `quicknat train`, by stage: JSON
    weight_determining: Mapping[str, str] = field(default_factory=dict)  # those that matter: JSON
    warm_start_epochs: int = 0  # epochs after a warm start; 0 trains from scratch


def plan(config: Config, scans: Sequence[Scan], skipped: Sequence[str] = ()) -> Plan:
    """Decide what is converted, sliced, trained on, segmented and scored; read and write nothing.

    Args:
        config: all settings. With `model` set, nothing is trained.
        scans: rows of the sheet.
        skipped: names of scans to leave out.

    Raises:
        InputError: the sheet has no scan to segment or to train on, or a pre-training scan has no
            labels and no way to get them.
    """
    wanted = (scan for scan in scans if scan.id not in skipped)
    by_name = {scan.id: scan for scan in sorted(wanted, key=lambda scan: scan.id)}

    def names(*splits: str) -> list[str]:
        return [name for name, scan in by_name.items() if scan.split in splits]

    test, segmented = names("test"), names("test", "segment")
    chunks = {
        chunk: kept
        for chunk, members in chunked(config, scans).items()
        if (kept := [name for name in members if name in by_name])
    }
    many = {name for members in chunks.values() for name in members}
    single = [name for name in segmented if name not in many]
    given = Plan(by_name, test=test, segmented=segmented, single=single, chunks=chunks)
    if config.model:
        if not segmented:
            problem = "no scan has split=segment or test"
            raise InputError(config.sheet, problem, "add scans to segment")
        return given
    train = names("train")
    if not train:
        fix = "add scans with labels, or use an existing model: model=1mm"
        raise InputError(config.sheet, "no scan has split=train", fix)
    pretrain, synthesize = pretraining(by_name, config.pretrain)
    stages: list[Literal["pretrain", "finetune"]]
    stages = ["pretrain", "finetune"] if pretrain or synthesize else ["finetune"]
    unlabelled = [name for name in pretrain if not by_name[name].labels]
    settings = {stage: stage_settings(config, stage).model_dump() for stage in stages}
    compared = {stage: compared_settings(values) for stage, values in settings.items()}
    warm = config.training.new_scans == "warm_start"
    return replace(
        given,
        stages=stages,
        train=train,
        val=names("val"),
        pretrain=pretrain,
        synthesize=synthesize,
        unlabelled=unlabelled,
        atlases=atlases(config, unlabelled, train),
        settings={stage: json.dumps(values) for stage, values in settings.items()},
        weight_determining={s: json.dumps(v, sort_keys=True) for s, v in compared.items()},
        warm_start_epochs=config.training.warm_start_epochs if warm else 0,
    )


def chunked(config: Config, scans: Sequence[Scan]) -> dict[str, list[str]]:
    """Return the scans that are segmented in chunks, by chunk; none if each has its own job.

    A chunk is named after the first bits of its scans' hashes; one that gets too large is split by
    the next bit. A new scan therefore changes only the chunk that it falls into.

    Args:
        config: `scans_per_job` is the most scans of a chunk.
        scans: rows of the sheet; test scans are never in a chunk.
    """
    names = sorted(scan.id for scan in scans if scan.split == "segment")
    limit = config.scans_per_job or (1 if len(names) <= FEW_SCANS else FEW_SCANS)
    if limit == 1:
        return {}
    bits = {name: f"{int(hashlib.sha256(name.encode()).hexdigest(), 16):0256b}" for name in names}
    found, waiting = {}, {"": names}
    while waiting:
        prefix, members = waiting.popitem()
        if len(members) <= limit:
            found[prefix or "all"] = members
            continue
        for bit in "01":
            waiting[prefix + bit] = [name for name in members if bits[name][len(prefix)] == bit]
    return {chunk: found[chunk] for chunk in sorted(found) if found[chunk]}


def pretraining(
    scans: Mapping[str, Scan], settings: Pretrain | None
) -> tuple[list[str], list[str]]:
    """Return the scans to pre-train on, and the scans whose label maps to synthesize from.

    Label maps of the split ``pretrain`` are used; only if there are none, those of the training
    scans. Otherwise a new training scan does not affect pre-training.

    Args:
        scans: by name.
        settings: of the stage, if configured.

    Raises:
        InputError: there are scans to pre-train on, but none that `source` can use.
    """
    source = settings.source if settings else "automatic"
    rows = [name for name, scan in scans.items() if scan.split == "pretrain"]
    images = [name for name in rows if scans[name].image]
    maps = [name for name in rows if scans[name].labels]
    maps = maps or [name for name, scan in scans.items() if scan.split == "train"]
    chosen = images if source != "synthetic" else [], maps if source != "automatic" else []
    if rows and not any(chosen):
        problem = f"'pretrain.source' is {source}, but the scans to pre-train on are label maps"
        raise InputError("configuration", problem, "set it to synthetic")
    return chosen


def atlases(config: Config, unlabelled: Sequence[str], train: Sequence[str]) -> Sequence[str]:
    """Return the atlases for scans without labels; none if an external program labels them.

    Raises:
        InputError: there are scans to label, but no way to do it is configured.
    """
    method, chosen = config.auto_labels.method, config.auto_labels.atlases
    if not unlabelled or method not in ("atlas", "precomputed"):
        return ()
    if method == "precomputed":
        problem = f"{unlabelled[0]} has no labels, and 'auto_labels.method' is precomputed"
        raise InputError(config.sheet, problem, "add its labels, or choose another method")
    if not chosen or set(chosen) - set(train):
        problem = f"{unlabelled[0]} has no labels, and 'auto_labels.atlases' is {chosen}"
        raise InputError("configuration", problem, f"allowed: {', '.join(train)}")
    return chosen
