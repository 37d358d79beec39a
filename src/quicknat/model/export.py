"""Export a model as a MONAI bundle (configuration, weights, code), and its networks as ONNX."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import quicknat
from quicknat.errors import InputError
from quicknat.files import folder_written_whole
from quicknat.model import network, views
from quicknat.model.bundle import Bundle, load_bundle
from quicknat.model.card import filled, model_card
from quicknat.model.views import ThreeViews

log = logging.getLogger(__name__)

OPSET = 18
SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"


def volumetric(bundle: Bundle) -> ThreeViews:
    """Return the bundle's three networks as one, in evaluation mode."""
    settings = {view: asdict(part.settings) for view, part in bundle.networks.items()}
    whole = ThreeViews(settings, **bundle.aggregation)
    for view, part in bundle.networks.items():
        whole.views[view].load_state_dict(part.state_dict())
    return whole.eval()


def metadata(bundle: Bundle, described: dict) -> dict:
    """Return the bundle's ``metadata.json``; keys as MONAI's schema wants them."""
    names, size = bundle.protocol.names, bundle.slice_size
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
        "num_channels": 1,
        "spatial_shape": [size, size, size],
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": False,
        "channel_def": {"0": "T1w, RAS+ axes"},
    }
    prediction = image | {
        "type": "probabilities",
        "format": "labels",
        "num_channels": len(names),
        "channel_def": {str(index): name for index, name in enumerate(names)},
    }
    views, card = described["views"], model_card(described, bundle.identity)
    return {
        "schema": SCHEMA,
        "version": quicknat.__version__,
        "changelog": {quicknat.__version__: f"exported from model {bundle.identity}"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {},
        "name": f"QuickNAT {bundle.protocol.name}",
        "task": f"Segmentation of {len(names) - 1} structures in T1-weighted brain MRI",
        "description": "Three 2-D networks (coronal, axial, sagittal), probabilities averaged",
        "authors": f"those who trained the {card.name}",
        "copyright": f"weights: {card.licence}; the code in scripts/: Apache-2.0",
        "intended_use": "Research. Not a medical device.",
        "data_type": "nibabel",
        "image_classes": "one channel, intensities in 0 ... 1, white matter about 0.67",
        "pred_classes": f"{len(names)} channels of probabilities, named in channel_def",
        "eval_metrics": {
            f"{view}_validation_dice": entry["best_val_dice"]
            for view, entry in views.items()
            if entry["best_val_dice"] is not None
        },
        "references": [
            "Guha Roy A., Conjeti S., Navab N., Wachinger C.: QuickNAT: A fully convolutional "
            "network for quick and accurate segmentation of neuroanatomy. NeuroImage 186 (2019) "
            "713-727."
        ],
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": prediction}},
    }


def configuration(bundle: Bundle) -> dict:
    """Return the bundle's ``inference.json``: how MONAI's ConfigParser builds the network."""
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "weights": "$@bundle_root + '/models/model.pt'",
        "network_def": {
            "_target_": "scripts.views.ThreeViews",
            "settings": {view: asdict(part.settings) for view, part in bundle.networks.items()},
            **bundle.aggregation,
        },
        "loaded": "$@network_def.load_state_dict(torch.load(@weights, weights_only=True))",
        "network": "$@loaded and @network_def.eval()",
    }


class Probabilities(nn.Module):
    """Slices (N, slices, H, W) to probabilities (N, C, H, W)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, slices: Tensor) -> Tensor:
        return self.network(slices).softmax(dim=1)


def export_onnx(bundle: Bundle, licence: str, folder: Path) -> None:
    """Write each view's network as ``{view}.onnx``.

    Slices in are float32 (N, slices, S, S), any N, cut as in
    :func:`quicknat.model.views.slice_probabilities`; probabilities out are float32 (N, C, S, S).
    Needs the extra ``onnx``.
    """
    sides = [bundle.slice_size] * 2
    for view, part in bundle.networks.items():
        log.info("exporting the network of the %s view", view)
        program: Any = torch.onnx.export(
            Probabilities(part).eval(),
            (torch.zeros(2, part.settings.slices, *sides),),
            input_names=["slices"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            verbose=False,
        )
        program.model.metadata_props.update(
            view=view,
            view_weight=str(bundle.weights[view]),
            classes=json.dumps(bundle.protocol.class_names(view)),
            intensities="0 (air) to 1, white matter about 0.67",
            voxel_mm=str(bundle.spacing_mm),
            licence=licence,
            model=bundle.identity,
        )
        program.save(folder / f"{view}.onnx", external_data=False)


def export_bundle(model: str | Path, output: str | Path) -> None:
    """Write a model folder as a MONAI bundle, with ONNX files of its networks in ``onnx/``.

    The network takes and gives whole volumes, and needs torch and MONAI alone. The weights are a
    state dict of tensors, for ``torch.load(…, weights_only=True)``, as MONAI's format wants them.

    Raises:
        InputError: no model folder, or the output exists.
    """
    output = Path(output)
    if output.exists():
        raise InputError(output, "exists", "choose another folder, or remove it")
    bundle = load_bundle(model)
    described = json.loads((Path(model) / "bundle.json").read_bytes())
    licence = model_card(described, bundle.identity).licence
    with folder_written_whole(output) as folder:
        for part in ("configs", "models", "docs", "scripts"):
            (folder / part).mkdir(parents=True)
        for module in (network, views):
            shutil.copy(str(module.__file__), folder / "scripts")
        (folder / "scripts/__init__.py").touch()
        torch.save(volumetric(bundle).state_dict(), folder / "models/model.pt")
        for name, content in {
            "metadata": metadata(bundle, described),
            "inference": configuration(bundle),
        }.items():
            text = json.dumps(content, indent=2) + "\n"
            (folder / f"configs/{name}.json").write_text(text, "utf-8")
        shutil.copy(Path(model) / "labels.tsv", folder / "docs/labels.tsv")
        readme = filled(
            "monai.md.j2",
            protocol=bundle.protocol.name,
            n_classes=len(bundle.protocol.names),
            size=bundle.slice_size,
            spacing=bundle.spacing_mm,
            shift=bundle.shift,
            flip=bundle.flip,
        )
        (folder / "docs/README.md").write_text(readme, "utf-8")
        (folder / "LICENSE").write_text(
            "scripts/: Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0\n"
            f"models/, onnx/: {licence}.\n",
            "utf-8",
        )
        if find_spec("onnxscript"):
            (folder / "onnx").mkdir()
            export_onnx(bundle, licence, folder / "onnx")
        else:
            log.warning("no ONNX files: they need `pip install onnx onnxscript`")
