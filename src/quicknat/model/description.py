"""What ``bundle.json`` of a model folder must state; other keys may stand beside."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from quicknat.config import Fraction, Network, Side
from quicknat.validation import Checked


def _file_here(name: str) -> str:
    if not re.fullmatch(r"[^/\\]{1,99}", name):
        raise ValueError("value should name a file here")
    return name


def _digest(text: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError("value should be a SHA-256")
    return text


FileHere = Annotated[str, AfterValidator(_file_here)]
Sha256 = Annotated[str, AfterValidator(_digest)]
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
    """Test-time augmentation: average with the scan moved by half a voxel."""
    prior_correction: Fraction
    views: Views
    population: TrainingStats
    """Statistics of the training scans."""
