"""pyproject.toml, the lock files and the conda environments agree."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES = {r.name.lower(): r for r in map(Requirement, PROJECT["dependencies"])}
EXTRAS = [Requirement(r) for group in PROJECT["optional-dependencies"].values() for r in group]
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


def locked():
    lines = [
        line
        for name in ("requirements.lock", "requirements-test.lock")
        for line in (ROOT / name).read_text().splitlines()
    ]
    return dict(line.lower().split("==") for line in lines)


def test_lock_pins_every_dependency_to_a_version_that_the_project_allows():
    versions = locked() | {"torch": "2.13.0"}  # the Makefile installs torch, of a chosen build
    for requirement in [*DEPENDENCIES.values(), *EXTRAS]:
        assert requirement.specifier.contains(Version(versions[requirement.name.lower()]))


def test_lock_pulls_no_cuda_and_no_torchvision():
    unwanted = [
        name for name in locked() if re.search(r"nvidia|cuda|triton|^torch(vision)?$", name)
    ]
    assert unwanted == []


@pytest.mark.parametrize("name", ["imaging", "torch"])
def test_conda_environment_asks_for_the_same_versions(name):
    described = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())
    for line in described["dependencies"]:
        package, _, version = line.partition(" ")
        if package == "pip":
            continue
        if package == "python":
            assert version == PROJECT["requires-python"]
            continue
        requirement = DEPENDENCIES[CONDA_NAMES.get(package, package)]
        assert version == str(requirement.specifier), package


def test_torch_environment_holds_every_dependency():
    described = yaml.safe_load((ROOT / "envs" / "torch.yaml").read_text())
    names = {line.split(" ")[0] for line in described["dependencies"]}
    assert DEPENDENCIES.keys() <= {CONDA_NAMES.get(name, name) for name in names}


def test_samseg_environment_pins_the_version_that_was_tried():
    described = yaml.safe_load((ROOT / "envs" / "samseg.yaml").read_text())
    (wanted,) = [part["pip"] for part in described["dependencies"] if isinstance(part, dict)]
    assert wanted == ["numpy<2", "samseg==0.4a0"]  # its only release; it needs NumPy 1
