"""Measure the error and the repeatability of the intracranial volume.

    python benchmarks/intracranial/validate.py --output scores.tsv heads/*.nii.gz \
        --maps maps/training_seg_03.nii.gz --references samseg

Rows: synthetic heads of label maps against the maps; scans as they are, with noise, rotated, and
resampled, against a reference where there is one (``REFERENCES/{scan}.nii.gz``, 0 outside the
cavity). ``seconds`` is CPU time of the brain mask alone.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from nibabel.affines import from_matvec
from prepare import CSF, intracranial, synthetic_head
from scipy.spatial.transform import Rotation

from quicknat.images.conform import conform
from quicknat.images.labels import Protocol
from quicknat.images.resampling import canonical, resample, resample_labels
from quicknat.images.volumes import Grid, Volume, read_scan, read_volume
from quicknat.segmentation.intracranial import Intracranial, brain_mask, find_cavity
from quicknat.synthesis.tissues import to_tissues

NOISE = 0.05  # SD, fraction of the 99th percentile


def rotated(scan: Volume, axis: str, degrees: float) -> Volume:
    """Return the scan with the head turned about the middle of its field of view."""
    middle = scan.affine @ [*(np.array(scan.shape) - 1) / 2, 1]
    turn = from_matvec(Rotation.from_euler(axis, degrees, degrees=True).as_matrix())
    there, back = (from_matvec(np.eye(3), sign * middle[:3]) for sign in (1, -1))
    data = resample(scan, Grid(scan.shape, there @ turn @ back @ scan.affine))
    return replace(scan, data=data)


def resampled(scan: Volume, spacing_mm: float) -> Volume:
    """Return the scan with larger voxels."""
    scan = canonical(scan)
    size = np.linalg.norm(scan.affine[:3, :3], axis=0)
    shape = tuple(np.floor(np.array(scan.shape) * size / spacing_mm).astype(int).tolist())
    grid = Grid(shape, scan.affine @ from_matvec(np.diag(spacing_mm / size)))
    return replace(scan, data=resample(scan, grid), affine=grid.affine)


def noisy(scan: Volume, seed: int = 0) -> Volume:
    """Return the scan with Rician noise."""
    random, sd = np.random.default_rng(seed), NOISE * np.percentile(scan.data, 99)
    one, two = (random.normal(0, sd, scan.shape) for _ in range(2))
    return replace(scan, data=np.hypot(scan.data + one, two).astype(np.float32))


CHANGES = {
    "as it is": lambda scan: scan,
    "noise": noisy,
    "pitch 10°": lambda scan: rotated(scan, "x", 10),
    "roll 10°": lambda scan: rotated(scan, "y", 10),
    "1.5 mm": lambda scan: resampled(scan, 1.5),
    "2 mm": lambda scan: resampled(scan, 2),
}


def found(
    scan: Volume, spacing_mm: float, brain: np.ndarray | None = None
) -> tuple[Intracranial, float]:
    """Return the result of a scan conformed to voxels of this size, and CPU seconds."""
    size = int(np.ceil(256 / spacing_mm / 16) * 16)
    image, grid, _ = conform(scan, spacing_mm, size)
    native = Grid(scan.shape, scan.affine)
    labels = np.zeros(scan.shape, np.uint8) if brain is None else brain.astype(np.uint8)
    start = time.process_time()
    cavity = find_cavity(image, grid.affine, spacing_mm, torch.device("cpu"))
    result = brain_mask(cavity, labels, native)
    return result, time.process_time() - start


def row(
    scan: Volume,
    name: str,
    change: str,
    spacing_mm: float,
    truth: np.ndarray | None,
    brain: np.ndarray | None = None,
) -> dict:
    """Return what was found in a scan, and how it compares with the true cavity."""
    result, seconds = found(scan, spacing_mm, brain)
    mm3 = abs(np.linalg.det(scan.affine[:3, :3]))
    values = {
        "scan": name, "change": change, "grid_mm": spacing_mm,
        "icv_ml": (result.volume_mm3 or np.nan) / 1000, "mask_ml": result.mask.sum() * mm3 / 1000,
        "reason": result.reason, "seconds": seconds,
    }  # fmt: skip
    if truth is not None:
        mask = result.mask > 0
        values["reference_ml"] = truth.sum() * mm3 / 1000
        values["dice"] = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
    print(values, flush=True)
    return values


def main(
    scans: Annotated[list[Path] | None, typer.Argument(help="T1w scans.")] = None,
    maps: Annotated[list[Path] | None, typer.Option(help="SynthSeg's maps; repeatable.")] = None,
    references: Annotated[Path | None, typer.Option(help="Folder of cavities.")] = None,
    changes: Annotated[str, typer.Option(help="Comma-separated; empty: all.")] = "",
    grids: Annotated[str, typer.Option(help="Voxel sizes of the model, mm.")] = "1",
    output: Annotated[Path, typer.Option(help="TSV to write.")] = Path("intracranial.tsv"),
) -> None:
    torch.set_num_threads(1)
    rows, table = [], Protocol.read(Path(__file__).with_name("intracranial.tsv"))
    sizes = [float(text) for text in grids.split(",")]
    for path in maps or []:
        volume = canonical(read_volume(path))
        labels = volume.data[::2, ::2, ::2].astype(np.int16)
        truth, affine = intracranial(labels), volume.affine @ np.diag([2, 2, 2, 1])
        tissues = to_tissues(labels, "freesurfer", table, path)
        brain = truth & (labels > 0) & (labels < 100) & (labels != CSF)
        for seed in range(4):
            image = synthetic_head(tissues, truth, np.random.default_rng((1, seed)), seed % 2 == 1)
            scan, name = Volume(image, affine, path), f"{path.name} {seed}"
            rows += [row(scan, name, "synthetic", 2.0, truth, brain)]
    for path in scans or []:
        scan, name = read_scan(path), path.name.removesuffix(".nii.gz")
        reference = references / path.name if references else None
        cavity = None
        if reference and reference.exists():
            cavity = resample_labels(read_volume(reference), Grid(scan.shape, scan.affine)) > 0
        for change in changes.split(",") if changes else CHANGES:
            own = cavity if change == "as it is" else None
            rows += [row(CHANGES[change](scan), name, change, mm, own) for mm in sizes]
    pd.DataFrame(rows).round(4).to_csv(output, sep="\t", index=False)


if __name__ == "__main__":
    typer.run(main)
