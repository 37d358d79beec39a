"""What ``bundle.json`` of a model folder must state; other keys are allowed."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from quicknat.config import Fraction, Network, Side
from quicknat.validation import Checked


def _fits(pattern: str, what: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"value should {what}")
        return text

    return AfterValidator(check)


FileHere = Annotated[str, _fits(r"[^/\\]{1,99}", "name a file here")]
Sha256 = Annotated[str, _fits("[0-9a-f]{64}", "be a SHA-256")]
NotNegative = Annotated[float, Field(ge=0)]
Ranges = Annotated[list[list[float]], Field(min_length=2, max_length=2)]  # of each class


class LabelTable(Checked):
    file: FileHere
    sha256: Sha256


class Grid(Checked):
    spacing_mm: float = Field(ge=0.1, le=16)
    size: int = Field(ge=16, le=1024)


class Slices(Checked):
    size: Side = Field(ge=16, le=1024)


class Weights(Checked):
    coronal: NotNegative
    axial: NotNegative
    sagittal: NotNegative


class TrainedNetwork(Network):
    n_classes: int = Field(ge=2, le=256)
    filters: int = Field(64, ge=2, le=1024)


class View(Checked):
    weights: FileHere
    sha256: Sha256
    class_weights: list[NotNegative]
    network: TrainedNetwork


class Views(Checked):
    coronal: View
    axial: View
    sagittal: View


class TrainingStats(Checked):
    voxels: Ranges
    asymmetry: Ranges
    intensity: list[float]
    outside: list[float] = Field(min_length=2, max_length=2)


class Description(Checked):
    protocol: str
    labels: LabelTable
    conform: Grid
    slices: Slices
    aggregation: Weights
    mirror: bool
    """Test-time augmentation: average with the left–right flipped slices."""
    shift: bool
    """Test-time augmentation: average with the scan shifted by half a voxel."""
    prior_correction: Fraction
    views: Views
    population: TrainingStats
    """Statistics of the training scans."""
