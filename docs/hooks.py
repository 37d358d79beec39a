"""What MkDocs does while it builds: the reference, from code, links to it, equations.

The pages under ``reference/`` exist in the built site only. Pages link to the files that they are
made of, so that links work in a checkout too; the build turns these into links to the reference.
Equations are written as GitHub shows them too, a block fenced as ``math`` or $`…`$ in a line, and
become MathML, which browsers draw without a script.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterable, Sequence
from graphlib import TopologicalSorter
from pathlib import Path

import pandas as pd
import typer
import yaml
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import TypeAdapter
from typer.cli import get_docs_for_click

from quicknat.cohort.sheet import SCANS, SOURCES
from quicknat.config import Config, Settings
from quicknat.package_data import LABEL_TABLES, model_folder
from quicknat.validation import section_model

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = ROOT / "workflow"
PACKAGE = ROOT / "src/quicknat"
UNSET = "–"
# pages of the reference, and the file or folder that each is made of
REFERENCE = {
    "cli": "src/quicknat/cli",
    "config": "src/quicknat/config.py",
    "sheet": "src/quicknat/cohort/sheet.py",
    "sources": "workflow/sources.tsv",
    "labels": "src/quicknat/data/labels",
    "results": "results/README.md",
    "benchmarks": "benchmarks/README.md",
    "model": "src/quicknat/data/weights/1mm/README.md",
    "model-small": "src/quicknat/data/weights/small/README.md",
}
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=[#)])")
BLOCK = re.compile(r"^```math\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"\$`([^`]+)`\$")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from code."""
    pages = {
        "cli": commands(),
        "config": settings(),
        "sheet": columns("Sheet", SCANS, "A sheet names the scans."),
        "sources": columns("Sources", SOURCES, "`workflow/sources.tsv` says what can be fetched.")
        + sources(),
        "labels": label_tables(),
        "results": (ROOT / "results/README.md").read_text(),
        "benchmarks": (ROOT / "benchmarks/README.md").read_text(),
        "model": card("1mm"),
        "model-small": card("small"),
    }
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page | None = None, **_: object) -> str:
    """Fill in the tables made from docstrings; turn links and equations into the site's."""
    if page:
        uri = page.file.src_uri
        markdown = LINK.sub(lambda found: link_within_site(found[1], uri), markdown)
    for name, tables in {"rules": rules, "packages": packages, "modules": modules}.items():
        if (mark := f"<!-- {name} -->") in markdown:
            markdown = markdown.replace(mark, tables())
    markdown = BLOCK.sub(lambda found: convert(found[1], display="block"), markdown)
    # without the span, Markdown would take an equation that begins a line out of its paragraph
    return INLINE.sub(lambda found: f"<span>{convert(found[1])}</span>", markdown)


def link_within_site(target: str, uri: str) -> str:
    """Return a link of a page, as it is in the checkout, as it must be in the site."""
    made_of = REFERENCE.get(uri.removeprefix("reference/").removesuffix(".md"), f"docs/{uri}")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(made_of), target))
    names = {file: f"docs/reference/{name}.md" for name, file in REFERENCE.items()}
    path = names.get(path, path)
    return posixpath.relpath(path, posixpath.dirname(f"docs/{uri}"))


def rules() -> str:
    """Return the rule files in the order of the data, each with its own first line."""
    files = re.findall(r'include: "(.+)"', (ROOT / "Snakefile").read_text())
    lines = (((ROOT / file).read_text().splitlines()[0]).lstrip("# ") for file in files)
    rows = zip((f"`{Path(file).name}`" for file in files), lines, strict=True)
    return table(("file", "what its rules do"), rows)


def first_line(path: Path) -> str:
    """Return the first line of a module's docstring, as Markdown."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0].replace("``", "`")


def package_folders() -> list[Path]:
    """Return the library's packages but for the command line, a package after those it uses."""
    folders = {path.parent.name: path.parent for path in PACKAGE.glob("*/__init__.py")}
    del folders["cli"]
    return [folders[name] for name in TopologicalSorter(used()).static_order()]


def used() -> dict[str, set[str]]:
    """Return for each package the other packages that its modules import from."""
    names = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"cli"}
    return {
        name: {
            other
            for path in (PACKAGE / name).glob("*.py")
            for other in re.findall(r"(?:from|import) quicknat\.(\w+)", path.read_text())
            if other in names - {name}
        }
        for name in sorted(names)
    }


def packages() -> str:
    """Return the library's packages: what is in each, and which others it uses."""
    rows = (
        (f"`quicknat.{folder.name}`", first_line(folder / "__init__.py"),
         ", ".join(f"`{other}`" for other in sorted(used()[folder.name])) or UNSET)
        for folder in package_folders()
    )  # fmt: skip
    return table(("package", "what is in it", "uses"), rows)


def modules() -> str:
    """Return the modules of each package, then those beside the packages, a table each."""
    text = ""
    for folder in [*package_folders(), PACKAGE]:
        paths = [path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("__")]
        name = f"`{folder.name}`" if folder != PACKAGE else "Beside the packages"
        rows = ((f"`{path.stem}`", first_line(path)) for path in paths)
        text += f"\n### {name}\n\n" + table(("module", "what it is for"), rows)
    return text


def card(model: str) -> str:
    """Return the model card of a bundled model."""
    return (model_folder(model) / "README.md").read_text()


def commands() -> str:
    """All sub-commands of ``quicknat`` with their options, as ``--help`` tells them."""
    from quicknat.cli import app

    command = typer.main.get_command(app)
    text = get_docs_for_click(
        obj=command, ctx=typer.Context(command), name="quicknat", title="Commands"
    )
    return text.replace(f"{ROOT}/", "")


def settings() -> str:
    """Return every key of the configuration: what it may be, what it is, what it means."""
    demo = read_yaml(ROOT / "config.yaml")
    paper = read_yaml(WORKFLOW / "configs/paper.yaml")
    sections = {name: section_model(field) for name, field in Config.model_fields.items()}
    text = (
        "# Settings\n\n"
        "Give a setting on the command line (`--config sheet=cohort.tsv`), or several in a file of "
        "your own (`--configfile mine.yaml`), which holds only what differs from `config.yaml`. "
        "Keys not listed here are refused.\n\n"
        "*Default*: the value in `config.yaml` or, if it has none, the library's. "
        "*Paper*: the value in `workflow/configs/paper.yaml`, if it differs.\n"
    )
    text += "\n## At the top\n\n" + setting_rows(Config, demo, paper)
    for name, section in sections.items():
        if section:
            about = f"{section.__doc__}\n\n" if section.__doc__ else ""
            rows = setting_rows(section, demo.get(name, {}), paper.get(name, {}))
            text += f"\n## {name}\n\n{about}{rows}"
    return text


def setting_rows(section: type[Settings], demo: dict, paper: dict) -> str:
    """Return a section as a table; `demo` and `paper` hold its values in the two files."""
    rules = section.model_json_schema()["properties"]
    rows = (
        (f"`{name}`", allowed(rules[name]),
         shown(demo.get(name, rules[name].get("default", UNSET))),
         shown(paper.get(name, UNSET)), (field.description or "").replace("\n", " "))
        for name, field in section.model_fields.items() if not section_model(field)
    )  # fmt: skip
    return table(("key", "may be", "default", "paper", "what"), rows)


def columns(title: str, kind: TypeAdapter, text: str) -> str:
    """Columns of a table whose rows have a model."""
    schema = kind.json_schema()
    rows = (
        (f"`{column}`", "yes" if column in schema["required"] else "", allowed(rule),
         rule.get("description", "").replace("\n", " "))
        for column, rule in schema["properties"].items()
    )  # fmt: skip
    heads = ("column", "required", "may be", "what")
    return f"# {title}\n\n{text} {schema['description']}\n\n{table(heads, rows)}"


def sources() -> str:
    """What the sources table holds."""
    rows = read_table(WORKFLOW / "sources.tsv")[
        ["source", "kind", "size_mb", "licence", "citation"]
    ]
    return "\n## The table\n\n" + table(rows.columns, rows.itertuples(index=False))


def label_tables() -> str:
    """Each label protocol."""
    text = (
        "# Label tables\n\n"
        "`protocol` names one of these, or is the path of a table of your own. *FreeSurfer* "
        "and *Neuromorphometrics* are the numbers of a label map that become the class; "
        "`101-207:2` is every second one. The sagittal view does not tell left from right: classes "
        "with one *sagittal* number are one class there.\n"
    )
    for name, path in LABEL_TABLES.items():
        rows = read_table(path)
        rows["color"] = [f'<span class="swatch" style="background:{c}"></span>' for c in rows.color]
        for column in ("freesurfer", "neuromorphometrics"):
            rows[column] = rows[column].str.replace(",", ", ")
        text += f"\n## {name}\n\n" + table(rows.columns, rows.itertuples(index=False))
    return text


def allowed(rule: dict) -> str:
    """Return what a value may be, in words."""
    if "anyOf" in rule:
        return " or ".join(allowed(part) for part in rule["anyOf"])
    if "enum" in rule:
        return ", ".join(f"`{value}`" for value in rule["enum"])
    kinds = rule.get("type", "string")
    words = [" or ".join([kinds] if isinstance(kinds, str) else kinds)]
    words += [f"at least {rule['minimum']}"] if "minimum" in rule else []
    words += [f"above {rule['exclusiveMinimum']}"] if "exclusiveMinimum" in rule else []
    words += [f"at most {rule['maximum']}"] if "maximum" in rule else []
    words += [f"a multiple of {rule['multipleOf']}"] if "multipleOf" in rule else []
    return ", ".join(words)


def shown(value: object) -> str:
    """A value as it stands in a YAML file."""
    if value == UNSET:
        return UNSET
    return (
        "`" + yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip() + "`"
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    cells = ([str(cell).replace("|", r"\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def read_yaml(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def read_table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
