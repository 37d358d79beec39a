"""The command line: bad input gives one line, status 1 and no file; misuse gives status 2."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from helpers import LABELS, ROOT
from quicknat.cli import app


def quicknat(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "quicknat", *map(str, arguments)], capture_output=True, text=True
    )


def convert(source, output):
    return quicknat("convert", source, "--output", output, "--spacing", 4, "--size", 64)


def convert_labels(labels, scan, folder):
    return quicknat(
        "convert-labels", labels, "--scan", scan, "--numbering", "freesurfer",
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
            [
                "bundle",
                "m",
                "--protocol",
                LABELS / "tissues4.tsv",
                "--output",
                "o",
                "--aggregation",
                "{",
            ],
            "is no JSON",
        ),
        (
            [
                "bundle",
                "m",
                "--protocol",
                LABELS / "tissues4.tsv",
                "--output",
                "o",
                "--aggregation",
                "[]",
            ],
            "JSON object",
        ),
    ],
)
def test_option_of_the_wrong_form_is_misuse(arguments, reason):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 2 and reason in done.output


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
    done = quicknat("segment", "a.nii", "b.nii", "--name", "sub-1", "--model", "m", "--output", "o")
    assert done.returncode == 2 and "--name is for a single image" in done.stderr
