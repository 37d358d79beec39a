"""`quicknat check`: files, a sheet, and exit statuses."""

import nibabel as nib
import numpy as np
from typer.testing import CliRunner

from cohort_folder import SIDE, constant
from helpers import ROOT, tiny_scan
from quicknat.cli import app
from quicknat.cohort.check import read_verdicts


def run(*arguments):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_command_checks_bare_files_and_exits_with_1_when_one_is_bad(tmp_path):
    good, bad = (tmp_path / name for name in ("sub-1_T1w.nii.gz", "bad.nii.gz"))
    tiny_scan(good, SIDE)
    done = run(good, "--output", tmp_path / "check.tsv")
    assert done.exit_code == 0 and "1 checked: 1 ok" in done.output
    constant(bad)
    done = run(good, bad, "--output", tmp_path / "check.tsv")
    assert done.exit_code == 1
    assert [v.scan for v in read_verdicts(tmp_path / "check.tsv")] == ["sub-1", "sub-bad"]


def test_command_takes_the_orientation_of_files_that_state_none(tmp_path):
    random = np.random.default_rng(0)
    image = nib.AnalyzeImage(random.integers(1, 9, (12, 12, 12)).astype(np.int16), None)
    nib.save(image, tmp_path / "a.img")
    arguments = (tmp_path / "a.img", "--output", tmp_path / "check.tsv")
    assert run(*arguments).exit_code == 1
    assert run(*arguments, "--orientation", "LAS").exit_code == 0


def test_command_checks_a_sheet(cohort, monkeypatch):
    cohort.add("a")
    cohort.arguments()
    monkeypatch.chdir(ROOT)
    done = run(cohort.folder / "sheet.tsv", "--output", cohort.table)
    assert done.exit_code == 0, done.output
    assert "sub-a" in done.output and f"table: {cohort.table}" in done.output
    cohort.add("b", make=constant)
    cohort.arguments()
    assert run(cohort.folder / "sheet.tsv", "--output", cohort.table).exit_code == 1


def test_sheet_among_files_is_misuse(tmp_path):
    assert run(tmp_path / "a.tsv", tmp_path / "b.nii").exit_code == 2
