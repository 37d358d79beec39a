"""How well labels carried over from atlases agree with given ones: leave one out, Dice.

    python benchmarks/autolabel.py cohort.tsv

Each labelled scan of the sheet is labelled from others of it, on the conformed grid: from the first
ones of the sheet, or from the nearest (`--nearest`: highest correlation of the conformed images'
brain boxes). The sheet's scans and labels must be local files.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from quicknat.autolabel.atlas import BRAIN_BOX_MM, label_by_atlases
from quicknat.cli.app import QUICKNAT28, ProtocolFile
from quicknat.cohort.sheet import Scan, read_sheet
from quicknat.images.conform import conform, conform_labels, head_window
from quicknat.images.labels import Protocol
from quicknat.images.slices import crop
from quicknat.images.volumes import read_volume


def boxed(
    scan: Scan, folder: Path, protocol: Protocol, spacing_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Conformed image and classes of a scan within the box that holds its brain."""
    image, grid, _ = conform(
        read_volume(folder / scan.image, scan.orientation), spacing_mm, round(256 / spacing_mm)
    )
    given = read_volume(folder / scan.labels, scan.orientation)
    _, classes = conform_labels(given, scan.label_convention, protocol, grid)
    side = min(round(BRAIN_BOX_MM / spacing_mm), len(image))
    first = head_window(image, spacing_mm, side)
    return crop(image, first, side), crop(classes, first, side)


def dice(found: np.ndarray, truth: np.ndarray, count: int) -> np.ndarray:
    """Dice of the classes 1 … count-1, NaN for one that is in neither map."""
    both, ours, its = (
        np.bincount(part.ravel(), minlength=count)[1:]
        for part in (truth[truth == found], found, truth)
    )
    with np.errstate(invalid="ignore"):
        return 2 * both / (ours + its)


def main(
    sheet: Annotated[Path, typer.Argument(help="Cohort with labelled scans.")],
    protocol: ProtocolFile = QUICKNAT28,
    atlases: Annotated[int, typer.Option(min=1, help="How many vote.")] = 3,
    spacing: Annotated[float, typer.Option(help="Voxel side of the conformed grid, mm.")] = 2.0,
    nearest: Annotated[bool, typer.Option(help="The most alike, not the first.")] = False,
    scans: Annotated[int | None, typer.Option(help="Label only the first so many.")] = None,
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 1,
    output: Annotated[Path | None, typer.Option(help="JSON to write.")] = None,
) -> None:
    """Label each scan from others of other people, and compare."""
    table = Protocol.read(protocol)
    rows = [row for row in read_sheet(sheet) if row.labels]
    heads = {row.id: boxed(row, sheet.parent, table, spacing) for row in rows}
    scores = {}
    for row in rows[:scans]:
        image, truth = heads[row.id]
        others = [other.id for other in rows if other.participant != row.participant]
        if nearest:
            others.sort(key=lambda name: -np.corrcoef(heads[name][0].ravel(), image.ravel())[0, 1])
        chosen = others[:atlases]
        start = time.perf_counter()
        found = label_by_atlases(image, [heads[name] for name in chosen], spacing, 0, threads)
        seconds = time.perf_counter() - start
        scores[row.id] = dice(found, truth, len(table.names))
        print(
            f"{row.id} from {', '.join(chosen)}: mean Dice {np.nanmean(scores[row.id]):.3f},"
            f" {seconds:.0f} s",
            flush=True,
        )
    result = pd.DataFrame(scores, index=table.names[1:]).T
    print(f"\n{len(result)} scans, {atlases} atlases each, {spacing:g} mm")
    print(result.agg(["mean", "std"]).T.round(3).to_string())
    print(f"mean over structures {np.nanmean(result.to_numpy()):.3f}")
    if output:
        result.to_json(output, orient="index", indent=1)


if __name__ == "__main__":
    typer.run(main)
