"""A trained model as a folder: three networks, the label table, and what it takes to use them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

import quicknat
from quicknat.errors import InputError
from quicknat.files import sha256, written_whole
from quicknat.images.labels import Protocol
from quicknat.images.slices import VIEWS
from quicknat.model.bundle_format import AGAIN, FORMAT, read_description, require_files
from quicknat.model.losses import prior_offsets
from quicknat.model.network import NetworkSettings, QuickNAT, in_bfloat16
from quicknat.model.weights import load_weights
from quicknat.old_settings import current_settings
from quicknat.reruns import GRID_FORMAT

CARD = """# QuickNAT model

Whole-brain segmentation of T1-weighted MRI, protocol `{protocol}` ({structures} structures).

- Networks: coronal, axial, sagittal; {filters} filters, squeeze-and-excitation {kind};
  probabilities weighted {weights}{passes}.
- Grid: RAS+, {spacing} mm, slices of {size} x {size}.
- Trained on {n_train} scans, {chosen}.
- Use: `quicknat segment T1w.nii.gz --model THIS_FOLDER --output out/`

Not a medical device. The labels that it was trained on decide what it can know: read where they
came from before you trust a volume.

Method: Roy et al., QuickNAT, NeuroImage 186 (2019) 713-727.
"""


@dataclass(frozen=True)
class Bundle:
    """A model ready to use: networks in evaluation mode by view, and their settings.

    ``weights``: share of each view. ``mirror``: each slice is seen from both sides. ``shift``: the
    scan is seen a second time, moved by half a voxel along each axis.
    """

    networks: dict[str, QuickNAT]
    weights: dict[str, float]
    protocol: Protocol
    spacing_mm: float
    conform_size: int
    slice_size: int
    identity: str
    population: dict
    mirror: bool = False
    shift: bool = False


def write_bundle(
    models: dict[str, str | Path],
    protocol: Protocol,
    weights: dict[str, float],
    spacing_mm: float,
    conform_size: int,
    slice_size: int,
    output: str | Path,
    mirror: bool = False,
    shift: bool = False,
    prior_correction: float = 0.0,
) -> None:
    """Gather three trained views into one folder.

    Args:
        models: folder of each view's trained model.
        weights: share of each view in the aggregate; must add up to 1.
        spacing_mm, conform_size, slice_size: the grid that the views were trained on.
        mirror: segment with the mean of each slice and its mirror image.
        shift: segment with the mean of the scan and the scan moved by half a voxel.
        prior_correction: strength of the prior correction of the logits, see
            :func:`quicknat.model.losses.prior_offsets`.
        output: folder to write to; its ``bundle.json`` comes last.

    Raises:
        InputError: views trained for another protocol or slice size.
    """
    output = Path(output)
    total = sum(weights.get(view, 0) for view in VIEWS)
    if set(weights) != set(VIEWS) or abs(total - 1) > 1e-6:
        raise InputError(
            "aggregation",
            f"the weights of {', '.join(VIEWS)} add up to {total:g}, not 1",
            "change them",
        )
    views = {}
    for view in VIEWS:
        folder = Path(models[view])
        described = json.loads((folder / "model.json").read_text())
        for part in ("network", "training"):
            described[part] = current_settings(described[part], folder / "model.json")
        wanted = (view, protocol.name, [slice_size, slice_size])
        if described.get("grid_format") != GRID_FORMAT:
            raise InputError(folder, "was made by an earlier version", "train it again")
        found = (described["view"], described["protocol"], described["slice_shape"])
        if found != wanted:
            raise InputError(folder, f"is a model for {found}, not for {wanted}", "train it again")
        with written_whole(output / f"{view}.safetensors") as (temporary,):
            shutil.copyfile(folder / "model.safetensors", temporary)
        if view == "coronal":  # it sees the brain whole, and both sides
            population = described["population"]
        views[view] = {
            "weights": f"{view}.safetensors",
            "sha256": sha256(folder / "model.safetensors"),
            **{key: described[key] for key in (
                "network", "training", "best_epoch", "best_val_dice", "training_scans",
                "validation_scans", "classes", "class_weights", "initial_sha256", "versions",
            )},
            # earlier versions did not write these; without, no warm start is made from the model
            **{key: described.get(key) for key in (
                "data", "warm_start", "device_name", "precision"
            )},
        }  # fmt: skip
    with written_whole(output / "labels.tsv") as (temporary,):
        protocol.write(temporary)
    one = views["coronal"]
    dice = " / ".join(
        f"{v['best_val_dice']:.3f}" if v["best_val_dice"] is not None else "n/a"
        for v in views.values()
    )
    with written_whole(output / "README.md") as (temporary,):
        temporary.write_text(
            CARD.format(
                protocol=protocol.name,
                structures=len(protocol.names) - 1,
                filters=one["network"]["filters"],
                kind=one["network"]["squeeze_excitation"],
                weights=" + ".join(f"{weights[view]:g} {view}" for view in VIEWS),
                passes="; mean of a slice and its mirror image" * mirror
                + "; mean of a scan and itself moved by half a voxel" * shift
                + f"; {prior_correction:.0%} of the loss's class weights taken back"
                * (prior_correction > 0),
                spacing=f"{spacing_mm:g}",
                size=slice_size,
                n_train=len(one["training_scans"]),
                chosen=f"best epoch chosen on {n_val} validation scans with mean Dice {dice} "
                "(coronal / axial / sagittal)"
                if (n_val := len(one["validation_scans"]))
                else "the last epoch kept, without validation scans",
            )
        )
    described = {
        "format": FORMAT,
        "protocol": protocol.name,
        "labels": {"file": "labels.tsv", "sha256": sha256(output / "labels.tsv")},
        "conform": {"spacing_mm": spacing_mm, "size": conform_size},
        "slices": {"size": slice_size},
        "aggregation": {view: weights[view] for view in VIEWS},
        "mirror": mirror,
        "shift": shift,
        "prior_correction": prior_correction,
        "views": views,
        "population": population,
        "quicknat": quicknat.__version__,
    }
    with written_whole(output / "bundle.json") as (temporary,):
        temporary.write_text(json.dumps(described, indent=2) + "\n")


def load_bundle(
    folder: str | Path, device: str | torch.device = "cpu", bfloat16: bool = False
) -> Bundle:
    """Load a model folder, after checking every file against its recorded SHA-256.

    Args:
        folder: as :func:`write_bundle` made it.
        device: where the networks go.
        bfloat16: compute in it, see :func:`quicknat.model.network.in_bfloat16`.

    Raises:
        InputError: not a model folder, a changed file, or weights of another view or label
            table.
    """
    folder = Path(folder)
    described = read_description(folder)
    require_files(folder, described)
    protocol = Protocol.read(folder / described["labels"]["file"])
    networks = {}
    for view, entry in described["views"].items():
        settings = dict(entry["network"])
        classes = settings.pop("n_classes")
        if classes != protocol.n_classes(view):
            raise InputError(
                folder, f"the {view} network has {classes} classes, the label table "
                f"{protocol.n_classes(view)}", AGAIN,
            )  # fmt: skip
        with torch.device("meta"):  # takes no memory before the file has shown that it fits
            network = QuickNAT(classes, NetworkSettings(**settings))
        load_weights(network, folder / entry["weights"], view, protocol.class_names(view))
        offsets = prior_offsets(entry["class_weights"], described["prior_correction"])
        network.classifier.bias.data += offsets  # type: ignore[union-attr]  # it has one
        if bfloat16:
            network = in_bfloat16(network)
        # torch takes that for modules too, but says so in no type
        networks[view] = network.eval().to(  # type: ignore[call-overload]
            device, memory_format=torch.channels_last
        )
    return Bundle(
        networks=networks,
        weights=described["aggregation"],
        protocol=Protocol(described["protocol"], protocol.table),
        spacing_mm=described["conform"]["spacing_mm"],
        conform_size=described["conform"]["size"],
        slice_size=described["slices"]["size"],
        identity=sha256(folder / "bundle.json"),
        population=described["population"],
        mirror=described["mirror"],
        shift=described["shift"],
    )
