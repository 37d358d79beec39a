"""All settings of a run, once: names, defaults, bounds and descriptions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from quicknat.errors import InputError
from quicknat.old_settings import current_settings
from quicknat.reruns import stable_path
from quicknat.schema import dotted, shown, unknown_key

log = logging.getLogger(__name__)

Fraction = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(multiple_of=16)]


class Settings(BaseModel):
    """A section. Unknown keys, NaN, and 256.0 for an integer are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False,
        use_attribute_docstrings=True,
    )  # fmt: skip

    @classmethod
    def read(
        cls,
        values: Mapping[str, Any],
        where: str | Path = "configuration",
        notify: Callable[[str], object] | None = log.warning,
    ) -> Self:
        """Return settings, checked and with their defaults filled in.

        Args:
            values: plain ones, such as parsed YAML or JSON; sections are mappings.
            where: what a message names.
            notify: gets a line for each setting that has an old name; None: no notices.

        Raises:
            InputError: a key is unknown or missing, or a value is not allowed; of several the
                outermost.
        """
        try:
            return cls.model_validate(current_settings(values, where, notify))
        except ValidationError as found:
            errors = found.errors(include_url=False)
        unknown = ("extra_forbidden", "invalid_key")  # before "missing": it may be the same one
        error = min(errors, key=lambda e: (len(e["loc"]), e["type"] not in unknown))
        path = error["loc"]
        if error["type"] in unknown:
            section = section_model(cls.model_fields[str(path[0])]) if path[1:] else cls
            raise InputError(where, *unknown_key(path, list((section or cls).model_fields)))
        if error["type"] == "missing":
            raise InputError(where, f"'{dotted(path)}' is missing", "add it")
        # "Input should be greater than …"
        rule = error["msg"].split(" or instance of")[0].partition(" should ")[2]
        raise InputError(where, f"'{dotted(path)}' is {shown(error['input'])}", f"must {rule}")


class Conform(Settings):
    spacing_mm: float = Field(ge=0.5, le=4)
    """Voxel side in mm."""
    size: Side = Field(ge=64, le=1024)
    """Voxels along a side of the cube; spacing_mm × size should be 256 mm."""


class Slices(Settings):
    size: Side = Field(ge=48)
    """Side of the window around the brain that the networks see, in voxels."""


class Report(Settings):
    interactive: bool = True
    """Viewer, and tables that sort; false: a page of pictures and plain tables."""


class AutoLabels(Settings):
    method: Literal["atlas", "recon-all", "synthseg", "samseg", "precomputed"] = "atlas"
    """How scans to pre-train on get labels, if they have none. atlas: labelled scans, registered,
    vote (minutes); recon-all (hours), synthseg (minutes): FreeSurfer, which must be on PATH;
    samseg: a program with an environment of its own (10 to 25 minutes); precomputed: not at all,
    the sheet must name labels for every scan."""
    atlases: list[str] = []
    """atlas: labelled scans (sub-X) that are registered to each unlabelled one and vote."""
    license: str = ""
    """recon-all, synthseg: FreeSurfer's license.txt; empty: $FS_LICENSE, or in $FREESURFER_HOME."""
    subjects_dir: str = Field("results/freesurfer", min_length=1)
    """recon-all: folder of its subjects, named sub-X or sub-X_ses-Y; relative to the folder that
    holds results/, or absolute. Finished ones are used as they are."""


class Network(Settings):
    filters: int = Field(64, ge=4, multiple_of=2)
    """Output channels of every convolution; the paper has 64."""
    squeeze_excitation: Literal["none", "cse", "sse", "scse"] = "scse"
    """Attention after each block: of channels, of pixels, or the maximum of both."""
    dropout: float = Field(0.2, ge=0, le=0.9)
    """Fraction of channels dropped."""


class SharedSettings(Settings):
    """Keys that both stages share and ``quicknat train`` takes."""

    batch_size: int = Field(4, ge=1)
    """Slices per step."""
    workers: int | None = Field(None, ge=0)
    """Processes that load slices; null: on a GPU those that the job's threads allow, else none."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    """auto: bf16 where the hardware computes in it, else fp32."""
    compile: bool = True
    """Compile the network first, which takes a minute or two and needs a C++ compiler on CPUs."""
    checkpoint_minutes: float = Field(10, ge=0)
    """Save the state to resume from this often, besides after each epoch."""
    patience: int | None = Field(None, ge=1)
    """End after so many epochs without a better validation Dice; null: never."""
    augment: bool = True
    """Random affine, contrast and noise; never flips."""
    flip: bool = False
    """Flip half of the coronal and axial slices left–right, left and right structures swapped."""
    slice_stride: int = Field(1, ge=1)
    """Train on every so many-th slice of a scan, for a quick trial."""
    dice_reduction: Literal["batch", "slice"] = "batch"
    """slice: the loss takes Dice of each slice, then their mean, as in the paper; batch: of all
    slices of a step together, which trains faster."""
    class_weight_power: Fraction = 1.0
    """Exponent of the median-frequency class weights; 1 is the paper."""
    class_weight_cap: float | None = Field(None, gt=0)
    """Upper limit of a class weight."""
    seed: int = Field(0, ge=0)
    """Seed of every random choice."""


class Training(SharedSettings):
    """Shared by both stages."""

    new_scans: Literal["retrain", "warm_start"] = "retrain"
    """What new scans to train on do to finished models. retrain: these are trained from scratch;
    warm_start: fine-tuning continues from them for a few epochs."""
    initial_model: str = ""
    """Model whose weights training starts from: a bundled one (1mm, small), or the path of a model
    folder, relative to the workflow's folder or absolute. Label table and `network` must be that
    model's. Empty: random weights."""
    warm_start_epochs: int = Field(2, ge=1)
    """warm_start: epochs of fine-tuning."""


class Stage(Settings):
    epochs: int = Field(ge=1)
    """Passes over the training slices."""
    learning_rate: float = Field(gt=0)
    """Initial learning rate."""
    optimizer: Literal["adamw", "sgd"] = "sgd"
    """sgd: the paper's steps; adamw: warm-up, then polynomial decay."""
    momentum: Fraction = 0.95
    """Of sgd."""
    weight_decay: float = Field(1e-4, ge=0)
    """L2 penalty."""
    lr_step_epochs: int = Field(10, ge=1)
    """sgd: divide the learning rate by ten every so many epochs."""
    warmup: Fraction = 0.1
    """adamw: fraction of the steps with a rising learning rate."""


class Pretrain(Stage):
    source: Literal["automatic", "synthetic", "both"] = "automatic"
    """What to pre-train on; leave the whole section out for no pre-training. automatic: the images
    of the pre-training split, with given labels or automatic ones; synthetic: images synthesized
    from that split's label maps (which need no image), or, where none has labels, from those of the
    training split; both: the two kinds, mixed."""


class TrainingSettings(SharedSettings, Stage):
    """How to train one view's network in one stage: `quicknat train --settings`."""

    network: Network = Network()


class Aggregation(Settings):
    """Weight of each view in the final probabilities, which must add up to 1, and more passes."""

    axial: Fraction = 0.4
    """Weight of the axial view."""
    coronal: Fraction = 0.4
    """Weight of the coronal view."""
    sagittal: Fraction = 0.2
    """Weight of the sagittal view."""
    flip: bool = False
    """Test-time augmentation: mean of each slice and its left–right flip; takes twice as long."""
    shift: bool = False
    """Test-time augmentation: mean of the scan and the scan moved by half a voxel along each axis;
    twice as long again. For grids coarser than the scans."""
    prior_correction: Fraction = 0.0
    """Strength of the prior correction (logit adjustment) of finished networks, since class weights
    make them overestimate small structures; 0.8 after a long training, 0 after a short one or with
    class_weight_power 1."""


class Config(Settings):
    """Scientific settings of the workflow. Cluster resources belong to a profile."""

    sheet: str
    """The cohort; a path relative to the workflow's folder, or absolute."""
    model: str = ""
    """Model to segment the cohort with: a bundled one (1mm, small), or the path of a model folder,
    relative to the workflow's folder or absolute. Nothing is trained then, and `protocol`,
    `conform`, `slices.size` and `aggregation` are the model's own. Empty: networks are trained on
    the cohort."""
    sources: str = "workflow/sources.tsv"
    """What can be downloaded; a path relative to the workflow's folder, or absolute."""
    on_bad_scan: Literal["stop", "skip"] = "stop"
    """What a scan that cannot be used does to a run, before anything is computed: stop it, or be
    left out and listed in the report. results/check.tsv has the reasons."""
    container: str = ""
    """Image that --sdm apptainer runs the jobs in, as docker://HOST/NAME:TAG or the path of a .sif
    file; the Dockerfile makes it."""
    protocol: str
    """Label table to predict: a bundled one (quicknat28, quicknat33, seed4, tissues4), or the path
    of a TSV, relative to the working directory or absolute."""
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
    """Return the settings of one stage, as ``quicknat train`` takes them.

    Raises:
        InputError: the configuration has no such stage.
    """
    if (own := getattr(config, stage)) is None:
        raise InputError("configuration", f"'{stage}' is missing", "the sheet has scans for it")
    values = config.training.model_dump() | own.model_dump() | {"network": config.network}
    return TrainingSettings(**{key: values[key] for key in TrainingSettings.model_fields})


def check_consistency(config: Config) -> None:
    """Raise an :class:`InputError` where settings, each valid by itself, contradict each other."""
    window, cube = config.slices.size, config.conform.size
    if window > cube:
        fix = f"must be at most conform.size ({cube})"
        raise InputError("configuration", f"'slices.size' is {window}", fix)
    initial = config.training.initial_model
    if initial and stable_path(initial) == "results/model":
        fix = "copy it to another folder first: this workflow writes there"
        raise InputError("configuration", f"'training.initial_model' is {initial}", fix)
    weights = config.aggregation
    total = weights.axial + weights.coronal + weights.sagittal
    if abs(total - 1) > 1e-6:
        raise InputError("configuration", f"'aggregation' adds up to {total:g}", "must be 1")


def section_model(field: FieldInfo) -> type[Settings] | None:
    """Return the model of a section; None for a single setting."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, Settings)), None)
