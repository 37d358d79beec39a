"""How much volumes change when only the scan does: the same head turned, moved, with more noise.

    python benchmarks/accuracy/repeatability.py T1w.nii.gz OTHER.nii.gz --output repeat.tsv

Turning changes the header alone, as if the head had lain otherwise: nothing is interpolated but by
the segmentation itself, and all label maps of a scan lie on the same voxels.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from scipy.spatial.transform import Rotation

from quicknat.cli.app import ModelFolder
from quicknat.evaluation.metrics import count_pairs, overlap
from quicknat.evaluation.scores import interval
from quicknat.images.conform import conform
from quicknat.images.volumes import Grid, Volume, read_volume
from quicknat.model.bundle import Bundle, load_bundle
from quicknat.package_data import MODELS
from quicknat.segmentation.inference import segment

DEGREES, MM = 5.0, 3.0  # each drawn evenly from minus to plus that, about and along every axis
NOISE = 0.03  # standard deviation, fraction of the 98th percentile


def labels_of(bundle: Bundle, volume: Volume) -> np.ndarray:
    """Label map on the scan's own voxels."""
    image, grid, _ = conform(volume, bundle.spacing_mm, bundle.conform_size)
    return segment(bundle, image, grid.affine, Grid(volume.shape, volume.affine)).labels


def turned(volume: Volume, random: np.random.Generator) -> Volume:
    """The scan as if the head had lain otherwise."""
    motion = np.eye(4)
    angles = random.uniform(-DEGREES, DEGREES, 3)
    motion[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    centre = (volume.affine @ [*(np.array(volume.shape) / 2), 1])[:3]
    motion[:3, 3] = centre - motion[:3, :3] @ centre + random.uniform(-MM, MM, 3)
    return replace(volume, affine=motion @ volume.affine)


def noisy(volume: Volume, random: np.random.Generator) -> Volume:
    """The scan with Rician noise on top."""
    data = volume.data.astype(np.float32)
    sd = NOISE * np.percentile(data, 98)
    real, imaginary = random.normal(0, sd, (2, *data.shape)).astype(np.float32)
    return replace(volume, data=np.hypot(data + real, imaginary))


def compare(one: np.ndarray, other: np.ndarray, names: list[str], scan: str) -> pd.DataFrame:
    """Per structure Dice, and the change of volume in percent of the two volumes' mean."""
    a, b = (np.bincount(part.ravel(), minlength=len(names)) for part in (one, other))
    dice, _ = overlap(count_pairs(other, one, len(names), scan))
    table = pd.DataFrame(
        {
            "structure": names,
            "change_percent": 200 * abs(a - b) / np.maximum(a + b, 1),
            "dice": dice,
        }
    )
    return table[a + b > 0].iloc[1:]


def main(
    scans: Annotated[list[Path], typer.Argument(help="T1w scans.")],
    output: Annotated[Path, typer.Option(help="TSV of all changes.")] = Path("repeat.tsv"),
    model: ModelFolder = None,
    times: Annotated[int, typer.Option(min=1, help="Copies of each kind.")] = 3,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Segment every scan and its changed copies, and print how far volumes move."""
    torch.set_num_threads(threads)
    bundle = load_bundle(model or MODELS["1mm"])
    parts = []
    for path in scans:
        volume = read_volume(path)
        first = labels_of(bundle, volume)
        for kind, number in itertools.product((turned, noisy), range(times)):
            second = labels_of(bundle, kind(volume, np.random.default_rng(number)))
            found = compare(first, second, bundle.protocol.names, path.name)
            parts.append(found.assign(scan=path.name, change=kind.__name__))
            print(path.name, kind.__name__, number, flush=True)
    table = pd.concat(parts)[["scan", "change", "structure", "change_percent", "dice"]]
    table.to_csv(output, sep="\t", index=False, float_format="%.4f")
    print(
        "| change | scans | median change of volume | mean | 95 % interval | Dice |\n|-|-|-|-|-|-|"
    )
    for change, part in table.groupby("change", sort=False):
        by_scan = part.groupby("scan")["change_percent"].mean()
        low, high = interval(by_scan) if len(by_scan) > 2 else (np.nan, np.nan)
        print(
            f"| {change} | {len(by_scan)} | {part['change_percent'].median():.2f} % "
            f"| {by_scan.mean():.2f} % | {low:.2f} to {high:.2f} % | {part['dice'].mean():.3f} |"
        )


if __name__ == "__main__":
    typer.run(main)
