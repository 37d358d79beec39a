"""Write the methods paragraph to paste into a paper, and its references as BibTeX."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import quicknat
from quicknat.model.card import ModelCard
from quicknat.package_data import DATA

PACKAGES = {"PyTorch": "torch", "NiBabel": "nibabel", "NumPy": "numpy", "SciPy": "scipy"}
REFERENCES = {  # as cited in the paragraph: key in references.bib
    "Guha Roy et al., NeuroImage 186 (2019)": "roy2019quicknat",
    "Guha Roy et al., IEEE TMI 38 (2019)": "roy2019recalibrating",
    "OASIS; Marcus et al., 2007": "marcus2007oasis",
    "Mölder et al., F1000Research 10:33 (2021)": "molder2021snakemake",
}


def methods(bundle: Mapping[str, Any], card: ModelCard, workflow: bool = False) -> str:
    """Return the methods paragraph of segmentations with a model.

    Args:
        bundle: the model's ``bundle.json``.
        card: of the model; bundled weights, and those trained from them, get data and licence.
        workflow: whether Snakemake ran it.
    """
    views, grid = bundle["views"], bundle["conform"]
    structures = len(views["coronal"]["classes"]) - 1
    weights = ", ".join(f"{view} {bundle['aggregation'][view]:g}" for view in views)
    blocks = views["coronal"]["network"]["squeeze_excitation"].lower() in ("csse", "scse")
    passes = [
        text
        for key, text in (("mirror", "a left–right flip"), ("shift", "a half-voxel shift"))
        if bundle.get(key)
    ]
    parts = [
        f"T1-weighted scans were segmented into {structures} structures with quicknat"
        f" {quicknat.__version__}, an implementation of QuickNAT"
        " (Guha Roy et al., NeuroImage 186 (2019)).",
        f"Each scan was conformed to {grid['spacing_mm']:g} mm isotropic voxels. Three 2D fully"
        " convolutional networks"
        + (
            " with spatial and channel squeeze-and-excitation (Guha Roy et al., IEEE TMI 38 (2019))"
            if blocks
            else ""
        )
        + ", one per anatomical view, gave the probability of each structure; the views were"
        f" averaged with weights ({weights})"
        + (f" and test-time augmentation by {' and '.join(passes)}" if passes else "")
        + (
            f", and corrected for the class priors with exponent {bundle['prior_correction']:g}"
            if bundle.get("prior_correction")
            else ""
        )
        + ". Probabilities were resampled to native space, where each voxel got the most"
        " probable label.",
    ]
    scans = {scan for view in views.values() for scan in view.get("training_scans", ())}
    model = f"The model was trained on {len(scans)} scans"
    if card.origin == "bundled":
        model = f"We used the {card.name}"
    elif card.origin == "fine-tuned":
        model += ", starting from the bundled weights"
    if card.origin != "own":
        model += (
            " (CC BY-NC 4.0), trained mainly on the MICCAI 2012 Multi-Atlas Labeling Challenge:"
            " scans of the OASIS project (OASIS; Marcus et al., 2007), labels by"
            " Neuromorphometrics, Inc"
        )
    parts.append(f"{model}.")
    if workflow:
        parts.append(
            f"Snakemake {version('snakemake')} (Mölder et al., F1000Research 10:33 (2021)) ran all"
            " steps."
        )
    used = ", ".join(f"{label} {version(package)}" for label, package in PACKAGES.items())
    return " ".join([*parts, f"Software: Python {platform.python_version()}, {used}."])


def bibtex(paragraph: str) -> str:
    """Return the BibTeX entries of the references that a methods paragraph cites."""
    entries = (DATA / "references.bib").read_text("utf-8").strip().split("\n\n")
    cited = {key for text, key in REFERENCES.items() if text in paragraph}
    return "\n\n".join(
        entry for entry in entries if re.split("[{,]", entry, maxsplit=2)[1] in cited
    )
