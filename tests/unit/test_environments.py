"""pyproject.toml, the lock files and the conda environments agree."""

import re
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def by_name(lines):
    return {r.name.lower(): r for r in map(Requirement, lines) if r.name != "quicknat"}


DEPENDENCIES = by_name(PROJECT["dependencies"])
OPTIONAL = PROJECT["optional-dependencies"]
EXTRAS = by_name(line for group in OPTIONAL.values() for line in group)
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
LOCKED = "".join((ROOT / f"requirements{end}.lock").read_text() for end in ("", "-test"))
VERSIONS = dict(line.lower().split("==") for line in LOCKED.splitlines())


def test_lock_pins_every_dependency_to_a_version_that_the_project_allows():
    versions = VERSIONS | {"torch": "2.13.0"}  # the Makefile installs torch, of a chosen build
    for name, requirement in (DEPENDENCIES | EXTRAS).items():
        assert requirement.specifier.contains(Version(versions[name])), name


def test_conda_environment_has_every_dependency_in_the_same_versions():
    *lines, of_pip = yaml.safe_load((ROOT / "envs/torch.yaml").read_text())["dependencies"]
    assert {Requirement(line) for line in of_pip["pip"]} <= set(EXTRAS.values())
    versions = dict(line.partition(" ")[::2] for line in lines if line != "pip")
    assert versions.pop("python") == PROJECT["requires-python"]
    versions = {CONDA_NAMES.get(name, name): version for name, version in versions.items()}
    for name, version in versions.items():
        assert version == str((DEPENDENCIES | EXTRAS)[name].specifier), name
    assert DEPENDENCIES.keys() | by_name(OPTIONAL["train"]).keys() <= versions.keys()


def test_image_installs_what_the_lock_and_the_makefile_say():
    recipe = (ROOT / "Dockerfile").read_text()
    default = re.search(r"^TORCH \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert f"ARG TORCH={default}\n" in recipe
    assert default in PROJECT["dependencies"]
    assert "--requirement requirements.lock" in recipe
    (version,) = re.findall(r"^FROM python:([\d.]+)-slim$", recipe, re.MULTILINE)
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    for name in re.findall(r"^COPY (.+) \S+$", recipe, re.MULTILINE):
        for path in name.split():
            assert (ROOT / path).exists()
            assert f"!{path}\n" in (ROOT / ".dockerignore").read_text()


def test_lock_files_name_no_package_index_no_cuda_and_no_torchvision():
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in LOCKED.splitlines())
    foreign = "nvidia|cuda|triton|^torch(vision)?$"
    assert not [name for name in VERSIONS if re.search(foreign, name)]


def test_citation_names_the_version_of_the_package_and_the_licence_of_its_code():
    import quicknat

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == quicknat.__version__
    code, weights = PROJECT["license"].split(" AND ")
    assert (cited["license"], weights) == (code, "CC-BY-NC-4.0")
    assert cited["preferred-citation"]["doi"] == "10.1016/j.neuroimage.2018.11.042"


def test_samseg_environment_pins_the_version_that_was_tried():
    described = yaml.safe_load((ROOT / "envs" / "samseg.yaml").read_text())
    (wanted,) = [part["pip"] for part in described["dependencies"] if isinstance(part, dict)]
    assert wanted == ["numpy<2", "samseg==0.4a0"]  # its only release; it needs NumPy 1
