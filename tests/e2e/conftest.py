"""One finished run of the whole workflow on small real heads, and copies of it to change."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from project import Project, finish_run

from quicknat.images.volumes import Volume


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, head: Volume, demo_dseg: Volume) -> Project:
    """A finished run, the same for all processes of pytest-xdist: read it, and change copies."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "finished"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            finish_run(folder, head, demo_dseg)
    assert (folder / "results/report/index.html").exists(), "it failed in another process"
    return Project(folder)


def copy_unless_raw(source: str, target: str) -> None:
    """Link unpacked scans, which are large and which nobody writes to; copy all else."""
    (os.link if "/results/raw/" in source else shutil.copy2)(source, target)


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished run."""
    folder = tmp_path / "project"
    shutil.copytree(finished.folder, folder, symlinks=True, copy_function=copy_unless_raw)
    return Project(folder)
