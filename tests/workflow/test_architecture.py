"""The architecture page: its tables are made of docstrings, which must be there."""

import ast
import re
import sys
from graphlib import TopologicalSorter

from helpers import ROOT

PAGE = (ROOT / "docs/explanation/architecture.md").read_text()
PACKAGE = ROOT / "src/quicknat"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if not path.stem.startswith("__")
}
LONGEST = 350  # lines of a module


def test_every_module_and_package_says_in_a_line_what_it_is_for():
    for path in [*MODULES.values(), *PACKAGE.glob("*/__init__.py")]:
        lines = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()
        assert lines and lines[0].endswith((".", "?")) and lines[1:2] in ([], [""]), path


def test_tables_name_every_module_package_and_rule_file(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    hooks = __import__("hooks")
    page = hooks.on_page_markdown(PAGE)
    named = set(re.findall(r"^\| `([\w./]+)` \|", page, re.MULTILINE))
    assert {name.rsplit(".", 1)[-1] for name in MODULES if not name.startswith("cli.")} <= named
    assert {f"quicknat.{p.parent.name}" for p in PACKAGE.glob("*/__init__.py")} - named == {
        "quicknat.cli"
    }
    assert {path.name for path in (ROOT / "workflow/rules").iterdir()} <= named
    sys.modules.pop("hooks")


def test_no_package_imports_one_that_needs_it(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    TopologicalSorter(__import__("hooks").used()).prepare()  # raises where there is a circle
    sys.modules.pop("hooks")


def test_modules_beside_the_packages_import_none_of_them():
    """All but the two by which the workflow uses the library."""
    packages = "|".join(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    for path in PACKAGE.glob("*.py"):
        if path.stem not in ("plan", "run") and not path.stem.startswith("__"):
            assert not re.findall(
                rf"(?:from|import) quicknat\.(?:{packages})\b", path.read_text()
            ), path


def test_every_folder_that_is_named_is_there_and_no_folder_of_the_workflow_is_missing():
    listed = re.search(r"^## Folders\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)[1]
    named = set(re.findall(r"^\| `([^`]+)`", listed, re.MULTILINE))
    assert all((ROOT / name).is_dir() for name in named)
    there = {f"workflow/{path.name}" for path in (ROOT / "workflow").iterdir() if path.is_dir()}
    assert there <= named


def test_modules_stay_short():
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name for name, length in lengths.items() if length > LONGEST} == set()


def test_library_imports_nothing_from_the_layers_above_it():
    """Nor of the command line; both may be named in texts."""
    for name, path in MODULES.items():
        imported = re.findall(r"^\s*(?:from|import) ([\w.]+)", path.read_text(), re.MULTILINE)
        assert not any(module.split(".")[0] == "snakemake" for module in imported), name
        if not name.startswith("cli."):
            assert not any(module.startswith("quicknat.cli") for module in imported), name
