"""A trained model as a folder: three networks, the label table, and what it takes to use them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import quicknat
from quicknat.config import Aggregation, current_settings
from quicknat.errors import InputError
from quicknat.files import sha256, written_whole
from quicknat.images.labels import Protocol
from quicknat.images.slices import VIEWS
from quicknat.model.card import ModelCard, filled, model_card
from quicknat.model.description import Description
from quicknat.package_data import MODELS
from quicknat.reruns import GRID_FORMAT
from quicknat.validation import checked

if TYPE_CHECKING:  # the workflow reads descriptions of models, and shall not wait for torch
    import torch

    from quicknat.model.network import QuickNAT

FORMAT = 6  # with 5 and before, conforming moved labels, see quicknat.reruns.GRID_FORMAT
BUNDLE_FILES = (
    *(f"{view}.safetensors" for view in VIEWS),
    "labels.tsv",
    "README.md",
    "bundle.json",
)
AGAIN = "copy or bundle the model again"


@dataclass(frozen=True)
class Bundle:
    """A model ready to use: networks in evaluation mode by view, and their settings.

    ``weights``: fraction of each view. Test-time augmentation: ``flip``, left–right flip of each
    slice; ``shift``, half-voxel shift of the scan along each axis. ``training_stats``: of
    :func:`quicknat.images.training_stats.summarise`. ``winograd``: of :func:`with_winograd`.
    ``windowed``: trained on slices cut to the brain, so that segmentation may cut them, too.
    """

    networks: dict[str, QuickNAT]
    weights: dict[str, float]
    protocol: Protocol
    spacing_mm: float
    conform_size: int
    slice_size: int
    identity: str
    training_stats: dict
    flip: bool = False
    shift: bool = False
    winograd: bool = False
    windowed: bool = False
    card: ModelCard | None = None

    @property
    def aggregation(self) -> dict[str, Any]:
        """Arguments of :func:`quicknat.model.views.aggregate`, as plain numbers."""
        return {
            "weights": self.weights,
            "sagittal": self.protocol.sagittal.tolist(),
            "flipped": self.protocol.swapped.tolist() if self.flip else None,
        }


def write_bundle(
    models: Mapping[str, str | Path],
    protocol: Protocol,
    aggregation: Aggregation,
    spacing_mm: float,
    conform_size: int,
    slice_size: int,
    output: str | Path,
) -> None:
    """Gather three trained views into one folder.

    Args:
        models: folder of each view's trained model.
        aggregation: how to put the views together.
        spacing_mm, conform_size, slice_size: the grid that the views were trained on.
        output: folder to write to; its ``bundle.json`` comes last.

    Raises:
        InputError: views trained for another protocol or slice size.
    """
    output = Path(output)
    stats, views = {}, {}
    for view in VIEWS:
        folder = Path(models[view])
        described = json.loads((folder / "model.json").read_bytes())
        for part in ("network", "training"):
            described[part] = current_settings(described[part], folder / "model.json")
        if described.get("grid_format") != GRID_FORMAT:
            raise InputError(folder, "was made by an earlier version", "train it again")
        wanted = (view, protocol.name, [slice_size] * 2)
        own = tuple(described[key] for key in ("view", "protocol", "slice_shape"))
        if own != wanted:
            raise InputError(folder, f"is a model for {own}, not for {wanted}", "train it again")
        with written_whole(output / f"{view}.safetensors") as (temporary,):
            shutil.copyfile(folder / "model.safetensors", temporary)
        digest = sha256(folder / "model.safetensors")
        stats[view] = described.pop("population")
        views[view] = {"weights": f"{view}.safetensors", "sha256": digest} | described
    with written_whole(output / "labels.tsv", output / "README.md") as (labels, readme):
        protocol.write(labels)
        description = {
            "format": FORMAT,
            "protocol": protocol.name,
            "labels": {"file": "labels.tsv", "sha256": sha256(labels)},
            "conform": {"spacing_mm": spacing_mm, "size": conform_size},
            "slices": {"size": slice_size},
            "aggregation": {view: getattr(aggregation, view) for view in VIEWS},
            "mirror": aggregation.flip,
            "shift": aggregation.shift,
            "prior_correction": aggregation.prior_correction,
            "views": views,
            "population": stats["coronal"],
            "quicknat": quicknat.__version__,
        }
        structures = len(protocol.names) - 1
        card = filled("model.md.j2", **description, structures=structures, coronal=views["coronal"])
        readme.write_text(card, encoding="utf-8")
    with written_whole(output / "bundle.json") as (temporary,):
        temporary.write_text(json.dumps(description, indent=2) + "\n", "utf-8")


def read_description(folder: str | Path) -> dict:
    """Return ``bundle.json`` of a model folder, checked; settings have this version's names.

    Raises:
        InputError: not a model folder, one of another version, or an impossible value.
    """
    folder = Path(folder)
    if not folder.is_dir():
        fix = f"check the path; bundled models: {', '.join(MODELS)}"
        raise InputError(folder, "no such model folder", fix)
    try:
        described = json.loads((folder / "bundle.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        problem = f"is not a model folder ({error})"
        raise InputError(folder, problem, "name the folder that 'quicknat bundle' wrote") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        found = described.get("format") if isinstance(described, dict) else None
        problem = f"has model format {found!s:.20}, not {FORMAT}"
        fix = "bundle it again, with this version of quicknat"
        fix = "train it again: earlier versions moved labels by half a voxel" if found == 5 else fix
        raise InputError(folder, problem, fix)
    views = described.get("views")
    if not isinstance(views, dict) or set(views) != set(VIEWS):
        named = ", ".join(views) if isinstance(views, dict) else "none"
        raise InputError(folder, f"has the views {named}, not all three", "bundle it again")
    for entry in views.values():
        for part in ("network", "training"):
            if isinstance(entry, dict) and isinstance(entry.get(part), dict):
                entry[part] = current_settings(entry[part], folder / "bundle.json")
    checked(Description, described, folder / "bundle.json")
    classes = {view: entry["network"]["n_classes"] for view, entry in views.items()}
    stats = described["population"]
    lists = [*stats["voxels"], *stats["asymmetry"], stats["intensity"]]
    weighted = {view: len(entry["class_weights"]) for view, entry in views.items()}
    if weighted != classes or {len(values) for values in lists} != {classes["coronal"]}:
        wrong = "class_weights" if weighted != classes else "population"
        problem = f"'{wrong}' has different classes than the networks"
        raise InputError(folder / "bundle.json", problem, "bundle it again")
    return described


def require_files(folder: Path, described: Mapping[str, Any], also: Iterable[str] = ()) -> None:
    """Check every file that a description names against its recorded SHA-256.

    Raises :class:`InputError`: a file has changed, or is missing; so must none of `also` be.
    """
    recorded = [(described["labels"]["file"], described["labels"]["sha256"])]
    recorded += [(entry["weights"], entry["sha256"]) for entry in described["views"].values()]
    for name in (*(name for name, _ in recorded), *also):
        if Path(name).name != name or not (folder / name).is_file():
            raise InputError(folder, f"lacks its file '{name}'", AGAIN)
    for name, digest in recorded:
        if sha256(folder / name) != digest:
            raise InputError(folder / name, "has changed since the model was made", AGAIN)


def load_bundle(
    folder: str | Path, device: str | torch.device = "cpu", bfloat16: bool = False
) -> Bundle:
    """Load a model folder, after checking every file against its recorded SHA-256.

    The prior correction becomes part of each network: it is added to the last layer's biases.
    With `bfloat16` networks compute in it, see :func:`quicknat.model.network.in_bfloat16`.

    Raises:
        InputError: no model folder, a changed file, weights of another view or label table.
    """
    import torch

    from quicknat.model.losses import prior_offsets
    from quicknat.model.network import NetworkSettings, QuickNAT, in_bfloat16
    from quicknat.model.weights import load_weights

    folder = Path(folder)
    described = read_description(folder)
    require_files(folder, described)
    protocol = Protocol.read(folder / described["labels"]["file"])
    networks = {}
    for view, entry in described["views"].items():
        settings = dict(entry["network"])
        classes, expected = settings.pop("n_classes"), protocol.n_classes(view)
        if classes != expected:
            problem = f"the {view} network has {classes} classes, the label table {expected}"
            raise InputError(folder, problem, AGAIN)
        with torch.device("meta"):  # takes no memory before the file has shown that it fits
            network = QuickNAT(classes, NetworkSettings(**settings))
        load_weights(network, folder / entry["weights"], view, protocol.class_names(view))
        offsets = prior_offsets(entry["class_weights"], described["prior_correction"])
        network.get_parameter("classifier.bias").data += offsets
        if bfloat16:
            network = in_bfloat16(network)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not typed
        networks[view] = network.eval().to(device)
    return Bundle(
        networks=networks,
        weights=described["aggregation"],
        protocol=Protocol(described["protocol"], protocol.table),
        spacing_mm=described["conform"]["spacing_mm"],
        conform_size=described["conform"]["size"],
        slice_size=described["slices"]["size"],
        identity=(identity := sha256(folder / "bundle.json")),
        card=model_card(described, identity),
        training_stats=described["population"],
        flip=described["mirror"],
        shift=described["shift"],
        windowed=all("window" in view for view in described["views"].values()),
    )


def with_winograd(bundle: Bundle) -> Bundle:
    """Return a float32 bundle that is faster on CPUs, see :mod:`quicknat.model.winograd`."""
    from quicknat.model.winograd import with_fast_blocks

    networks = {view: with_fast_blocks(network) for view, network in bundle.networks.items()}
    return replace(bundle, networks=networks, winograd=True)
