"""How much volumes change when only the scan does: the same head turned, moved, with more noise.

    python benchmarks/accuracy/repeatability.py T1w.nii.gz OTHER.nii.gz --output repeat.tsv

Turning changes the header alone, as if the head had lain otherwise: nothing is interpolated but by
the segmentation itself, and all label maps of a scan lie on the same voxels. Scans that really were
repeated are compared with ``--retest FIRST --retest SECOND``, by volume alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from scipy.spatial.transform import Rotation

from quicknat.cli.app import BUNDLED_MODEL, ModelFolder
from quicknat.evaluation.metrics import count_pairs, overlap
from quicknat.evaluation.scores import interval
from quicknat.images.conform import conform
from quicknat.images.volumes import Grid, Volume, read_volume
from quicknat.model.bundle import Bundle, load_bundle
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


def compare(
    one: np.ndarray, other: np.ndarray, names: list[str], voxel_mm3: Sequence[float] = (1, 1)
) -> Iterator[dict]:
    """Per structure the change of volume, in percent of the two volumes' mean."""
    for index, name in enumerate(names[1:], start=1):
        a, b = (
            (part == index).sum() * size for part, size in zip((one, other), voxel_mm3, strict=True)
        )
        if a + b:
            yield {"structure": name, "change_percent": 200 * abs(a - b) / (a + b)}


def main(
    scans: Annotated[list[Path] | None, typer.Argument(help="T1w scans.")] = None,
    output: Annotated[Path, typer.Option(help="TSV of all changes.")] = Path("repeat.tsv"),
    model: ModelFolder = BUNDLED_MODEL,
    retest: Annotated[
        list[Path] | None, typer.Option(help="Two scans of one participant; give it twice a pair.")
    ] = None,
    times: Annotated[int, typer.Option(min=1, help="Copies of each kind.")] = 3,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Segment every scan and its changed copies, and print how far volumes move."""
    torch.set_num_threads(threads)
    bundle = load_bundle(model)
    names = bundle.protocol.names
    rows = []
    for path in scans or []:
        volume = read_volume(path)
        first = labels_of(bundle, volume)
        for kind, number in itertools.product((turned, noisy), range(times)):
            copy = kind(volume, np.random.default_rng(number))
            second = labels_of(bundle, copy)
            dice, _ = overlap(count_pairs(second, first, len(names), path.name))
            rows += [
                {"scan": path.name, "change": kind.__name__, **row,
                 "dice": dice[names.index(row["structure"])]}
                for row in compare(first, second, names)
            ]  # fmt: skip
            print(path.name, kind.__name__, number, flush=True)
    pairs = retest or []
    for one, other in zip(pairs[::2], pairs[1::2], strict=True):
        volumes = [read_volume(path) for path in (one, other)]
        sizes = [abs(float(np.linalg.det(v.affine[:3, :3]))) for v in volumes]
        first, second = (labels_of(bundle, volume) for volume in volumes)
        rows += [
            {"scan": one.name, "change": "retest", "dice": np.nan, **row}
            for row in compare(first, second, names, sizes)
        ]
    table = pd.DataFrame(rows)
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
