"""The architecture page: its tables are made of docstrings, which must be there."""

import ast
import importlib
import re
import sys
from graphlib import TopologicalSorter

import pytest

from helpers import ROOT

PAGE = (ROOT / "docs/explanation/architecture.md").read_text()
PACKAGE = ROOT / "src/quicknat"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if not path.stem.startswith("__")
}
PACKAGES = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]


def test_every_module_and_package_says_in_a_line_what_it_is_for():
    for path in [*MODULES.values(), *PACKAGE.glob("*/__init__.py")]:
        lines = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()
        assert lines and lines[0].endswith((".", "?")) and lines[1:2] in ([], [""]), path


@pytest.fixture
def hooks(monkeypatch):
    """What MkDocs fills in the tables with."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    yield importlib.import_module("hooks")
    sys.modules.pop("hooks")


def test_tables_name_every_module_package_and_rule_file(hooks):
    named = set(re.findall(r"^\| `([\w./]+)` \|", hooks.on_page_markdown(PAGE), re.MULTILINE))
    assert {name.rsplit(".", 1)[-1] for name in MODULES if not name.startswith("cli.")} <= named
    assert {f"quicknat.{name}" for name in PACKAGES} - named == {"quicknat.cli"}
    assert {path.name for path in (ROOT / "workflow/rules").iterdir()} <= named


def test_no_package_imports_one_that_needs_it(hooks):
    TopologicalSorter(hooks.used()).prepare()  # raises where there is a circle


def test_modules_beside_the_packages_import_none_of_them():
    """All but the two by which the workflow uses the library."""
    imported = rf"(?:from|import) quicknat\.(?:{'|'.join(PACKAGES)})\b"
    for name in [name for name in MODULES if "." not in name and name not in ("plan", "run")]:
        assert not re.search(imported, MODULES[name].read_text()), name


def test_modules_stay_short():
    for name, path in MODULES.items():
        assert len(path.read_text().splitlines()) <= 350, name


def test_library_imports_nothing_from_the_layers_above_it():
    """Nor of the command line; both may be named in texts."""
    for name, path in MODULES.items():
        above = "snakemake" if name.startswith("cli.") else r"snakemake|quicknat\.cli"
        imported = rf"^\s*(from|import) ({above})\b"
        assert not re.search(imported, path.read_text(), re.MULTILINE), name
