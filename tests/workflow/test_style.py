"""Formatters and linters are clean."""

import ast
import re
import subprocess
import sys

import pytest
import yaml

from helpers import ROOT

COMMANDS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "snakefmt": ["snakefmt", "--check", "Snakefile", "workflow/rules"],
    "snakemake lint": ["snakemake", "--lint"],
    "mypy": ["mypy"],
}
RULE_FILES = sorted((ROOT / "workflow/rules").glob("*.smk"))
RULES = "".join(path.read_text() for path in RULE_FILES)
SLOW = {"mypy", "snakemake lint"}  # half a minute without its cache; seconds


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in COMMANDS]
)
def test_tool_has_nothing_to_say(name):
    module, *arguments = COMMANDS[name]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_rule_searches_all_scans_for_each_one():
    """Snakemake's `lookup` walks through the whole mapping, which takes minutes for 2,000 scans."""
    assert "lookup(" not in RULES


def default_encodings(tree):
    """Return lines of calls that read or write text in the encoding of the locale."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        given = {word.arg: word.value for word in call.keywords}
        text = {"read_text": 0, "write_text": 1}.get(name, -1) >= len(call.args)
        if name in ("open", "fdopen"):
            kinds = [part.value for part in call.args if isinstance(part, ast.Constant)]
            of_path = getattr(getattr(call.func, "value", None), "id", "")
            text = of_path not in ("tarfile", "gzip") and not any("b" in str(k) for k in kinds)
        text |= bool({"text", "universal_newlines"} & set(given))
        if text and "encoding" not in given:
            yield call.lineno


def test_text_files_and_programs_are_read_and_written_in_utf_8():
    found = {
        f"{path}:{line}"
        for path in (ROOT / "src").rglob("*.py")
        for line in default_encodings(ast.parse(path.read_text()))
    }
    assert found == set()
    assert not re.search(r"read_text\(\)|write_text\((?!.*utf-8)|open\(", RULES)


def test_snakefile_and_rule_files_stay_short():
    assert len((ROOT / "Snakefile").read_text().splitlines()) < 50
    for path in RULE_FILES:
        assert len(path.read_text().splitlines()) <= 150, path


@pytest.mark.parametrize("name", ["local", "slurm", "kubernetes"])
def test_profile_names_no_rule_that_does_not_exist(name):
    profile = yaml.safe_load((ROOT / f"workflow/profiles/{name}/config.yaml").read_text())
    rules = set(re.findall(r"^ *rule (\w+):", RULES, re.MULTILINE))
    named = {
        rule for key in ("set-threads", "set-resources", "groups") for rule in profile.get(key, ())
    }
    assert named and named <= rules
