"""The command line: bad input gives one line, status 1 and no file; misuse gives status 2."""

import json
import logging
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from helpers import LABELS, ROOT
from quicknat.cli import app
from quicknat.cli.app import current_names, set_up_log


def quicknat(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "quicknat", *map(str, arguments)], capture_output=True, text=True
    )


def convert(source, output):
    return quicknat("convert", source, "--output", output, "--spacing", 4, "--size", 64)


def test_bad_image_is_refused_in_one_line_and_leaves_no_file(tmp_path, head_file):
    """Other faults, run in the tests' own process: tests/faults."""
    head_file.write_bytes(head_file.read_bytes()[:5000])
    done = convert(head_file, tmp_path / "out" / "sub-1_T1w.nii.gz")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: {head_file}: the gzip data is damaged")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_scan_and_labels_are_converted_and_cut_into_three_views(
    tmp_path, head, head_file, dseg_file
):
    conformed = tmp_path / "sub-1_space-conformed_T1w.nii.gz"
    assert convert(head_file, conformed).returncode == 0
    record = json.loads((tmp_path / "sub-1_space-conformed_T1w.json").read_text())
    assert record["source"] == str(head_file) and len(record["source_sha256"]) == 64
    assert tuple(record["source_shape"]) == head.shape
    np.testing.assert_allclose(record["source_affine"], head.affine, atol=1e-4)
    protocol = ("--protocol", LABELS / "quicknat28.tsv")
    done = quicknat(
        "convert-labels", dseg_file, "--scan", conformed, "--label-convention", "freesurfer",
        *protocol, "--output", tmp_path / "out/dseg.nii.gz",
        "--native", tmp_path / "out/native.nii.gz",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    native = nib.load(tmp_path / "out/native.nii.gz")
    assert native.shape == head.shape and np.asarray(native.dataobj).max() == 27
    assert nib.load(tmp_path / "out/dseg.nii.gz").shape == (64, 64, 64)
    done = quicknat(
        "slice", conformed, tmp_path / "out/dseg.nii.gz", *protocol,
        "--folder", tmp_path / "slices", "--name", "sub-1", "--size", 48,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for view in ("coronal", "axial", "sagittal"):
        stack = np.load(tmp_path / "slices" / view / "sub-1.npy")
        assert stack.shape[1:] == (2, 48, 48) and len(stack) > 10
    assert json.loads((tmp_path / "slices/sub-1.json").read_text())["labelled_voxels_outside"] == 0


BUNDLE = ["bundle", "m", "--protocol", "tissues4", "--output", "o", "--aggregation"]
MISUSE = [
    (["convert"], "Missing argument"),
    (["segmnt"], "Did you mean 'segment'?"),
    (["--quiet", "--verbose", "failures"], "contradict"),
    (["convert", "a.nii", "--output", "b.nii"], "must end in .nii.gz"),
    ([*BUNDLE, "{"], "is not valid JSON"),
    ([*BUNDLE, "[]"], "JSON object"),
    (["segment", "a.nii", "b.nii", "--name", "sub-1", "--output", "o"], "for a single image"),
    (["segment", "--list", "l.tsv", "--session-label", "1", "--output", "o"], "select some"),
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


def test_debug_shows_the_traceback(tmp_path):
    done = quicknat("--debug", "convert", tmp_path / "x.nii", "--output", tmp_path / "y.nii.gz")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_every_command_explains_itself_with_an_example():
    import typer

    commands = typer.main.get_command(app).commands
    assert len(commands) > 10
    for name, command in commands.items():
        assert "Example:" in command.help, name


def test_version_is_the_packages():
    import quicknat as package

    assert quicknat("--version").stdout.strip() == f"quicknat {package.__version__}"
    assert 'attr = "quicknat.__version__"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("option", "model"), [([], "1mm"), (["--fast"], "small")])
def test_without_a_model_a_bundled_one_is_taken(option, model, tmp_path):
    done = quicknat("segment", tmp_path / "no.nii", "--output", tmp_path / "out", *option)
    assert done.returncode == 1 and f"weights/{model} on " in done.stderr
    assert "not for commercial use" in done.stderr


HEAVY = {"torch", "monai", "torchio", "SimpleITK", "matplotlib", "pandas", "scipy", "nibabel"}


def test_help_loads_no_heavy_library_so_that_it_comes_at_once():
    """A time would depend on the machine: it was 0.3 s where each of these takes longer."""
    code = "import sys, quicknat.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and HEAVY & set(done.stdout.split()) == set()


NOT_TO_SEGMENT = {"SimpleITK", "torchio", "snakemake", "tensorboard", "monai", "matplotlib"}


@pytest.mark.slow
def test_segmenting_imports_nothing_that_only_other_stages_need(model, head_file, tmp_path):
    program = (
        "import sys; from quicknat.cli import app; app(sys.argv[1:], standalone_mode=False);"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    command = ["segment", head_file, "--model", model, "--output", tmp_path / "out", "--threads", 1]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, command)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (tmp_path / "out/sub-head/anat/sub-head_desc-quicknat_dseg.nii.gz").is_file()
    imported = set(done.stdout.split())
    assert "torch" in imported and not imported & NOT_TO_SEGMENT, imported & NOT_TO_SEGMENT


def test_help_separates_what_people_start_from_the_workflows_steps_and_says_how_to_begin():
    text = CliRunner().invoke(app, ["--help"]).output
    own, steps = text.split("Workflow steps")
    assert " segment " in own and " convert " in steps
    assert "quicknat segment SCAN" in steps  # at its end


@pytest.mark.slow
def test_quiet_says_nothing_of_what_went_well_and_verbose_says_more(tmp_path, head_file):
    said = {}
    for option in ("--quiet", "--verbose", None):
        arguments = ["convert", head_file, "--output", tmp_path / "c.nii.gz", "--spacing", 8]
        done = quicknat(*filter(None, [option]), *arguments, "--size", 32)
        assert done.returncode == 0, done.stderr
        said[option] = done.stderr
    assert said["--quiet"] == ""
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ INFO quicknat\.", said["--verbose"])
    assert said[None] and said[None].strip() in said["--verbose"]


def test_other_packages_write_only_warnings_to_the_log(monkeypatch, capsys):
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    set_up_log()
    logging.getLogger("onnx_ir.passes").info("Replaced initializer 'val_511'")
    logging.getLogger("onnx_ir.passes").warning("cannot be exported")
    logging.getLogger("quicknat.model.export").info("wrote bundle")
    assert capsys.readouterr().err == "cannot be exported\nwrote bundle\n"


def test_quiet_draws_no_progress_bar_on_a_terminal_either(monkeypatch):
    from quicknat.progress import no_bar

    monkeypatch.delenv("QUICKNAT_QUIET", raising=False)
    assert no_bar() is None  # tqdm asks the terminal
    monkeypatch.setenv("QUICKNAT_QUIET", "1")
    assert no_bar() is True
