"""A run in which a scan and a training fail: what is told, and what is kept."""

import os
import shutil
import tarfile

import numpy as np
import pytest

from helpers import ROOT, job_counts, run_snakemake, save
from quicknat.failures import SILENT, read_failed
from quicknat.files import sha256

pytestmark = pytest.mark.slow
# the axial training is killed as it begins, as Linux does where memory runs out
KILLER = '#!/bin/sh\n[ "$1 $2" = "train axial" ] && echo at work && kill -KILL $$\nexec "{}" "$@"\n'
MODEL = "results/models/finetune/{}/model.safetensors"
SCAN = "results/scans/sub-{0}/anat/sub-{0}_space-conformed_T1w.nii.gz"
SETTINGS = {
    "on_bad_scan": "skip",
    "conform": {"spacing_mm": 4.0, "size": 64},
    "slices": {"size": 48},
    "network": {"filters": 4},
    "training": {"batch_size": 8, "compile": False},
    "finetune": {"epochs": 1},
}


def make_cohort(folder, head, dseg):
    """Scans t, v and s, `bad`, and `late`, damaged inside its archive; returns their rows."""
    labels = save(folder / "labels.nii.gz", dseg.data.astype(np.int16), dseg.affine)
    for number, name in enumerate(("t", "v", "s", "late")):
        save(folder / f"{name}.nii.gz", (head.data + number).astype(np.int16), head.affine)
    (folder / "bad.nii").write_text("no image")
    late, archive = folder / "late.nii.gz", folder / "late.tar"
    late.write_bytes(late.read_bytes()[:20_000])
    with tarfile.open(archive, "w") as tar:
        tar.add(late, late.name)
    table = (ROOT / "workflow/sources.tsv").read_text().rstrip()
    row = {"source": "late", "kind": "file", "url": archive.as_uri(), "members": late.name}
    row["checksum"] = f"sha256:{sha256(archive)}"
    line = "\t".join(row.get(column, "") for column in table.splitlines()[0].split("\t"))
    (folder / "sources.tsv").write_text(f"{table}\n{line}\n")
    given = f"{labels}\tfreesurfer"
    return [
        "subject\tsource\timage\tlabels\tlabel_convention\tsplit",
        f"t\t\tt.nii.gz\t{given}\ttrain",
        f"v\t\tv.nii.gz\t{given}\tval",
        "s\t\ts.nii.gz\t\t\tsegment",
        "bad\t\tbad.nii\t\t\tsegment",
        "late\tlate\tlate.nii.gz\t\t\tsegment",
    ]


@pytest.mark.case(58)
def test_table_of_what_failed_is_left_until_a_run_succeeds(tmp_path, head, demo_dseg):
    rows = make_cohort(tmp_path, head, demo_dseg)
    (tmp_path / "bin").mkdir()
    killer = tmp_path / "bin/quicknat"
    killer.write_text(KILLER.format(shutil.which("quicknat")))
    killer.chmod(0o755)

    def run(*arguments, rows=rows, path=os.environ["PATH"]):
        (tmp_path / "cohort.tsv").write_text("\n".join(rows) + "\n")
        tables = {"sheet": str(tmp_path / "cohort.tsv"), "sources": str(tmp_path / "sources.tsv")}
        overlay = SETTINGS | tables
        environment = os.environ | {"PATH": path}
        return run_snakemake(tmp_path, *arguments, overlay=overlay, env=environment)

    views = ("coronal", "axial", "sagittal")
    wanted = [*map(MODEL.format, views), SCAN.format("s")]
    path = os.pathsep.join([str(killer.parent), os.environ["PATH"]])
    # quiet, since the table must not depend on what is printed
    options = ("--quiet", "all", "--keep-going")
    done = run(*options, *wanted, SCAN.format("late"), path=path)
    assert done.returncode != 0, done.text
    table = tmp_path / "results/failed.tsv"
    convert, training = sorted(read_failed(table), key=lambda failure: failure.stage)
    assert (convert.stage, convert.scan) == ("convert", "sub-late")
    assert "late.nii.gz: " in convert.reason and "damaged" in convert.reason
    assert convert.reason in (tmp_path / convert.log).read_text()
    assert (training.stage, training.scan) == ("finetune", "axial")
    assert training.reason == f"{SILENT} (last line: at work)" and training.excerpt == "at work"
    assert "2 failed:\n" in done.stderr and f"convert   sub-late  {convert.reason}" in done.stderr
    assert "run the same command again" in done.stderr
    page = (tmp_path / "results/report/incomplete.html").read_text()
    assert "that were left out" in page and "bad.nii" in page and "0 of 2 scans to segment" in page
    assert "2 jobs failed" in page and "sub-late" in page and "late.nii.gz: " in page
    assert 'href="../logs/convert/sub-late.log"' in page
    for name in (SCAN.format("s"), MODEL.format("coronal"), MODEL.format("sagittal")):
        assert (tmp_path / name).is_file(), name

    left = run("--dry-run", *wanted, rows=rows[:-1])
    assert job_counts(left.text) == {"finetune": 1} and table.exists()
    done = run(*wanted, rows=rows[:-1])
    assert done.returncode == 0, done.text[-3000:]
    assert not table.exists() and not (tmp_path / "results/report/incomplete.html").exists()
