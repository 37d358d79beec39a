"""No user's text runs as code, and no command but `download` uses a network."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib

import pytest

from fuzzing import quicknat
from helpers import LABELS, ROOT
from quicknat.config import Conform, Slices, Training

RULES = sorted((ROOT / "workflow/rules").glob("*.smk"))
SOURCES = sorted((ROOT / "src").rglob("*.py"))
# numbers, as the schema of the configuration and Snakemake itself guarantee
UNQUOTED = {
    "threads", "resources.gpu", "params.spacing", "params.size", "params.slice_size",
    "params.seed", "params.epochs",
}  # fmt: skip


def shell_blocks(text: str) -> list[str]:
    """The commands of a rule file, each joined to one string."""
    found = re.findall(r"^( +)shell:\n((?:\1    .*\n|\n)+)", text, re.MULTILINE)
    return ["".join(re.findall(r'"((?:[^"\\]|\\.)*)"', block)) for _, block in found]


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_every_value_in_a_shell_command_is_quoted(path):
    text = path.read_text()
    blocks = shell_blocks(text)
    assert len(blocks) == len(re.findall(r"^ +shell:", text, re.MULTILINE))
    for block in blocks:
        values = re.findall(r"(?<!\{)\{([^{}]+)\}(?!\})", block)
        loose = {value for value in values if not value.endswith(":q")} - UNQUOTED
        assert not loose, f"{path.name}: {loose} in {block}"


def test_values_left_unquoted_are_numbers_in_the_settings():
    names = Training.model_fields["seed"], Training.model_fields["warm_start_epochs"]
    found = [*Conform.model_fields.values(), *Slices.model_fields.values(), *names]
    assert all(field.annotation in (float, int) for field in found)


@pytest.mark.parametrize("path", [*RULES, ROOT / "Snakefile"], ids=lambda path: path.stem)
def test_workflow_runs_no_text_as_code(path):
    # ruff, which sees to this in Python files, reads none of Snakemake's
    pattern = r"\b(eval|exec|pickle|os\.system|popen|subprocess|yaml\.load|shell\()\b|shell=True"
    assert not re.findall(pattern, path.read_text())


@pytest.mark.parametrize(
    ("name", "option"), [("np.load", "allow_pickle=False"), ("torch.load", "weights_only=True")]
)
def test_arrays_and_weights_are_loaded_without_running_what_is_in_them(name, option):
    nodes = [node for path in SOURCES for node in ast.walk(ast.parse(path.read_text()))]
    found = [ast.unparse(node) for node in nodes if isinstance(node, ast.Call)]
    loads = [call for call in found if call.startswith(f"{name}(")]
    assert loads and [call for call in loads if option not in call] == []


@pytest.mark.parametrize("command", ["segment", "slice"])
def test_name_of_a_result_cannot_lead_out_of_its_folder(tmp_path, head_file, command):
    arguments = {
        "segment": [head_file, "--model", tmp_path, "--output", tmp_path / "out"],
        "slice": [
            head_file, head_file, "--protocol", LABELS / "seed4.tsv", "--folder", tmp_path / "out",
        ],
    }  # fmt: skip
    done = quicknat(command, *arguments[command], "--name", "../../evil")
    assert done.status == 2 and "Traceback" not in "\n".join(done.err)
    assert not (tmp_path / "out").exists()


NETWORK = "aiohttp|ftplib|http|httpx|requests|smtplib|ssl|urllib3|urllib.request|torch.hub"


def test_no_code_but_that_of_downloads_imports_what_reaches_a_network():
    """Of `socket` the machine's name is asked for, to find out whose a lock is."""
    uses = {use for path in SOURCES for use in re.findall(r"\bsocket\.\w+", path.read_text())}
    assert uses == {"socket.gethostname"}
    reaching = rf"^ *(from|import) ({NETWORK})\b|torch\.hub\.|from urllib import.*request"
    for path in SOURCES:
        found = re.search(reaching, path.read_text(), re.MULTILINE)
        assert not found or path.parent.name == "download", path


def test_jobs_of_the_workflow_but_downloads_can_be_kept_from_the_network(tmp_path):
    """What the end-to-end tests rely on when they run all jobs with this hook."""
    program = tmp_path / "quicknat"
    program.write_text(
        "import socket\n"
        "pair = socket.socketpair()\n"
        "socket.socket().connect(('127.0.0.1', 9))\n"
    )  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests/no_network")}
    for command, said in (("convert", "no network here"), ("download", "refused")):
        done = subprocess.run(
            [sys.executable, program, command], env=environment, capture_output=True, text=True
        )
        assert said in done.stderr.splitlines()[-1].lower(), done.stderr


def test_linter_looks_for_pickle_eval_and_shells_in_the_package():
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"] and not [rule for rule in lint["ignore"] if rule.startswith("S")]
    ours = [rules for key, rules in lint["per-file-ignores"].items() if key.startswith("src")]
    assert set().union(*ours) == {"S603", "S606", "S607"}  # programs, from lists of arguments
    assert not [path for path in SOURCES if re.search(r"noqa: S\d", path.read_text())]
