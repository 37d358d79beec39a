"""pyproject.toml, the lock files and the conda environments agree."""

import re
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES = {r.name.lower(): r for r in map(Requirement, PROJECT["dependencies"])}
OPTIONAL = PROJECT["optional-dependencies"]
EXTRAS = [r for group in OPTIONAL.values() for r in map(Requirement, group) if r.name != "quicknat"]
LIBRARY = DEPENDENCIES | {
    r.name.lower(): r for r in map(Requirement, OPTIONAL["train"] + OPTIONAL["report"])
}
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


def test_conda_environment_has_every_dependency_in_the_same_versions():
    described = yaml.safe_load((ROOT / "envs" / "torch.yaml").read_text())
    *lines, of_pip = described["dependencies"]
    assert {Requirement(line) for line in of_pip["pip"]} <= set(EXTRAS)
    for line in lines:
        package, _, version = line.partition(" ")
        if package == "pip":
            continue
        if package == "python":
            assert version == PROJECT["requires-python"]
            continue
        requirement = LIBRARY[CONDA_NAMES.get(package, package)]
        assert version == str(requirement.specifier), package
    names = {line.split(" ")[0] for line in lines}
    train = {Requirement(line).name.lower() for line in OPTIONAL["train"]}
    assert DEPENDENCIES.keys() | train <= {CONDA_NAMES.get(name, name) for name in names}


def test_samseg_environment_pins_the_version_that_was_tried():
    described = yaml.safe_load((ROOT / "envs" / "samseg.yaml").read_text())
    (wanted,) = [part["pip"] for part in described["dependencies"] if isinstance(part, dict)]
    assert wanted == ["numpy<2", "samseg==0.4a0"]  # its only release; it needs NumPy 1


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
    for name in ("requirements.lock", "requirements-test.lock"):
        lines = (ROOT / name).read_text().splitlines()
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), name
    names = locked()
    assert not [name for name in names if re.search("nvidia|cuda|triton|^torch(vision)?$", name)]


def test_citation_names_the_version_of_the_package_and_the_licence_of_its_code():
    import quicknat

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == quicknat.__version__
    code, weights = PROJECT["license"].split(" AND ")
    assert (cited["license"], weights) == (code, "CC-BY-NC-4.0")
    assert cited["preferred-citation"]["doi"] == "10.1016/j.neuroimage.2018.11.042"
