"""No user's text runs as code, and no command but `download` uses a network."""

from __future__ import annotations

import ast
import os
import re
import socket
import subprocess
import sys
import tomllib

import nibabel as nib
import numpy as np
import pytest

from fuzzing import quicknat
from helpers import LABELS, ROOT
from quicknat.cli import app
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


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name
    ]


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [("np.load", "allow_pickle", False), ("torch.load", "weights_only", True)],
)
def test_arrays_and_weights_are_loaded_without_running_what_is_in_them(name, option, value):
    found = [call for path in SOURCES for call in calls(ast.parse(path.read_text()), name)]
    assert found
    for call in found:
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert given.get(option) == str(value), ast.unparse(call)


def test_linter_looks_for_pickle_eval_and_shells_in_the_package():
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"] and not [rule for rule in lint["ignore"] if rule.startswith("S")]
    ours = [rules for key, rules in lint["per-file-ignores"].items() if key.startswith("src")]
    assert set().union(*ours) == {"S603", "S606", "S607"}  # programs, from lists of arguments
    assert not [path for path in SOURCES if re.search(r"noqa: S\d", path.read_text())]


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


@pytest.fixture
def no_network(monkeypatch):
    """Sockets that reach nothing but this machine's own processes; the attempts are kept."""
    attempts = []

    def refuse(*arguments, **options):
        attempts.append(arguments)
        raise OSError("no network in this test")

    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    return attempts


def test_command_that_wants_the_network_is_noticed(no_network, tmp_path):
    (tmp_path / "s.tsv").write_text(
        "source\tkind\turl\tmembers\tchecksum\nx\thttps\thttps://localhost/a\t*\tunpublished\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.sleep", lambda seconds: None)
        done = quicknat("download", tmp_path / "s.tsv", "x", "--output", tmp_path / "a")
    assert done.status == 1 and no_network


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


@pytest.mark.slow
def test_commands_without_network(no_network, tmp_path, head, demo_dseg, stack, golden):
    """No command but `download` uses one: here those that tests/e2e runs in no job of a run."""
    run = {"auto-label", "bundle", "convert", "convert-labels", "curves", "demo", "evaluate",
           "gather", "report", "scan-pictures", "score-figures", "segment", "slice", "train",
           "unpack", "volumes"}  # fmt: skip
    assert run <= set(
        re.findall(r'"(?:{{ )?quicknat ([a-z-]+) ', "".join(p.read_text() for p in RULES))
    )

    def ok(command, *arguments):
        run.add(command)
        done = quicknat(command, *arguments)
        assert done.status == 0, (command, str(done))

    table, raw, sheet = ("--protocol", "quicknat28"), tmp_path / "raw", tmp_path / "cohort.tsv"
    raw.mkdir()
    for number, name in enumerate(("sub-1", "sub-2")):
        scan = head.data.astype(np.int16) + number
        nib.save(nib.Nifti1Image(scan, head.affine), raw / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(demo_dseg.data, demo_dseg.affine), raw / f"{name}_dseg.nii.gz")
    labels = raw / "sub-2_dseg.nii.gz"
    ok("sheet", raw, "--output", sheet, "--use", "test", "--protocol", "freesurfer")
    ok("check", sheet, "--output", tmp_path / "check.tsv", *table)
    ok(
        "slice-tissues", labels, *table, "--folder", tmp_path / "slices", "--name",
        "sub-2_tissues", "--spacing", 4, "--size", 64, "--slice-size", 48,
    )  # fmt: skip
    ok("synthesize", labels, *table, "--output", tmp_path / "synthetic.png", "--spacing", 4)
    ok(
        "warp", raw / "sub-1.nii.gz", "--labels", raw / "sub-1_dseg.nii.gz", "--like", labels,
        *table, "--spacing", 4, "--output", tmp_path / "copy.nii.gz", "--labels-output",
        tmp_path / "copy_dseg.nii.gz",
    )  # fmt: skip
    (tmp_path / "axial").mkdir()
    stack = stack.rename(tmp_path / "axial/sub-1.npy")
    ok("slice-png", stack, *table, "--output", tmp_path / "png")
    ok("export", "small", "--output", tmp_path / "monai")
    ok("failures", tmp_path / "failed.tsv")
    ok("cite", "small")
    run.add("import-weights")  # which these weights are too few for
    quicknat(
        "import-weights", golden / "aux.npz", "--view", "axial", *table, "--output",
        tmp_path / "a.safetensors",
    )  # fmt: skip
    names = {c.name or c.callback.__name__.replace("_", "-") for c in app.registered_commands}
    assert run == names - {"download"}
    assert no_network == []
