"""The command line: bad input gives one line, status 1 and no file; misuse gives status 2."""

import logging
import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import quicknat as package
from helpers import ROOT
from quicknat.cli import app
from quicknat.cli.app import current_names, set_up_log
from quicknat.progress import no_bar


def quicknat(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "quicknat", *map(str, arguments)], capture_output=True, text=True
    )


def test_error_is_one_line_and_a_traceback_with_debug(tmp_path):
    arguments = ("convert", tmp_path / "x.nii", "--output", tmp_path / "out/y.nii.gz")
    done = quicknat(*arguments)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: {tmp_path / 'x.nii'}: no such file")
    done = quicknat("--debug", *arguments)
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert not (tmp_path / "out").exists()


BUNDLE = ["bundle", "m", "--protocol", "tissues4", "--output", "o", "--aggregation"]
MISUSE = [
    (["convert"], "Missing argument"),
    (["segmnt"], "Did you mean 'segment'?"),
    (["--quiet", "--verbose", "failures"], "contradict"),
    (["convert", "a.nii", "--output", "b.nii"], "must end in .nii.gz"),
    ([*BUNDLE, "{"], "is not valid JSON"),
    ([*BUNDLE, "[]"], "JSON object"),
    (["segment", "a.nii", "b.nii", "--name", "sub-1", "--output", "o"], "for a single image"),
    (
        ["segment", "--list", "l.tsv", "--session-label", "1", "--output", "o"],
        "options that select scans",
    ),
    (["segment", "a.nii", "--fast", "--model", "1mm", "--output", "o"], "leave out --model"),
    (["segment", "a.nii", "--fast", "--model", "./m", "--output", "o"], "leave out --model"),
]


@pytest.mark.parametrize(("arguments", "reason"), MISUSE, ids=range(len(MISUSE)))
def test_misuse_exits_with_status_2_and_says_what_is_wrong(arguments, reason):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2 and reason in done.output


OLD_NAMES = {
    "reshape": ["reshape", "a.nii", "--numbering", "freesurfer"],
    "--use": ["sheet", "absent", "--use", "train", "--protocol=freesurfer"],
    "--numbering": ["convert-labels", "a.nii", "--numbering=freesurfer"],
    "--like-numbering": ["warp", "a.nii", "--like-numbering", "freesurfer"],
}


@pytest.mark.parametrize("name", OLD_NAMES)
def test_old_name_is_read_with_a_notice_and_hidden_from_the_help(name, monkeypatch, caplog):
    monkeypatch.delenv("QUICKNAT_NOTICES", raising=False)
    done = CliRunner().invoke(app, OLD_NAMES[name])
    assert "No such" not in done.output
    assert any(f"{name}' is now '" in line for line in caplog.messages), caplog.text
    command = OLD_NAMES[name][0].replace("reshape", "warp")
    assert f"{name} " not in CliRunner().invoke(app, [command, "--help"]).output
    assert f" {name} " not in CliRunner().invoke(app, ["--help"]).output


def test_new_names_and_arguments_after_two_dashes_give_no_notice():
    assert current_names(["warp", "--", "--numbering"]) == ["warp", "--", "--numbering"]
    assert current_names(["convert", "--protocol", "x"]) == ["convert", "--protocol", "x"]


def test_every_command_explains_itself_with_an_example():
    commands = typer.main.get_command(app).commands
    assert len(commands) > 10
    for name, command in commands.items():
        assert "Example:" in command.help, name


def test_version_is_the_packages():
    assert quicknat("--version").stdout.strip() == f"quicknat {package.__version__}"
    assert 'attr = "quicknat.__version__"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("option", "model"), [([], "1mm"), (["--fast"], "small")])
def test_without_a_model_a_bundled_one_is_taken(option, model, tmp_path):
    done = quicknat("segment", tmp_path / "no.nii", "--output", tmp_path / "out", *option)
    assert done.returncode == 1 and f"weights/{model} on " in done.stderr
    assert "not for commercial use" in done.stderr


HEAVY = {"torch", "monai", "torchio", "SimpleITK", "matplotlib", "pandas", "scipy", "nibabel"}
PRINT_IMPORTED = "print(*{name.partition('.')[0] for name in sys.modules})"


def imported_by(code, *arguments):
    command = [sys.executable, "-c", f"import sys; {code}; {PRINT_IMPORTED}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_help_loads_no_heavy_library_so_that_it_comes_at_once():
    """A time would depend on the machine: it was 0.3 s where each of these takes longer."""
    assert HEAVY & imported_by("import quicknat.cli") == set()


def test_looking_at_a_data_set_and_checking_it_need_no_torch():
    modules = ("cohort.survey", "cohort.writing", "cohort.check")
    assert "torch" not in imported_by("; ".join(f"import quicknat.{name}" for name in modules))


NOT_TO_SEGMENT = {"SimpleITK", "torchio", "snakemake", "tensorboard", "monai", "matplotlib"}


@pytest.mark.slow
def test_segmenting_imports_nothing_that_only_other_stages_need(model, head_file, tmp_path):
    command = ["segment", head_file, "--model", model, "--output", tmp_path / "out", "--threads", 1]
    code = "from quicknat.cli import app; app(sys.argv[1:], standalone_mode=False)"
    imported = imported_by(code, *map(str, command))
    assert (tmp_path / "out/sub-head/anat/sub-head_desc-quicknat_dseg.nii.gz").is_file()
    assert "torch" in imported and imported & NOT_TO_SEGMENT == set()


def test_help_separates_what_people_start_from_the_workflows_steps_and_says_how_to_begin():
    text = CliRunner().invoke(app, ["--help"]).output
    own, steps = text.split("Workflow steps")
    assert " segment " in own and " convert " in steps
    assert "quicknat segment SCAN" in steps  # at its end


@pytest.mark.slow
def test_quiet_says_nothing_of_what_went_well_and_verbose_says_more(tmp_path, head_file):
    said = {}
    for option in ("--quiet", "--verbose", "--no-debug"):
        arguments = ["convert", head_file, "--output", tmp_path / "c.nii.gz", "--spacing", 8]
        done = quicknat(option, *arguments, "--size", 32)
        assert done.returncode == 0, done.stderr
        said[option] = done.stderr
    assert said["--quiet"] == ""
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ INFO quicknat\.", said["--verbose"])
    assert said["--no-debug"].strip() and said["--no-debug"].strip() in said["--verbose"]


def test_other_packages_write_only_warnings_to_the_log(monkeypatch, capsys):
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    set_up_log()
    logging.getLogger("onnx_ir.passes").info("Replaced initializer 'val_511'")
    logging.getLogger("onnx_ir.passes").warning("cannot be exported")
    logging.getLogger("quicknat.model.export").info("wrote bundle")
    assert capsys.readouterr().err == "cannot be exported\nwrote bundle\n"


def test_quiet_draws_no_progress_bar_on_a_terminal_either(monkeypatch):
    monkeypatch.delenv("QUICKNAT_QUIET", raising=False)
    assert no_bar() is None  # tqdm asks the terminal
    monkeypatch.setenv("QUICKNAT_QUIET", "1")
    assert no_bar() is True
