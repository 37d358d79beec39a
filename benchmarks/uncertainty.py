"""Whether the scores of a segmentation predict its Dice: rank correlation per structure.

    python benchmarks/uncertainty.py cohort.tsv --model results/model --split test

Each labelled scan is segmented as it is and in degraded copies (noise, blur, ghosting), so that
there are good and bad results to tell apart. The sheet's scans and labels must be local files on
the same grid.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import torchio as tio
import typer

from quicknat.cohort.sheet import read_sheet
from quicknat.hardware import computes_in_bfloat16
from quicknat.images.conform import conform
from quicknat.images.volumes import Grid, Volume, read_volume
from quicknat.model.bundle import load_bundle
from quicknat.segmentation.inference import segment

FALLING = ("uncertainty", "cv")  # scores that are low where Dice is high


def degraded(volume: Volume) -> dict[str, Volume]:
    """The scan and worse copies of it, the same at each call."""
    torch.manual_seed(0)
    high = float(np.percentile(volume.data, 99))
    ways = {
        "as it is": None,
        "noise": tio.RandomNoise(std=(0.05 * high, 0.05 * high)),
        "more noise": tio.RandomNoise(std=(0.12 * high, 0.12 * high)),
        "blur": tio.RandomBlur(std=(1, 1)),
        "more blur": tio.RandomBlur(std=(2.5, 2.5)),
        "ghosts": tio.RandomGhosting(num_ghosts=4, intensity=(0.8, 0.8)),
    }
    image = tio.ScalarImage(tensor=volume.data[None].astype(np.float32), affine=volume.affine)
    return {
        name: volume if way is None else Volume(way(image).numpy()[0], volume.affine, volume.path)
        for name, way in ways.items()
    }


def main(
    sheet: Annotated[Path, typer.Argument(help="Cohort with labelled scans.")],
    model: Annotated[Path, typer.Option(help="Model folder.")],
    split: Annotated[str, typer.Option(help="Which of its scans.")] = "test",
    samples: Annotated[int, typer.Option(help="Passes with dropout; 0 for none.")] = 10,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = torch.get_num_threads(),
    output: Annotated[Path | None, typer.Option(help="TSV of every score.")] = None,
) -> None:
    """Correlate Dice with each score over scans and degraded copies."""
    torch.set_num_threads(threads)
    bundle = load_bundle(model, bfloat16=computes_in_bfloat16(gpu=False))
    protocol, parts = bundle.protocol, []
    for scan in read_sheet(sheet):
        if scan.split != split:
            continue
        volume = read_volume(sheet.parent / scan.image, scan.orientation)
        labels = read_volume(sheet.parent / scan.labels, scan.orientation)
        truth = protocol.remap(labels.data, scan.label_convention, scan.labels)
        for way, copy in degraded(volume).items():
            image, grid, _ = conform(copy, bundle.spacing_mm, bundle.conform_size)
            native = Grid(volume.shape, volume.affine)
            result = segment(bundle, image, grid.affine, native, samples=samples)
            both, ours, its = (
                np.bincount(part.ravel(), minlength=len(protocol.names))
                for part in (truth[truth == result.labels], truth, result.labels)
            )
            dice = 2 * both / np.maximum(ours + its, 1)
            table = pd.DataFrame({"structure": protocol.names, "dice": dice, **result.uncertainty})
            parts.append(table[1:].assign(scan=scan.id, way=way))
            print(f"{scan.id}, {way}: mean Dice {dice[1:].mean():.3f}", flush=True)
    scores = pd.concat(parts)
    names = list(result.uncertainty)
    rows = {
        structure: {
            name: group["dice"].corr(group[name], method="spearman")
            * (-1 if name in FALLING else 1)
            for name in names
        }
        for structure, group in scores.groupby("structure", sort=False)
    }
    table = pd.DataFrame(rows).T
    print("\nSpearman's rank correlation with Dice (sign turned for scores that fall)")
    print(table.round(2).to_string())
    print("median over structures:", table.median().round(2).to_dict())
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        scores.to_csv(output, sep="\t", index=False, float_format="%.6g")


if __name__ == "__main__":
    typer.run(main)
