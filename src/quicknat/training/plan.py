"""What a training is to do, checked and measured before anything expensive starts."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from quicknat.errors import InputError
from quicknat.files import sha256
from quicknat.images.labels import Protocol
from quicknat.images.training_stats import summarise
from quicknat.reruns import RUNTIME_ONLY
from quicknat.training.data import SliceDataset
from quicknat.training.optimizers import TrainingSettings
from quicknat.training.warm_start import WarmStart, obstacle

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Everything that a training needs to know; travels to its processes.

    ``tissues`` are the stacks that images are painted from, ``train`` those that hold images.
    ``swapped``: what each class becomes in a mirror, if slices are to be mirrored.
    ``initial`` are the weights that it starts from, None for random ones. ``warm_start``: None, or
    the ``sha256`` of the present model that these belong to, and how many epochs this training
    would have had without (``stage_epochs``).
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
    population: dict
    fingerprint: dict
    warm_start: dict | None
    tissues: list[str] = field(default_factory=list)
    swapped: np.ndarray | None = None

    @property
    def state_folder(self) -> Path:
        return self.output / "state"


def make_plan(
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
) -> Plan:
    """Check and measure the data, before anything expensive; see :func:`train_view`."""
    if not train and not tissues:
        raise InputError(
            "training set", f"no scans to train the {view} view on", "add rows with split=train"
        )
    names = protocol.class_names(view)
    training = SliceDataset(train, stride=settings.slice_stride, tissues=tissues)
    validating = SliceDataset(validation)
    for what, dataset in (("training", training), ("validation", validating)):
        if dataset.stacks and not len(dataset):
            raise InputError(f"{what} set", f"no {view} slice of its scans shows a structure",
            "check its label maps",
        )  # fmt: skip
    scans, training_sums = training.survey(len(names))
    _, validation_sums = validating.survey(len(names))
    values = asdict(settings)
    network = values.pop("network")
    fingerprint = {
        "setting": {key: value for key, value in values.items() if key not in RUNTIME_ONLY},
        "network": network,
        "protocol": {"classes": names},
        "training scan": training_sums,
        "validation scan": validation_sums,
        "initial": {"weights": sha256(initial) if initial else None},
    }
    fingerprint = json.loads(json.dumps(fingerprint))  # as it will be read back
    warm = None
    if warm_start and (reason := obstacle(warm_start, view, settings, fingerprint)):
        log.info("%s: no warm start, since %s; training as configured", view, reason)
    elif warm_start:
        initial, epochs = warm_start.weights, warm_start.epochs
        warm = {"sha256": sha256(initial), "stage_epochs": settings.epochs}
        settings = replace(settings, epochs=epochs)
        fingerprint["setting"]["epochs"] = epochs
        fingerprint["initial"]["warm start"] = warm["sha256"]
        log.info("%s: warm start from %s, %d epoch(s) on", view, initial, epochs)
    return Plan(
        view=view,
        protocol=protocol.name,
        classes=names,
        train=[str(path) for path in train],
        validation=[str(path) for path in validation],
        settings=settings,
        output=Path(output),
        initial=str(initial) if initial else None,
        threads=threads,
        slice_shape=training.stacks[0].shape[2:],
        counts=np.sum([scan.voxels for scan in scans], axis=0),
        population=summarise(scans, protocol.partners(view)),
        fingerprint=fingerprint,
        warm_start=warm,
        tissues=[str(path) for path in tissues],
        # a sagittal slice has but one side
        swapped=protocol.swapped if settings.mirror and view != "sagittal" else None,
    )
