"""The command line: bad input gives one line, status 1 and no file; misuse gives status 2."""

import json
import os
import pty
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from helpers import LABELS, ROOT
from quicknat.cli import app
from quicknat.cli.app import current_names


def quicknat(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "quicknat", *map(str, arguments)], capture_output=True, text=True
    )


def convert(source, output):
    return quicknat("convert", source, "--output", output, "--spacing", 4, "--size", 64)


def convert_labels(labels, scan, folder):
    return quicknat(
        "convert-labels", labels, "--scan", scan, "--label-convention", "freesurfer",
        "--protocol", LABELS / "quicknat28.tsv",
        "--output", folder / "dseg.nii.gz", "--native", folder / "native.nii.gz",
    )  # fmt: skip


@pytest.fixture
def conformed(head_file, tmp_path):
    output = tmp_path / "c" / "sub-1_space-conformed_T1w.nii.gz"
    assert convert(head_file, output).returncode == 0
    return output


def test_bad_image_is_refused_in_one_line_and_leaves_no_file(tmp_path, head_file):
    """Other faults, run in the tests' own process: tests/faults."""
    head_file.write_bytes(head_file.read_bytes()[:5000])
    done = convert(head_file, tmp_path / "out" / "sub-1_T1w.nii.gz")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: {head_file}: the gzip data is damaged")
    assert not (tmp_path / "out").exists()


def test_converted_labels_lie_on_both_grids(tmp_path, conformed, dseg_file, head):
    done = convert_labels(dseg_file, conformed, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    native = nib.load(tmp_path / "out/native.nii.gz")
    assert native.shape == head.shape
    assert nib.load(tmp_path / "out/dseg.nii.gz").shape == (64, 64, 64)
    assert np.asarray(native.dataobj).max() == 27


def test_sidecar_says_where_a_scan_came_from_and_how_to_return(conformed, head, head_file):
    record = json.loads(conformed.with_name("sub-1_space-conformed_T1w.json").read_text())
    assert record["source"] == str(head_file)
    assert tuple(record["source_shape"]) == head.shape
    np.testing.assert_allclose(record["source_affine"], head.affine, atol=1e-4)
    assert {"source_sha256", "intensity_at_0_and_255", "quicknat"} <= set(record)


@pytest.mark.slow
def test_scan_is_cut_into_three_views(tmp_path, conformed, dseg_file):
    assert convert_labels(dseg_file, conformed, tmp_path / "out").returncode == 0
    done = quicknat(
        "slice", conformed, tmp_path / "out/dseg.nii.gz", "--protocol", LABELS / "quicknat28.tsv",
        "--folder", tmp_path / "slices", "--name", "sub-1", "--size", 48,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for view in ("coronal", "axial", "sagittal"):
        stack = np.load(tmp_path / "slices" / view / "sub-1.npy")
        assert stack.shape[1:] == (2, 48, 48) and len(stack) > 10
    assert json.loads((tmp_path / "slices/sub-1.json").read_text())["labelled_voxels_outside"] == 0


@pytest.mark.slow
def test_atlas_labels_carry_over_to_a_shifted_copy(tmp_path, head, demo_dseg):
    for name, shift in (("a", 0), ("b", 4)):
        data = np.roll(head.data, shift, axis=1)
        nib.save(nib.Nifti1Image(data.astype(np.int16), head.affine), tmp_path / f"{name}.nii.gz")
        scan = tmp_path / name / "sub-1_space-conformed_T1w.nii.gz"
        assert convert(tmp_path / f"{name}.nii.gz", scan).returncode == 0
        labels = tmp_path / f"{name}_labels.nii.gz"
        moved = np.roll(demo_dseg.data, shift, axis=1)
        nib.save(nib.Nifti1Image(moved, head.affine), labels)
        assert convert_labels(labels, scan, tmp_path / name).returncode == 0
    done = quicknat(
        "auto-label", tmp_path / "b/sub-1_space-conformed_T1w.nii.gz",
        "--atlas", tmp_path / "a/sub-1_space-conformed_T1w.nii.gz",
        "--atlas-labels", tmp_path / "a/dseg.nii.gz", "--output", tmp_path / "auto.nii.gz",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = np.asarray(nib.load(tmp_path / "auto.nii.gz").dataobj)
    truth = np.asarray(nib.load(tmp_path / "b/dseg.nii.gz").dataobj)
    assert (found == truth)[truth > 0].mean() > 0.8


def test_misuse_exits_with_status_2():
    assert quicknat("convert").returncode == 2
    assert quicknat("no-such-command").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["convert", "a.nii", "--output", "b.nii"], "must end in .nii.gz"),
        (
            ["bundle", "m", "--protocol", "tissues4", "--output", "o", "--aggregation", "{"],
            "is not valid JSON",
        ),
        (
            ["bundle", "m", "--protocol", "tissues4", "--output", "o", "--aggregation", "[]"],
            "JSON object",
        ),
    ],
)
def test_option_of_the_wrong_form_is_misuse(arguments, reason):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
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


def test_one_name_for_several_images_is_misuse(tmp_path):
    done = quicknat("segment", "a.nii", "b.nii", "--name", "sub-1", "--output", "o")
    assert done.returncode == 2 and "--name is for a single image" in done.stderr


def test_list_of_scans_with_options_that_select_some_is_misuse():
    done = CliRunner().invoke(
        app, ["segment", "--list", "l.tsv", "--session-label", "1", "--output", "o"]
    )
    assert done.exit_code == 2 and "select some" in done.output


def test_fast_with_a_model_is_misuse():
    done = quicknat("segment", "a.nii", "--fast", "--model", "./m", "--output", "o")
    assert done.returncode == 2 and "leave out --model" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("option", "model"), [([], "1mm"), (["--fast"], "small")])
def test_without_a_model_a_bundled_one_is_taken(option, model, tmp_path):
    done = quicknat("segment", tmp_path / "no.nii", "--output", tmp_path / "out", *option)
    assert done.returncode == 1 and f"weights/{model} on " in done.stderr
    assert "research only" in done.stderr


HEAVY = {"torch", "monai", "torchio", "SimpleITK", "matplotlib", "pandas", "scipy", "nibabel"}


def test_help_loads_no_heavy_library_so_that_it_comes_at_once():
    """A time would depend on the machine: it was 0.3 s where each of these takes longer."""
    code = "import sys, quicknat.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and HEAVY & set(done.stdout.split()) == set()


def test_help_separates_what_people_start_from_the_workflows_steps_and_says_how_to_begin():
    text = CliRunner().invoke(app, ["--help"]).output
    own, steps = text.split("Workflow steps")
    assert " segment " in own and " convert " in steps
    assert "quicknat segment SCAN" in steps  # at its end


PLAIN = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "GITHUB_ACTIONS")}


@pytest.mark.slow
def test_piped_output_has_no_colours():
    for arguments in (["--help"], ["convert"]):
        done = subprocess.run(
            [sys.executable, "-m", "quicknat", *arguments], capture_output=True, env=PLAIN
        )
        assert b"\x1b" not in done.stdout + done.stderr


@pytest.mark.slow
def test_terminal_gets_colours_unless_told_otherwise():
    master, slave = pty.openpty()

    def shown(**variables):
        environment = PLAIN | {"TERM": "xterm-256color"} | variables
        command = [sys.executable, "-m", "quicknat", "no-such-command"]
        subprocess.run(command, stdout=slave, stderr=slave, env=environment)
        return os.read(master, 100_000)

    coloured = re.compile(rb"\x1b\[[\d;]*3\dm")
    assert coloured.search(shown())
    assert not coloured.search(shown(NO_COLOR="1"))


def test_wrong_name_of_a_command_is_answered_with_the_right_one():
    done = CliRunner().invoke(app, ["segmnt"])
    assert done.exit_code == 2 and "Did you mean 'segment'?" in done.output


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


def test_quiet_and_verbose_together_are_misuse():
    done = CliRunner().invoke(app, ["--quiet", "--verbose", "failures"])
    assert done.exit_code == 2 and "contradict" in done.output


def test_quiet_draws_no_progress_bar_on_a_terminal_either(monkeypatch):
    from quicknat.progress import no_bar

    monkeypatch.delenv("QUICKNAT_QUIET", raising=False)
    assert no_bar() is None  # tqdm asks the terminal
    monkeypatch.setenv("QUICKNAT_QUIET", "1")
    assert no_bar() is True


def test_shell_completes_the_names_of_commands():
    code = "import sys; sys.argv[0] = 'quicknat'; from quicknat.cli import main; main()"
    asked = {"_QUICKNAT_COMPLETE": "complete_bash", "COMP_WORDS": "quicknat seg", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | asked
    )
    assert done.stdout.split() == ["segment"], done.stderr
