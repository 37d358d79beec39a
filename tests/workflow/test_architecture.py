"""The architecture page names what there is, in the words of the code."""

import ast
import re
from graphlib import TopologicalSorter

from helpers import ROOT

PAGE = (ROOT / "docs/explanation/architecture.md").read_text()
PACKAGE = ROOT / "src/quicknat"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if not path.stem.startswith("__")
}
LONGEST = 300  # lines of a module


def rows(first_cell):
    """Rows of the page's tables whose first cell matches: that cell's name, and the second cell."""
    found = re.findall(r"^\| `([^`]+)` \| (.+) \|$", PAGE, re.MULTILINE)
    return {name: text for name, text in found if re.fullmatch(first_cell, name)}


def used():
    """The packages that each package imports from; those beside them import from none."""
    found = {path.parent.name: set() for path in PACKAGE.glob("*/__init__.py")}
    del found["cli"]
    for name, path in MODULES.items():
        imported = re.findall(r"(?:from|import) quicknat\.(\w+)", path.read_text())
        packages = {other for other in imported if (PACKAGE / other).is_dir()}
        if "." not in name:
            assert not packages, f"{name} lies beside the packages, and all of them may use it"
        elif (own := name.split(".")[0]) in found:
            found[own] |= packages - {own}
    return found


def test_every_module_is_described_by_its_own_first_line():
    own = {
        name: (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]
        for name, path in MODULES.items()
    }
    told = {}
    for section in re.split("^### ", PAGE, flags=re.MULTILINE)[1:]:
        package = re.match(r"`(\w+)`", section)  # its heading; none for those beside the packages
        for module, text in re.findall(r"^\| `(\w+)` \| (.+) \|$", section, re.MULTILINE):
            told[f"{package[1]}.{module}" if package else module] = text
    assert told == {name: line.replace("``", "`") for name, line in own.items()}


def test_every_package_is_described_by_its_own_first_line_and_by_the_packages_that_it_uses():
    listed = re.findall(r"^\| `quicknat\.(\w+)` \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
    own = {path.parent.name: path for path in PACKAGE.glob("*/__init__.py")}
    del own["cli"]
    assert {name: text for name, text, _ in listed} == {
        name: ast.get_docstring(ast.parse(path.read_text())) for name, path in own.items()
    }
    assert {name: set(re.findall(r"`(\w+)`", uses)) for name, _, uses in listed} == used()


def test_no_package_imports_one_that_needs_it():
    TopologicalSorter(used()).prepare()  # raises where there is a circle


def test_every_rule_file_is_described_by_its_own_first_line_in_the_order_of_the_snakefile():
    included = re.findall(r'include: "(.+)"', (ROOT / "Snakefile").read_text())
    expected = [(ROOT / path).read_text().splitlines()[0].lstrip("# ") for path in included]
    assert list(rows(r"\w+\.smk").values()) == expected


def test_every_folder_that_is_named_is_there_and_no_folder_of_the_workflow_is_missing():
    named = {name for name in rows(r"[\w/]+") if (ROOT / name).is_dir()}
    listed = re.search(r"^## Folders\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)[1]
    assert set(re.findall(r"^\| `([^`]+)`", listed, re.MULTILINE)) <= named
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
