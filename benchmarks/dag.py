"""CPU seconds and memory until Snakemake knows what to do, for cohorts of many scans.

    python benchmarks/dag.py --scans 100 --scans 1000 --scans 5000
    python benchmarks/dag.py --scans 2000 --scans 50000 --model 1mm --rounds 1

Each cohort is made of tiny real files that lie beside the sheet: four in five for training, or,
with a finished model, all to segment. A dry run checks the cohort first, which reads every file
that is not segmented in a chunk.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Annotated

import nibabel as nib
import numpy as np
import typer
from processes import measure

ROOT = Path(__file__).parents[1]
OVERLAY = """
sheet: {sheet}
conform: {{spacing_mm: 4.0, size: 64}}
slices: {{size: 48}}
"""


def write_cohort(folder: Path, scans: int, model: str) -> Path:
    """A sheet and its files: every image another, all with the same labels; return the overlay."""
    random, affine = np.random.default_rng(0), np.diag([4.0, 4.0, 4.0, 1.0])
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[2:6, 2:6, 2:6] = 2
    nib.save(nib.Nifti1Image(labels, affine), folder / "labels.nii")
    rows = ["subject\timage\tlabels\tlabel_convention\tsplit"]
    for number in range(scans):
        image = random.integers(0, 200, labels.shape).astype(np.uint8)
        nib.save(nib.Nifti1Image(image, affine), folder / f"{number}.nii")
        split = ("train", "train", "train", "train", "test")[number % 5]
        given = "\t\tsegment" if model else f"labels.nii\tfreesurfer\t{split}"
        rows.append(f"{number:05d}\t{number}.nii\t{given}")
    (folder / "cohort.tsv").write_text("\n".join(rows) + "\n")
    settings = OVERLAY.format(sheet=folder / "cohort.tsv") + (f"model: {model}\n" if model else "")
    (folder / "overlay.yaml").write_text(settings)
    return folder / "overlay.yaml"


def dry_run(folder: Path, overlay: Path) -> tuple[float, float, int]:
    """Return CPU seconds (user and system), peak GiB, and jobs planned."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile"]
    command += ["--directory", folder, "--configfile", overlay, "--cores", 2]
    took = measure([*command, "--dry-run", "--quiet", "rules"], log=subprocess.STDOUT)
    total = next(line for line in took.printed.splitlines() if line.startswith("total "))
    return took.cpu_seconds, took.peak_gib, int(total.split()[1])


def main(
    scans: Annotated[list[int], typer.Option(help="Size of a cohort; repeatable.")],
    rounds: Annotated[int, typer.Option(help="Timed dry runs of each.")] = 3,
    model: Annotated[str, typer.Option(help="Finished model to segment all scans with.")] = "",
) -> None:
    """Time dry runs of the whole workflow."""
    print(f"{'scans':>7}{'jobs':>8}{'seconds':>9}{'peak GiB':>10}")
    for count in scans:
        with tempfile.TemporaryDirectory() as temporary:
            overlay = write_cohort(Path(temporary), count, model)
            runs = [dry_run(Path(temporary), overlay) for _ in range(rounds)]
        seconds, memory = (median(values) for values in list(zip(*runs, strict=True))[:2])
        print(f"{count:7}{runs[0][2]:8}{seconds:9.1f}{memory:10.2f}", flush=True)


if __name__ == "__main__":
    typer.run(main)
