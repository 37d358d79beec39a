"""What the docs name exists: sub-commands, options, settings, rules, files, dependencies, tests."""

import re
import shlex
import tomllib
from functools import cache

import pytest
import typer
from documents import FENCED, blocks, documents, inline_code, name_of, simple_commands
from snakemake.cli import get_argument_parser

from helpers import ROOT
from quicknat.cli import app
from quicknat.config import Config, section_model
from quicknat.package_data import MODELS

COMMAND = typer.main.get_command(app)
RULES = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
PAGES = documents()
LINKING = [
    *PAGES,
    *(ROOT / name for name in ("CONTRIBUTING.md", "benchmarks/README.md", "results/README.md")),
    *(model / "README.md" for model in MODELS.values()),
]
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
KEYS = {"--config", "-C"}


def sections():
    """Keys of each part of the configuration, by its name."""
    parts = {name: section_model(field) for name, field in Config.model_fields.items()}
    return {"": set(parts)} | {name: set(part.model_fields) for name, part in parts.items() if part}


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


@cache
def snakemake_options():
    return set(get_argument_parser()._option_string_actions)


def wrong_snakemake(words):
    """The same for the words after `snakemake`."""
    known = snakemake_options()
    for word, value in zip(words, [*words, ""][1:], strict=True):
        if word.startswith("-") and word not in known:
            return f"snakemake has no {word}"
        ours = word in ("--configfile", "--workflow-profile") and value.startswith("workflow/")
        if ours and not (ROOT / value).exists():
            return f"{value} is not there"
        if word in ("-R", "--batch") and value:
            rule = value.partition("=")[0]
            if not re.search(rf"^rule {rule}:", RULES, re.MULTILINE):
                return f"no rule {rule}"
    keys = {word.partition("=")[0] for word in after(words, KEYS)}
    unknown = keys - sections()[""]
    return f"no setting {', '.join(unknown)}" if unknown else ""


def after(words, names):
    """The words that belong to one of these options."""
    own, found = False, []
    for word in words:
        own = word in names or (own and not word.startswith("-"))
        found += [word] if own and word not in names else []
    return found


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
        "quicknat segment a.nii --moddel m",
        "x=1 quicknat check cohort.tsv --fast",
        "for a in b; do quicknat nothing; done | tee log",
        "snakemake --coress all",
        "snakemake --config shet=cohort.tsv",
        "snakemake --configfile workflow/configs/none.yaml",
        "snakemake -R no_such_rule",
        "make everything",
    ],
)
def test_misspelt_command_is_noticed(text):
    assert any(wrong(command) for command in simple_commands(text))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_blocks_have_the_sub_commands_options_and_settings_that_there_are(page):
    commands = [c for block in blocks(page) for c in simple_commands(block.text)]
    assert [problem for command in commands if (problem := wrong(command))] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_quicknat_commands_in_blocks_have_all_that_they_require(page):
    for block in blocks(page):
        for command in simple_commands(block.text):
            if command[0] == "quicknat":
                name, *words = command[1:]
                COMMAND.commands[name].make_context(name, words)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_running_text_exist(page):
    problems = []
    for code in inline_code(page):
        try:
            words = shlex.split(code.replace("…", ""))
        except ValueError:
            continue  # no command
        if words and words[0] in WRONG and (problem := wrong(words)):
            problems.append(problem)
    assert problems == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_in_running_text_exist(page):
    known = sections()
    for code in inline_code(page):
        found = re.fullmatch(r"([a-z_]+)\.([a-z_]+)", code.partition(":")[0])
        if found and known.get(found[1]) and found[2] != "smk":  # a setting, no rule file
            assert found[2] in known[found[1]], code


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_of_the_repository_in_running_text_exist(page):
    start = r"(src|workflow|tests|benchmarks|docs|envs|profiles)/"
    for code in inline_code(page):
        if re.match(start, code) and not re.search(r"[*…{ ]", code):
            assert (ROOT / code.partition("::")[0]).exists(), code


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_block_that_is_tested_elsewhere_names_a_test_that_exists(page):
    for block in blocks(page):
        if block.kind == "tested":
            assert (ROOT / block.what).is_file(), block
        assert block.kind != "needs" or block.what


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
        if not target.exists() or (
            target.suffix == ".md" and place and place not in places(target)
        ):
            broken.append(link)
    assert broken == []


def places(page):
    """Anchors that GitHub and MkDocs make of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def test_no_command_has_to_be_completed_before_it_runs():
    for page in PAGES:
        words = re.findall(r"\bTHIS_[A-Z_]+|\bADDRESS_[A-Z_.]+", page.read_text())
        assert words == [], page


def test_badges_of_the_readme_are_true():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = re.findall(
        r"^!\[([^]]+)\]\(https://img", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    pythons = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    snakemake = next(p for p in project["optional-dependencies"]["workflow"] if "snakemake>" in p)
    oldest = re.search(r">=([\d.]+)", snakemake)[1]
    assert names[:2] == [f"Python {pythons[0]} to {pythons[-1]}", f"Snakemake {oldest} or newer"]
    for badge, licence in zip(names[2:], ("Apache-2.0", "CC-BY-NC-4.0"), strict=True):
        assert badge.endswith(licence.replace("CC-BY-NC-4.0", "CC BY-NC 4.0"))
        assert licence in project["license"]
