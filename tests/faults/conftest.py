"""The command line as a user meets it, and stand-ins for trained networks."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from in_process import Done, quicknat
from quicknat.images.labels import Protocol
from quicknat.model.bundle import Bundle
from quicknat.model.network import NetworkSettings

NOBODY = 65534


@pytest.fixture
def convert(tmp_path: Path) -> Callable[..., Done]:
    """`quicknat convert` of small scans, into the folder `out`."""

    def run(scan: Path, *options: object) -> Done:
        output = tmp_path / "out/sub-1_T1w.nii.gz"
        return quicknat(
            "-q", "convert", scan, "--output", output, "--spacing", 2, "--size", 16, *options
        )

    return run


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder, and no right but those of its files' modes: root may read and write anything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        root = os.geteuid() == 0
        if root:
            os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)


class StandIn(nn.Module):
    """Says the class of each pixel by a rule of its brightness and place instead of training."""

    settings = NetworkSettings()

    def __init__(self, n_classes: int, rule: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.n_classes, self.rule = n_classes, rule
        self.bottleneck = nn.Module()  # whose precision is noted with the results
        self.bottleneck.convs = nn.ModuleList([nn.Conv2d(1, 1, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(x), self.n_classes, *x.shape[2:])
        return logits.scatter_(1, self.rule(x[:, 0])[:, None], 60)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small arrays take longer on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def stand_in(protocol: Protocol, one_thread: None) -> Callable[..., Bundle]:
    """A model of 32³ voxels of 6 mm whose networks follow a rule.

    The rule takes slices, float32 (N, H, W), and gives class indices of the protocol; in coronal
    and axial slices H runs from left to right. The sagittal network merges the sides.
    """

    def make(rule: Callable[[torch.Tensor], torch.Tensor]) -> Bundle:
        merged = torch.tensor(protocol.sagittal)
        networks = {view: StandIn(28, rule) for view in ("coronal", "axial")}
        networks["sagittal"] = StandIn(16, lambda x: merged[rule(x)])
        weights = {"coronal": 0.4, "axial": 0.4, "sagittal": 0.2}
        nothing = [0] * 28
        known = {"voxels": [nothing, nothing], "asymmetry": [nothing, nothing]}
        known |= {"intensity": nothing, "outside": [0, 1]}
        return Bundle(networks, weights, protocol, 6.0, 32, 32, "stand-in", known)

    return make


@pytest.fixture
def ball() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """A bright ball: its voxels, and the affine that has its middle at the world's origin."""

    def make(spacing: tuple, side_mm: float = 96, radius_mm: float = 40):
        shape = np.ceil(side_mm / np.array(spacing)).astype(int)
        middle = (shape - 1) / 2
        axes = np.ogrid[tuple(slice(n) for n in shape)]
        squared = sum(((a - m) * s) ** 2 for a, m, s in zip(axes, middle, spacing, strict=True))
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = -middle * spacing
        return np.where(squared < radius_mm**2, 200, 0).astype(np.int16), affine

    return make
