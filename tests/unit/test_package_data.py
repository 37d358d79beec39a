"""The package's own data are found by name or by path, also from a wheel in an empty folder."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from functools import partial
from importlib.metadata import distribution, requires
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from helpers import ROOT, save
from quicknat.config import Config
from quicknat.errors import InputError
from quicknat.images.labels import Protocol
from quicknat.package_data import LABEL_TABLES, MODELS, label_table, model_folder


@pytest.mark.parametrize(("find", "bundled"), [(label_table, LABEL_TABLES), (model_folder, MODELS)])
def test_bundled_name_is_itself_and_anything_else_a_path_or_refused(
    find, bundled, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name, path in bundled.items():
        (tmp_path / name).mkdir()
        assert find(name) == path and path.exists()
        assert find(f"./{name}") == Path(name)
    (tmp_path / "mine").mkdir()
    for path in ("mine", "mine.tsv", "a/b", "/a"):  # whoever reads it says what is wrong with it
        assert find(path) == Path(path)
    for name in ("other", "x" * 5000, "a\0b", "QuickNAT28"):
        with pytest.raises(InputError, match=f"allowed: {', '.join(bundled)}, or a path"):
            find(name)


def test_bundled_names():
    assert list(LABEL_TABLES) == ["quicknat28", "quicknat33", "seed4", "tissues4"]
    assert list(MODELS) == ["1mm", "small"]


def test_label_tables_are_listed_where_the_setting_is_explained():
    described = " ".join(Config.model_fields["protocol"].description.split())
    assert f"a bundled one ({', '.join(LABEL_TABLES)})" in described
    guide = (ROOT / "docs/howto/own-data.md").read_text().partition("## Structures")[2]
    listed = re.findall(r"`(\w+)`", guide.partition("or the path of your own")[0])
    assert sorted(listed) == sorted(["protocol", *LABEL_TABLES])


@pytest.fixture
def elsewhere(tmp_path):
    """Run commands of a quicknat that is installed from a wheel, in an empty folder."""
    source = tmp_path / "source"  # building leaves files behind, and would take up old ones
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    wheels, folder = tmp_path / "wheels", tmp_path / "empty"
    wheels.mkdir()
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(wheels)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    venv.create(tmp_path / "venv", with_pip=False)
    site = next(tmp_path.glob("venv/lib/python*/site-packages"))
    (wheel,) = wheels.iterdir()
    zipfile.ZipFile(wheel).extractall(site)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in closure(project["dependencies"]):  # links, since tests do without a package index
        for top in {path.parts[0] for path in distribution(name).files or ()} - {"..", "bin"}:
            target, link = Path(distribution(name).locate_file(top)), site / top
            if target.exists() and not link.exists():
                link.symlink_to(target)
    folder.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*arguments, fails=False):
        command = [tmp_path / "venv/bin/python", *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert (done.returncode != 0) == fails, (arguments, done.stderr)
        return done.stderr if fails else done.stdout

    package = run("-c", "import quicknat; print(quicknat.__file__)").strip()
    assert Path(package).is_relative_to(site)
    return partial(run, "-m", "quicknat"), folder


def closure(requirements: list[str]) -> set[str]:
    """Return the names of required packages, and of those that they require, without extras."""
    found, waiting = set(), requirements
    while waiting:
        needed = [Requirement(line) for line in waiting]
        names = {r.name.lower() for r in needed if not r.marker or r.marker.evaluate({"extra": ""})}
        waiting = [line for name in names - found for line in requires(name) or ()]
        found |= names
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_segments_from_a_wheel_in_an_empty_folder_with_no_extra(elsewhere, head, demo_dseg, model):
    quicknat, folder = elsewhere
    for name, data in (("a", head.data), ("a_dseg", demo_dseg.data)):
        save(folder / f"{name}.nii.gz", data.astype(np.int16), head.affine)
    options = ("--label-convention", "freesurfer", "--split", "test")
    quicknat("sheet", ".", "--output", "cohort.tsv", *options)
    assert "ok" in quicknat("check", "cohort.tsv")
    quicknat("convert", "a.nii.gz", "--output", "T1w.nii.gz", "--spacing", 4, "--size", 64)
    quicknat(
        "convert-labels", "a_dseg.nii.gz", "--label-convention", "freesurfer",
        "--scan", "T1w.nii.gz", "--protocol", "tissues4", "--output", "dseg.nii.gz",
        "--native", "native.nii.gz",
    )  # fmt: skip
    # the model `1mm` takes minutes of a slow CPU
    quicknat("segment", "a.nii.gz", "--model", "small", "--name", "sub-a", "--output", "out")
    assert (folder / "out/sub-a/anat/sub-a_desc-quicknat_dseg.nii.gz").exists()
    said = quicknat("export", "small", "--output", "monai", fails=True)
    assert said.splitlines()[-1].endswith("pip install '.[train]'")
    (folder / "list.txt").write_text("")
    said = quicknat(
        "report", "cohort.tsv", "--segmented", "list.txt", "--output", "index.html", fails=True
    )
    assert said.splitlines()[-1].endswith("pip install '.[report]'")
    # with the other packages; of a folder in a .pth file, the .pth files are not read, which lead
    # to the checkout
    site = next(folder.parent.glob("venv/lib/python*/site-packages"))
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    quicknat("export", "small", "--output", "monai")
    assert Protocol.read(folder / "monai/docs/labels.tsv").names[0] == "Background"
