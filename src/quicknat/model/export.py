"""A model as a MONAI bundle: configuration, weights, and the network's code, on their own."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

import quicknat
from quicknat.errors import InputError
from quicknat.files import folder_written_whole
from quicknat.model import network, views
from quicknat.model.bundle import Bundle, load_bundle
from quicknat.model.views import ThreeViews

SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"

README = """# {protocol} segmentation of T1w brain MRI (QuickNAT)

One network on volumes, {size} voxels of {spacing:g} mm along each side: three 2-D networks whose
probabilities are averaged{passes}. `configs/metadata.json` names the {n_classes} output channels.
Run it from this folder:

```python
from monai.bundle import ConfigParser

parser = ConfigParser()
parser.read_config("configs/inference.json")
network = parser.get_parsed_content("network")
probabilities = network(window)  # (1, 1, {size}, {size}, {size}) -> (1, {n_classes}, ...)
```

`window` holds float32 intensities, 0 for air and about 0.67 for white matter, on RAS+ axes: the
{side:g} mm cube around the brain that `quicknat segment` cuts out. From a scan to a label map on
the scan's own grid, with volumes and quality flags, there is `quicknat segment` (`pip install .` in
a checkout of QuickNAT's workflow).{shift}

Not a medical device. The scans and labels that a model was trained on decide what it can know, and
who may use it.

Method: Roy et al., QuickNAT, NeuroImage 186 (2019) 713-727.
"""

MOVED = (
    " It looks at the scan a second time, moved by half a voxel, which this network does not:\n"
    "expect slightly other borders."
)


def volumetric(bundle: Bundle) -> ThreeViews:
    """The bundle's three networks as one, in evaluation mode."""
    settings = {view: asdict(part.settings) for view, part in bundle.networks.items()}
    mirror = bundle.protocol.swapped.tolist() if bundle.mirror else None
    whole = ThreeViews(settings, bundle.protocol.sagittal.tolist(), bundle.weights, mirror)
    for view, part in bundle.networks.items():
        whole.views[view].load_state_dict(part.state_dict())
    return whole.eval()


def metadata(bundle: Bundle, described: dict) -> dict:
    """The bundle's ``metadata.json``; keys as MONAI's schema wants them."""
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
    views = described["views"]
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
        "authors": "whoever trained this model",
        "copyright": "of whoever trained this model; the code in scripts/ is Apache-2.0",
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
            "Roy A.G., Conjeti S., Navab N., Wachinger C.: QuickNAT: A fully convolutional network "
            "for quick and accurate segmentation of neuroanatomy. NeuroImage 186 (2019) 713-727."
        ],
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": prediction}},
    }


def configuration(bundle: Bundle) -> dict:
    """The bundle's ``inference.json``: how MONAI's ConfigParser builds the network."""
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "weights": "$@bundle_root + '/models/model.pt'",
        "network_def": {
            "_target_": "scripts.views.ThreeViews",
            "settings": {view: asdict(part.settings) for view, part in bundle.networks.items()},
            "sagittal": bundle.protocol.sagittal.tolist(),
            "weights": bundle.weights,
            "mirror": bundle.protocol.swapped.tolist() if bundle.mirror else None,
        },
        "loaded": "$@network_def.load_state_dict(torch.load(@weights, weights_only=True))",
        "network": "$@loaded and @network_def.eval()",
    }


def export_bundle(model: str | Path, output: str | Path) -> None:
    """Write a model folder as a MONAI bundle.

    Its network takes and gives whole volumes, and needs torch and MONAI alone. The weights are a
    state dict of tensors, for ``torch.load(…, weights_only=True)``, as MONAI's format wants them.

    Args:
        model: folder of :func:`quicknat.model.bundle.write_bundle`.
        output: folder to make.

    Raises:
        InputError: no model folder, or the output exists.
    """
    output = Path(output)
    if output.exists():
        raise InputError(output, "exists", "choose another folder, or remove it")
    bundle = load_bundle(model)
    described = json.loads((Path(model) / "bundle.json").read_text())
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
            (folder / f"configs/{name}.json").write_text(json.dumps(content, indent=2) + "\n")
        shutil.copy(Path(model) / "labels.tsv", folder / "docs/labels.tsv")
        (folder / "docs/README.md").write_text(
            README.format(
                protocol=bundle.protocol.name,
                size=bundle.slice_size,
                side=bundle.slice_size * bundle.spacing_mm,
                shift=MOVED if bundle.shift else "",
                passes=", of each slice and of its mirror image" if bundle.mirror else "",
                spacing=bundle.spacing_mm,
                n_classes=len(bundle.protocol.names),
            )
        )
        (folder / "LICENSE").write_text(
            "scripts/: Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0\n"
            "models/: the weights belong to whoever trained them.\n"
        )
