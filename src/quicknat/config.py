"""All settings of a run: names (also earlier ones), defaults, bounds and descriptions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from quicknat.errors import InputError
from quicknat.reruns import stable_path
from quicknat.validation import Checked, checked, dotted, shown

log = logging.getLogger(__name__)

Fraction = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(multiple_of=16)]


class Settings(Checked):
    """A section; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def read(
        cls,
        values: Mapping[str, Any],
        where: str | Path = "configuration",
        notify: Callable[[str], object] | None = log.warning,
    ) -> Self:
        """Return validated settings with defaults filled in.

        Args:
            values: parsed YAML or JSON; sections are mappings.
            where: origin of the settings, named in messages.
            notify: called with a notice for each setting with an old name; None: no notices.

        Raises:
            InputError: a key is unknown or missing, or a value is not allowed; the outermost
                error is reported.
        """
        if not isinstance(values, Mapping):  # an empty YAML file, for example
            raise InputError(where, "is not a mapping of settings", "write 'key: value' lines")
        return checked(cls, current_settings(values, where, notify), where)


class Conform(Settings):
    spacing_mm: float = Field(ge=0.5, le=4)
    """Voxel size in mm."""
    size: Side = Field(ge=64, le=1024)
    """Side of the cube in voxels; spacing_mm × size should be 256 mm."""


class Slices(Settings):
    size: Side = Field(ge=48)
    """Side of the largest window around the brain that the networks see, in voxels."""


class Report(Settings):
    interactive: bool = True
    """true: viewer and sortable tables; false: pictures and plain tables."""


class AutoLabels(Settings):
    method: Literal["atlas", "recon-all", "synthseg", "samseg", "precomputed"] = "atlas"
    """How to label pre-training scans that have no labels. atlas: multi-atlas registration and
    majority vote (minutes); recon-all (hours), synthseg (minutes): by FreeSurfer, which must be on
    PATH; samseg: in its own environment (10 to 25 minutes); precomputed: do not label, the
    sheet must list labels for every scan."""
    atlases: list[str] = Field([])
    """atlas: labelled training scans (sub-X) to register to each unlabelled scan."""
    license: str = ""
    """recon-all, synthseg: FreeSurfer's license.txt; empty: $FS_LICENSE or $FREESURFER_HOME."""
    subjects_dir: str = Field("results/freesurfer", min_length=1)
    """recon-all: its SUBJECTS_DIR, with subjects named sub-X or sub-X_ses-Y; relative to the folder
    that holds results/, or absolute. Finished subjects are reused."""


class Network(Settings):
    filters: int = Field(64, ge=4, multiple_of=2)
    """Output channels of every convolution; 64 in the paper."""
    squeeze_excitation: Literal["none", "cse", "sse", "scse"] = "scse"
    """Squeeze-and-excitation after each block: cse channels, sse pixels, scse both (maximum)."""
    dropout: float = Field(0.2, ge=0, le=0.9)
    """Fraction of channels dropped."""
    slices: Literal[1, 3, 5, 7] = 1
    """Input slices of the network, with the one to segment in the middle; 1 in the paper."""


class SharedSettings(Settings):
    """Settings that both stages share and ``quicknat train`` accepts."""

    batch_size: int = Field(4, ge=1)
    """Slices per step."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    """auto: bf16 if the hardware supports it, else fp32."""
    compile: bool = True
    """Compile the network at full resolution; on CPUs this needs a C++ compiler. It takes half a
    minute the first time, seconds afterwards."""
    checkpoint_minutes: float = Field(10, ge=0)
    """Minutes between checkpoints, in addition to one after each epoch."""
    patience: int | None = Field(None, ge=1)
    """Early stopping: epochs to wait for a better validation Dice; null: never stop early."""
    augment: bool = True
    """Augmentation: random shape, contrast, bias field, blur and noise; never flips."""
    flip: bool = False
    """Flip half of the coronal and axial slices left–right at random, and swap their labels."""
    slice_stride: int = Field(1, ge=1)
    """Train on every n-th slice of a scan, for a quick trial."""
    dice_reduction: Literal["batch", "slice"] = "batch"
    """Dice loss. slice: per slice, then the mean, as in the paper; batch: over all slices of a step
    together, which trains faster."""
    class_weight_power: Fraction = 1.0
    """Exponent of the median-frequency class weights; 1 in the paper."""
    class_weight_cap: float | None = Field(None, gt=0)
    """Upper limit of a class weight."""
    seed: int = Field(0, ge=0)
    """Random seed."""


class Training(SharedSettings):
    """Settings that both stages share."""

    new_scans: Literal["retrain", "warm_start"] = "retrain"
    """What to do with existing models when training scans are added. retrain: train from scratch;
    warm_start: continue fine-tuning for a few epochs."""
    initial_model: str = ""
    """Model that supplies the initial weights: a bundled one (1mm, small), or the path of a model
    folder, relative to the workflow's folder or absolute. `network` must match it; structures that
    it lacks start as background. Empty: random weights."""
    warm_start_epochs: int = Field(2, ge=1)
    """warm_start: epochs of fine-tuning."""


class Stage(Settings):
    epochs: int = Field(ge=1)
    """Passes over the training slices."""
    max_minutes: float | None = Field(None, gt=0)
    """Time limit of training, including validation; the learning rate schedule adapts to it, and
    counting continues after resuming. Results then depend on machine speed. null: no limit."""
    learning_rate: float = Field(gt=0)
    """Initial learning rate."""
    optimizer: Literal["adamw", "sgd"] = "sgd"
    """sgd: step decay as in the paper; adamw: warm-up, then polynomial decay."""
    momentum: Fraction = 0.95
    """sgd: momentum."""
    weight_decay: float = Field(1e-4, ge=0)
    """L2 penalty."""
    lr_step_epochs: int = Field(10, ge=1)
    """sgd: epochs between divisions of the learning rate by ten."""
    warmup: Fraction = 0.1
    """adamw: fraction of the steps used for warm-up."""


class Pretrain(Stage):
    source: Literal["automatic", "synthetic", "both"] = "automatic"
    """What to pre-train on; omit the whole section to skip pre-training. automatic: images of the
    pre-training split, with given or automatic labels; synthetic: images synthesized from that
    split's label maps (which need no image), or, if it has none, from those of the training split;
    both: a mix."""


class TrainingSettings(SharedSettings, Stage):
    """How to train one view's network in one stage: `quicknat train --settings`."""

    network: Network = Network()


class Aggregation(Settings):
    """Weights of the views (which must add up to 1), test-time augmentation, prior correction.

    Also the argument of `quicknat bundle --aggregation`.
    """

    axial: Fraction = 0.4
    """Weight of the axial view."""
    coronal: Fraction = 0.4
    """Weight of the coronal view."""
    sagittal: Fraction = 0.2
    """Weight of the sagittal view."""
    flip: bool = False
    """Test-time augmentation: average each slice with its left–right flip; doubles the time."""
    shift: bool = False
    """Test-time augmentation: average the scan with the scan shifted by half a voxel along each
    axis; doubles the time again. For grids coarser than the scans."""
    prior_correction: Fraction = 0.0
    """Strength of the prior correction (logit adjustment) at segmentation, which counters the
    overestimation of small structures due to class weights; 0.8 after long training, 0 after short
    training or with class_weight_power 1."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        weights = {"axial": self.axial, "coronal": self.coronal, "sagittal": self.sagittal}
        if abs(sum(weights.values()) - 1) > 1e-6:
            listed = ", ".join(f"{view} {weight:g}" for view, weight in weights.items())
            raise ValueError(f"weights should add up to 1 ({listed})")
        return self


class Config(Settings):
    """Scientific settings of the workflow. Cluster resources belong to a profile."""

    sheet: str
    """The cohort's sheet; a path relative to the workflow's folder, or absolute."""
    model: str = ""
    """Model to segment the cohort with: a bundled one (1mm, small), or the path of a model folder,
    relative to the workflow's folder or absolute. Nothing is then trained, and `protocol`,
    `conform`, `slices.size` and `aggregation` are the model's. Empty: train on the cohort."""
    sources: str = "workflow/sources.tsv"
    """The sources table; a path relative to the workflow's folder, or absolute."""
    on_bad_scan: Literal["stop", "skip"] = "stop"
    """What to do with unusable scans, before anything is computed. stop: stop the run; skip: leave
    them out and list them in the report. results/check.tsv has the reasons."""
    scans_per_job: int | None = Field(None, ge=1)
    """Maximum number of `segment` scans per job. 1: each scan has its own job, and a page with
    pictures in the report; null: 1 for up to 100 such scans, 100 for more."""
    container: str = ""
    """Container image for --sdm apptainer: docker://HOST/NAME:TAG or the path of a .sif file, built
    with the Dockerfile."""
    protocol: str
    """Label table of the structures to predict: a bundled one (quicknat28, quicknat33, seed4,
    tissues4), or the path of a TSV, relative to the working directory or absolute."""
    conform: Conform
    slices: Slices
    report: Report = Report()
    auto_labels: AutoLabels = AutoLabels()
    network: Network = Network()
    training: Training = Training()
    pretrain: Pretrain | None = Field(None, exclude_if=lambda stage: stage is None)
    finetune: Stage
    aggregation: Aggregation = Aggregation()


def stage_settings(config: Config, stage: Literal["pretrain", "finetune"]) -> TrainingSettings:
    """Return the settings of one stage for ``quicknat train``.

    Raises:
        InputError: the configuration has no such stage.
    """
    if (own := getattr(config, stage)) is None:
        raise InputError("configuration", f"'{stage}' is missing", "the sheet has scans for it")
    values = config.training.model_dump() | own.model_dump() | {"network": config.network}
    return TrainingSettings(**{key: values[key] for key in TrainingSettings.model_fields})


def check_consistency(config: Config) -> None:
    """Raise an :class:`InputError` if individually valid settings contradict each other."""
    window, cube = config.slices.size, config.conform.size
    if window > cube:
        fix = f"must be at most conform.size ({cube})"
        raise InputError("configuration", f"'slices.size' is {window}", fix)
    initial = config.training.initial_model
    if initial and stable_path(initial) == "results/model":
        fix = "copy it to another folder first: this workflow overwrites it"
        raise InputError("configuration", f"'training.initial_model' is {initial}", fix)


# of earlier versions, in configurations and model files: names, values
RENAMED = {"dice_over": "dice_reduction", "mirror": "flip", "step_epochs": "lr_step_epochs"}
VALUES = {
    "squeeze_excitation": {"NONE": "none", "CSE": "cse", "SSE": "sse", "CSSE": "scse"},
}
# removed settings: the value that equals current behaviour, and what to do about others
GONE = {
    "accumulate": (1, "remove it, and raise 'batch_size' instead"),
    "devices": (1, "remove it: each view uses one GPU, and 'batch_size' is the slices of a step"),
    "kernel": (5, "remove it: the large convolutions are always 5 × 5"),
    "keep_slices": (None, "remove it: slices are always kept"),
    "workers": (None, "remove it: batches are made on the device that trains"),
}
FREEZE = "copy results/model to another folder, and set 'model' to it"


def current_settings(
    values: Mapping[str, Any],
    where: str | Path,
    notify: Callable[[str], object] | None = None,
    section: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return settings of any version, including those in sections, under their current names.

    Args:
        values: settings under old or new names; unknown ones are kept.
        where: origin of the settings, named in messages.
        notify: called with a notice for each old or removed name; None: no notices.
        section: the section of these settings.

    Raises:
        InputError: a setting asks for a removed feature, or is given under both names.
    """
    found: dict[str, Any] = {}
    notice = notify or (lambda line: None)
    for key, value in values.items():
        path = dotted([*section, key])
        if key in GONE:
            harmless, fix = GONE[key]
            if harmless is not None and value != harmless:
                raise InputError(where, f"'{path}' is {shown(value)}, but was removed", fix)
            notice(f"{where}: '{path}' is no longer a setting; remove it")
            continue
        if key == "new_scans" and value == "freeze":
            raise InputError(where, f"'{path}' is freeze, which was removed", FREEZE)
        name = RENAMED.get(key, key)
        if name != key:
            if name in values:
                raise InputError(where, f"'{path}' is the old name of '{name}'", "remove it")
            notice(f"{where}: '{path}' is now '{dotted([*section, name])}'; please rename it")
        if isinstance(value, str) and value in VALUES.get(name, {}):
            notice(f"{where}: '{path}: {value}' is now '{VALUES[name][value]}'; please rename it")
            value = VALUES[name][value]
        if isinstance(value, dict) and not section:
            value = current_settings(value, where, notify, (key,))
        found[name] = value
    return found
