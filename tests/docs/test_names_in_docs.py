"""What the docs name exists: sub-commands, options, settings, rules, files, dependencies, tests."""

import contextlib
import re
import shlex
import tomllib
from itertools import takewhile

import pytest
import typer
from documents import FENCED, blocks, documents, inline_code, name_of, simple_commands
from snakemake.cli import get_argument_parser

from helpers import ROOT
from quicknat.cli import app
from quicknat.config import Config
from quicknat.package_data import MODELS
from quicknat.validation import section_model

COMMAND = typer.main.get_command(app)
RULES = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
PAGES = documents()
LINKING = [
    *PAGES,
    *(ROOT / name for name in ("CONTRIBUTING.md", "benchmarks/README.md", "results/README.md")),
    *(model / "README.md" for model in MODELS.values()),
]
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
PARTS = {name: section_model(field) for name, field in Config.model_fields.items()}
SNAKEMAKE = set(get_argument_parser()._option_string_actions)


def wrong_quicknat(words):
    """What is wrong with the words after `quicknat`; empty if nothing is."""
    options = {name for option in COMMAND.params for name in option.opts} | {"--help"}
    while words and words[0] in options:
        words = words[1:]
    if not words:
        return ""
    command = COMMAND.commands.get(words[0])
    if command is None:
        return f"no sub-command {words[0]}"
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    unknown = [w for w in words[1:] if w.startswith("--") and w not in known | {"--help"}]
    return f"{words[0]} has no {', '.join(unknown)}" if unknown else ""


def wrong_snakemake(words):
    """The same for the words after `snakemake`."""
    for word, value in zip(words, [*words, ""][1:], strict=True):
        if word.startswith("-") and word not in SNAKEMAKE:
            return f"snakemake has no {word}"
        ours = word in ("--configfile", "--workflow-profile") and value.startswith("workflow/")
        if ours and not (ROOT / value).exists():
            return f"{value} is not there"
        if word in ("-R", "--batch") and value:
            rule = value.partition("=")[0]
            if not re.search(rf"^rule {rule}:", RULES, re.MULTILINE):
                return f"no rule {rule}"
    start = words.index("--config") + 1 if "--config" in words else len(words)
    given = takewhile(lambda word: not word.startswith("-"), words[start:])
    unknown = {word.partition("=")[0] for word in given} - set(PARTS)
    return f"no setting {', '.join(unknown)}" if unknown else ""


def wrong_make(words):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    unknown = [word for word in words if "=" not in word and word not in targets]
    return f"make has no {', '.join(unknown)}" if unknown else ""


WRONG = {"quicknat": wrong_quicknat, "snakemake": wrong_snakemake, "make": wrong_make}


def wrong(words):
    return WRONG[words[0]](words[1:]) if words[0] in WRONG else ""


@pytest.mark.parametrize(
    "text",
    [
        "quicknat segmnt a.nii",
        "x=1 quicknat check cohort.tsv --fast",
        "for a in b; do snakemake --coress all; done | tee log",
        "snakemake --config shet=cohort.tsv -n",
        "snakemake -R no_such_rule",
        "make everything",
    ],
)
def test_misspelt_command_is_noticed(text):
    assert any(wrong(command) for command in simple_commands(text))


def problems_in_blocks(page):
    """What does not exist of what the blocks of commands name."""
    for block in blocks(page):
        if block.kind == "tested" and not (ROOT / block.what).is_file():
            yield f"no test {block.what}"
        if block.kind == "needs" and not block.what:
            yield f"nothing needed: {block.text}"
        for command in simple_commands(block.text):
            yield wrong(command)
            if command[0] == "quicknat":
                name, *words = command[1:]
                COMMAND.commands[name].make_context(name, words)  # raises if one is missing


def problems_in_text(page):
    """The same for the code in running text."""
    for code in inline_code(page):
        with contextlib.suppress(ValueError):  # no command
            words = shlex.split(code.replace("…", ""))
            yield wrong(words) if words else ""
        setting = re.fullmatch(r"([a-z_]+)\.([a-z_]+)", code.partition(":")[0])
        part = PARTS.get(setting[1]) if setting and setting[2] != "smk" else None
        if part and setting[2] not in part.model_fields:
            yield f"no setting {code}"
        ours = re.match(r"(src|workflow|tests|benchmarks|docs|envs|profiles)/[^*…{ ]*$", code)
        if ours and not (ROOT / code.partition("::")[0]).exists():
            yield f"no file {code}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_page_names_commands_options_settings_files_and_tests_that_there_are(page):
    found = [*problems_in_blocks(page), *problems_in_text(page)]
    assert [problem for problem in found if problem] == []


def test_every_direct_dependency_is_explained_and_no_other():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    parts = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {re.match(r"[\w-]+", line)[0].lower() for part in parts for line in part}
    declared.remove("quicknat")  # extras of its own
    text = (ROOT / "docs/explanation/dependencies.md").read_text()
    assert set(re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)) == declared


def test_version_of_torch_in_the_docs_is_the_one_that_is_pinned():
    pin = re.search(r"torch==([\d.]+)", (ROOT / "pyproject.toml").read_text())[1]
    said = {v for page in PAGES for v in re.findall(r"torch==([\d.]+)", page.read_text())}
    assert said == {pin}


@pytest.mark.parametrize("page", LINKING, ids=name_of)
def test_links_of_a_checkout_lead_to_files_and_headings(page):
    broken = []
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        address, _, place = link.partition("#")
        target = (page.parent / address) if address else page
        anchored = place and target.suffix == ".md"
        if not target.exists() or (anchored and place not in places(target)):
            broken.append(link)
    assert broken == []


def places(page):
    """Anchors that GitHub and MkDocs make of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading).strip().lower() for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}
