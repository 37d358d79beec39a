"""How labels return to a scan's own grid: which way agrees best with manual labels, and its cost.

    python benchmarks/native_grid.py cohort.tsv --model results/model --split val

- probabilities: interpolated linearly onto the native grid, most probable class there (ours);
- labels: most probable class on the model's grid, resampled as labels are.

The sheet's scans and labels must be local files on the same grid.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import nibabel as nib
import numpy as np
import pandas as pd
import torch
import typer
from nibabel.affines import apply_affine

from quicknat.cohort.sheet import read_sheet
from quicknat.hardware import computes_in_bfloat16
from quicknat.images.conform import conform, head_window
from quicknat.images.resampling import resample_labels
from quicknat.images.slices import crop
from quicknat.images.volumes import Grid, Volume, read_volume
from quicknat.model.bundle import Bundle, load_bundle
from quicknat.segmentation.inference import predict
from quicknat.segmentation.native import to_native


def both_ways(bundle: Bundle, volume: Volume) -> Iterator[tuple[str, np.ndarray, float]]:
    """Name of a way, labels on the native grid, seconds that the way back took."""
    image, grid, _ = conform(volume, bundle.spacing_mm, bundle.conform_size)
    first = head_window(image, bundle.spacing_mm, bundle.slice_size)
    prediction = predict(bundle, crop(image, first, bundle.slice_size))
    affine = grid.affine.copy()
    affine[:3, 3] = apply_affine(affine, np.add(first, prediction.start))
    native = Grid(volume.shape, volume.affine)
    start = time.perf_counter()
    labels = to_native([(prediction.probabilities, affine)], native)
    yield "probabilities", labels, time.perf_counter() - start
    start = time.perf_counter()
    classes = prediction.probabilities.argmax(dim=0).byte().numpy()
    labels = resample_labels(Volume(classes, affine, volume.path), native)
    yield "labels", labels, time.perf_counter() - start


def main(
    sheet: Annotated[Path, typer.Argument(help="Cohort with labelled scans.")],
    model: Annotated[Path, typer.Option(help="Model folder.")],
    split: Annotated[str, typer.Option(help="Which of its scans.")] = "test",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = torch.get_num_threads(),
) -> None:
    """Compare both ways over the scans."""
    torch.set_num_threads(threads)
    bundle = load_bundle(model, bfloat16=computes_in_bfloat16(gpu=False))
    names, rows = bundle.protocol.names, []
    for scan in read_sheet(sheet):
        if scan.split != split:
            continue
        volume = read_volume(sheet.parent / scan.image, scan.orientation)
        labels = read_volume(sheet.parent / scan.labels, scan.orientation)
        truth = bundle.protocol.remap(labels.data, scan.label_convention, scan.labels)
        for way, found, seconds in both_ways(bundle, volume):
            both, ours, its = (
                np.bincount(part.ravel(), minlength=len(names))[1:]
                for part in (truth[truth == found], truth, found)
            )
            dice = (2 * both / (ours + its)).mean()
            rows.append({"scan": scan.id, "way": way, "dice": dice, "seconds": seconds})
            print(f"{scan.id}, {way}: mean Dice {dice:.4f}, {seconds:.1f} s", flush=True)
    zooms = nib.affines.voxel_sizes(volume.affine).round(2).tolist()
    print(f"\nmodel at {bundle.spacing_mm:g} mm, last scan {zooms} mm {volume.shape}")
    table = pd.DataFrame(rows).groupby("way", sort=False)[["dice", "seconds"]].mean()
    print(table.round(4).to_string())


if __name__ == "__main__":
    typer.run(main)
