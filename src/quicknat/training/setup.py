"""Prepare a training: survey its data, and decide about a warm start."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from quicknat.config import TrainingSettings, current_settings
from quicknat.errors import InputError
from quicknat.files import sha256
from quicknat.images.labels import Protocol
from quicknat.images.training_stats import summarise
from quicknat.reruns import compared_settings
from quicknat.training.data import SliceSet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WarmStart:
    """A view's weights in a model folder (``{view}.safetensors``), and the epochs from there.

    The folder's ``bundle.json`` records their training. It may not exist yet.
    """

    weights: Path
    epochs: int


@dataclass(frozen=True)
class TrainingSetup:
    """Everything that a training needs.

    ``train`` are stacks with images, ``tissues`` stacks from which images are synthesized.
    ``boxes``: of each scan's structures, see :meth:`SliceSet.survey`.
    ``swapped``: the class of each class after a left–right flip, if slices are flipped.
    ``initial``: file of the initial weights, None for random ones. ``warm_start``: None, or the
    ``sha256`` of the existing weights, and the epochs without a warm start (``stage_epochs``).
    """

    view: str
    protocol: str
    classes: list[str]
    train: list[str]
    validation: list[str]
    settings: TrainingSettings
    output: Path
    initial: str | None
    threads: int
    slice_shape: tuple[int, int]
    counts: np.ndarray
    training_stats: dict
    fingerprint: dict
    warm_start: dict | None
    tissues: list[str] = field(default_factory=list)
    swapped: np.ndarray | None = None
    boxes: np.ndarray | None = None

    @property
    def state_folder(self) -> Path:
        return self.output / "state"


def prepare_training(
    view: str,
    protocol: Protocol,
    train: Sequence[str | Path],
    validation: Sequence[str | Path],
    settings: TrainingSettings,
    output: str | Path,
    initial: str | Path | None,
    threads: int,
    warm_start: WarmStart | None = None,
    tissues: Sequence[str | Path] = (),
) -> TrainingSetup:
    """Return the setup of a training; for arguments and errors see :func:`train_view`."""
    if not train and not tissues:
        raise InputError(
            "training set", f"no scans to train the {view} view on", "add rows with split=train"
        )
    names = protocol.class_names(view)
    training = SliceSet(train, tissues, settings.slice_stride)
    validating = SliceSet(validation)
    for what, dataset in (("training", training), ("validation", validating)):
        if dataset.stacks and not len(dataset):
            raise InputError(f"{what} set", f"no {view} slice of its scans contains a structure",
            "check its label maps",
        )  # fmt: skip
    scans, training_sums, boxes = training.survey(len(names))
    counts = np.sum([scan.voxels for scan in scans], axis=0)
    if absent := [name for name, count in zip(names, counts, strict=True) if not count]:
        log.warning("%s: never found, as no training scan has them: %s", view, ", ".join(absent))
    validation_sums = validating.survey(len(names))[1]
    compared = compared_settings(settings.model_dump())
    fingerprint = {
        "network": compared.pop("network"),
        "setting": compared,
        "protocol": {"classes": names},
        "training scan": training_sums,
        "validation scan": validation_sums,
        "initial": {"weights": sha256(initial) if initial else None},
    }
    fingerprint = json.loads(json.dumps(fingerprint))  # as it will be when read back
    warm = None
    if warm_start and (reason := incompatibility(warm_start, view, fingerprint)):
        log.info("%s: no warm start, because %s; training as configured", view, reason)
    elif warm_start:
        initial, epochs = warm_start.weights, warm_start.epochs
        warm = {"sha256": sha256(initial), "stage_epochs": settings.epochs}
        settings = settings.model_copy(update={"epochs": epochs})
        fingerprint["setting"]["epochs"] = epochs
        fingerprint["initial"]["warm start"] = warm["sha256"]
        log.info("%s: warm start from %s, for %d epoch(s)", view, initial, epochs)
    return TrainingSetup(
        view=view,
        protocol=protocol.name,
        classes=names,
        train=[str(path) for path in train],
        validation=[str(path) for path in validation],
        settings=settings,
        output=Path(output),
        initial=str(initial) if initial else None,
        threads=threads,
        boxes=boxes,
        slice_shape=training.stacks[0].shape[2:],
        counts=counts,
        training_stats=summarise(scans, protocol.partners(view)),
        fingerprint=fingerprint,
        warm_start=warm,
        tissues=[str(path) for path in tissues],
        # sagittal slices show only one side
        swapped=protocol.swapped if settings.flip and view != "sagittal" else None,
    )


def incompatibility(start: WarmStart, view: str, fingerprint: Mapping[str, Any]) -> str:
    """Return why a training cannot start from these weights; "" if it can.

    It can if only training or validation scans were added since these weights were trained; after
    any other change, they would carry outdated information.

    Args:
        fingerprint: of a training without a warm start, see :func:`prepare_training`.
    """
    folder = start.weights.parent
    if not start.weights.exists() or not (folder / "bundle.json").exists():
        return f"{folder} holds no finished model"
    try:
        entry = json.loads((folder / "bundle.json").read_bytes())["views"][view]
        if entry["sha256"] != sha256(start.weights):
            return f"{start.weights} has changed since the model was made"
        where = folder / "bundle.json"
        then = compared_settings(current_settings(entry["training"], where))
        network = {"slices": 1} | compared_settings(current_settings(entry["network"], where))
        data = {part: entry["data"][part] for part in ("training scan", "validation scan")}
        epochs = (entry["warm_start"] or {}).get("stage_epochs", then["epochs"])
        initial, classes = entry["initial_sha256"], entry["classes"]
        network.pop("n_classes")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{folder / 'bundle.json'} lacks information about the model ({error!r})"
    except InputError as error:
        return error.problem
    if classes != fingerprint["protocol"]["classes"]:
        return "its classes differ"
    if network != fingerprint["network"]:
        return "the network has changed"
    now, then = fingerprint["setting"], then | {"epochs": epochs}
    for key in sorted(now.keys() | then.keys()):
        if now.get(key) != then.get(key):
            return f"setting {key} was {then.get(key)}, is {now.get(key)}"
    if initial != fingerprint["initial"]["weights"]:
        return "the initial weights have changed"
    for name, checksum in data["training scan"].items():
        if fingerprint["training scan"].get(name) != checksum:
            return f"training scan {name} has changed or was removed"
    if all(fingerprint[part].keys() <= data[part].keys() for part in data):
        return "no scan is new"
    return ""
