"""A SLURM cluster for all tests of this folder, and runs of the workflow on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurm_cluster import Cluster, missing_programs
from slurm_runs import Run, make_cohort


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory):
    missing = missing_programs()
    if missing:
        pytest.skip(f"SLURM is not installed: no {', '.join(missing)}")
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        made.start()
        yield made
    finally:
        made.stop()
    assert made.processes() == []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything that needs the whole workflow on the cluster is long."""
    for item in items:
        if Path(__file__).parent in item.path.parents and "finished" in item.fixturenames:
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session")
def finished(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The whole workflow, run through the profile; `bundle` has too little memory at first."""
    # apart, since files in the folder of a run are other files in a copy of it
    cohort, folder = tmp_path_factory.mktemp("cohort"), tmp_path_factory.mktemp("run")
    make_cohort(cohort)
    little = {"bundle": {"mem_mb": "100 * 10 ** (attempt - 1)"}}
    run = Run(cluster, folder, resources=little, config={"sheet": str(cohort / "cohort.tsv")})
    run.wait()
    return run
