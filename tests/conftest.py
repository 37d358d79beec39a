"""Shared by all tests: where things are, and small real volumes to work with."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from helpers import LABELS, MODEL, ROOT, SHARED, real_dseg, synthetic_head
from quicknat.images.labels import Protocol
from quicknat.images.volumes import Volume


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--demo-results", metavar="DIR", type=Path,
        help="results of a finished `make run`, for the tests marked `demo`; else they run it",
    )  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the shared real scans where there are none; long tests are slow as well."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()) and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason="needs the scans in ../shared, absent here"))
        if item.get_closest_marker("long") or item.get_closest_marker("demo"):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(2700))


@pytest.fixture(scope="session")
def shared() -> Path:
    return SHARED


@pytest.fixture(scope="session")
def golden() -> Path:
    """What the authors' code gives: weights and logits of small networks, losses, uncertainty.

    Copied, without what no test needs, from the shared golden tensors.
    """
    return ROOT / "tests/golden"


@pytest.fixture(scope="session")
def protocol() -> Protocol:
    return Protocol.read(LABELS / "quicknat28.tsv")


@pytest.fixture(scope="session")
def demo_dseg() -> Volume:
    return real_dseg("sub-CSI3")


@pytest.fixture(scope="session")
def head(demo_dseg: Volume) -> Volume:
    return synthetic_head(demo_dseg)


@pytest.fixture
def head_file(head: Volume, tmp_path: Path) -> Path:
    path = tmp_path / "head.nii.gz"
    nib.save(nib.Nifti1Image(head.data.astype(np.int16), head.affine), path)
    return path


@pytest.fixture
def dseg_file(demo_dseg: Volume, tmp_path: Path) -> Path:
    path = tmp_path / "dseg.nii.gz"
    nib.save(nib.Nifti1Image(demo_dseg.data, demo_dseg.affine), path)
    return path


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A view stack: 24 slices of 32 × 32 with four bright bars, each a class of its own."""
    random = np.random.default_rng(0)
    data = np.zeros((24, 2, 32, 32), np.uint8)
    for number, pair in enumerate(data):
        for k in range(1, 5):
            row = 6 * k - 2 + number % 3
            pair[0, row : row + 4, 4:28], pair[1, row : row + 4, 4:28] = 50 * k, k
    data[:, 0] += random.integers(0, 10, data[:, 0].shape).astype(np.uint8)
    path = tmp_path / "sub-1.npy"
    np.save(path, data)
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, protocol: Protocol) -> Path:
    """A model folder from three very brief real trainings, with the settings `MODEL`."""
    from quicknat.config import Aggregation
    from quicknat.images.slices import VIEWS
    from quicknat.model.bundle import write_bundle
    from quicknat.training.trainer import train_view

    folder = tmp_path_factory.mktemp("model")
    random = np.random.default_rng(0)
    for view in VIEWS:
        stack = random.integers(0, 255, (8, 2, 48, 48)).astype(np.uint8)
        stack[:, 1] = random.integers(0, protocol.n_classes(view), (8, 48, 48))
        np.save(folder / f"{view}.npy", stack)
        train_view(view, protocol, [folder / f"{view}.npy"], [], MODEL, folder / "views" / view)
    views = {view: folder / "views" / view for view in VIEWS}
    write_bundle(views, protocol, Aggregation(), 4.0, 64, 48, folder / "model")
    return folder / "model"
