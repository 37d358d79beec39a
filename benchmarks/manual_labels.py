"""Agreement with manual labels: of ways back to a scan's grid, of uncertainty, and of atlases.

    python benchmarks/manual_labels.py native-grid cohort.tsv --model results/model --split val
    python benchmarks/manual_labels.py uncertainty cohort.tsv --model results/model --split test
    python benchmarks/manual_labels.py atlases cohort.tsv

The sheet's scans and labels must be local files on the same grid.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import torchio as tio
import typer
from nibabel.affines import apply_affine

from quicknat.autolabel.atlas import BRAIN_BOX_MM, label_by_atlases
from quicknat.cli.app import QUICKNAT28, ProtocolFile
from quicknat.cohort.sheet import Scan, read_sheet
from quicknat.evaluation.metrics import count_pairs, overlap
from quicknat.hardware import computes_in_bfloat16
from quicknat.images.conform import conform, head_window
from quicknat.images.labels import Protocol
from quicknat.images.resampling import resample_labels
from quicknat.images.slices import crop
from quicknat.images.volumes import Grid, Volume, read_volume
from quicknat.model.bundle import Bundle, load_bundle
from quicknat.segmentation.inference import predict, segment
from quicknat.segmentation.native import to_native

FALLING = ("uncertainty", "cv")  # scores that are low where Dice is high

Sheet = Annotated[Path, typer.Argument(help="Cohort with labelled scans.")]
Model = Annotated[Path, typer.Option(help="Model folder.")]
Split = Annotated[str, typer.Option(help="Which of its scans.")]
Threads = Annotated[int, typer.Option(help="CPU threads.")]
Output = Annotated[Path | None, typer.Option(help="TSV of every score.")]

app = typer.Typer()


def load(model: Path, threads: int) -> Bundle:
    """Load a model in the precision that `quicknat segment` has here."""
    torch.set_num_threads(threads)
    return load_bundle(model, bfloat16=computes_in_bfloat16(gpu=False))


def labelled(
    sheet: Path, protocol: Protocol, split: str = ""
) -> Iterator[tuple[Scan, Volume, np.ndarray]]:
    """Yield the labelled scans of a split, or all: row, image, and classes on its grid."""
    for scan in read_sheet(sheet):
        if scan.labels and split in ("", scan.split):
            image, labels = (
                read_volume(sheet.parent / path, scan.orientation)
                for path in (scan.image, scan.labels)
            )
            yield scan, image, protocol.remap(labels.data, scan.label_convention, scan.labels)


def dice(found: np.ndarray, truth: np.ndarray, names: list[str]) -> pd.Series:
    """Return Dice of each structure; NaN for one that is in neither map."""
    values, _ = overlap(count_pairs(found, truth, len(names), "labels"))
    return pd.Series(values, names)[1:]


def both_ways(bundle: Bundle, volume: Volume) -> Iterator[tuple[str, np.ndarray, float]]:
    """Yield the name of a way, labels on the native grid, and seconds that the way back took."""
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


@app.command()
def native_grid(
    sheet: Sheet, model: Model, split: Split = "test", threads: Threads = torch.get_num_threads()
) -> None:
    """Compare two ways back to a scan's own grid, and their time.

    Probabilities are interpolated linearly, and the most probable class is taken there (ours); or
    the most probable class on the model's grid is resampled as labels are.
    """
    bundle, rows = load(model, threads), []
    for scan, volume, truth in labelled(sheet, bundle.protocol, split):
        for way, found, seconds in both_ways(bundle, volume):
            mean = dice(found, truth, bundle.protocol.names).mean()
            rows.append({"scan": scan.id, "way": way, "dice": mean, "seconds": seconds})
            print(f"{scan.id}, {way}: mean Dice {mean:.4f}, {seconds:.1f} s", flush=True)
    table = pd.DataFrame(rows).groupby("way", sort=False)[["dice", "seconds"]].mean()
    print(f"\nmodel at {bundle.spacing_mm:g} mm\n{table.round(4).to_string()}")


def degraded(volume: Volume) -> dict[str, Volume]:
    """Return the scan and worse copies of it, the same at each call."""
    torch.manual_seed(0)
    high = float(np.percentile(volume.data, 99))
    ways = {
        "noise": tio.RandomNoise(std=(0.05 * high, 0.05 * high)),
        "more noise": tio.RandomNoise(std=(0.12 * high, 0.12 * high)),
        "blur": tio.RandomBlur(std=(1, 1)),
        "more blur": tio.RandomBlur(std=(2.5, 2.5)),
        "ghosts": tio.RandomGhosting(num_ghosts=4, intensity=(0.8, 0.8)),
    }
    image = tio.ScalarImage(tensor=volume.data[None].astype(np.float32), affine=volume.affine)
    copies = {
        name: Volume(way(image).numpy()[0], volume.affine, volume.path)
        for name, way in ways.items()
    }
    return {"as it is": volume, **copies}


@app.command()
def uncertainty(
    sheet: Sheet,
    model: Model,
    split: Split = "test",
    samples: Annotated[int, typer.Option(help="Passes with dropout; 0 for none.")] = 10,
    threads: Threads = torch.get_num_threads(),
    output: Output = None,
) -> None:
    """Correlate Dice of each structure with each score, over scans and degraded copies."""
    bundle, parts = load(model, threads), []
    names = bundle.protocol.names
    for scan, volume, truth in labelled(sheet, bundle.protocol, split):
        native = Grid(volume.shape, volume.affine)
        for way, copy in degraded(volume).items():
            image, grid, _ = conform(copy, bundle.spacing_mm, bundle.conform_size)
            result = segment(bundle, image, grid.affine, native, samples=samples)
            found = pd.DataFrame(result.uncertainty, names)[1:]
            found["dice"] = dice(result.labels, truth, names)
            parts.append(found.rename_axis("structure").assign(scan=scan.id, way=way))
            print(f"{scan.id}, {way}: mean Dice {found['dice'].mean():.3f}", flush=True)
    scores = pd.concat(parts).reset_index()
    ranks = pd.DataFrame(
        {
            structure: group[list(result.uncertainty)].corrwith(group["dice"], method="spearman")
            for structure, group in scores.groupby("structure", sort=False)
        }
    ).T
    ranks[[name for name in FALLING if name in ranks]] *= -1
    print("\nSpearman's rank correlation with Dice (sign turned for scores that fall)")
    print(ranks.round(2).to_string())
    print("median over structures:", ranks.median().round(2).to_dict())
    if output:
        scores.to_csv(output, sep="\t", index=False, float_format="%.6g")


@app.command()
def atlases(
    sheet: Sheet,
    protocol: ProtocolFile = QUICKNAT28,
    count: Annotated[int, typer.Option("--atlases", min=1, help="How many vote.")] = 3,
    spacing: Annotated[float, typer.Option(help="Voxel side of the conformed grid, mm.")] = 2.0,
    nearest: Annotated[
        bool, typer.Option(help="The most correlated ones, not the sheet's first.")
    ] = False,
    threads: Threads = 1,
    output: Output = None,
) -> None:
    """Label each scan from atlases of other participants (`auto_labels.method: atlas`)."""
    table, heads, people = Protocol.read(protocol), {}, {}
    for scan, volume, truth in labelled(sheet, table):
        image, grid, _ = conform(volume, spacing, round(256 / spacing))
        classes = resample_labels(Volume(truth, volume.affine, volume.path), grid)
        side = min(round(BRAIN_BOX_MM / spacing), len(image))
        first = head_window(image, spacing, side)
        heads[scan.id] = crop(image, first, side), crop(classes, first, side)
        people[scan.id] = scan.participant
    scores = {}
    for name, (image, truth) in heads.items():
        others = [other for other in heads if people[other] != people[name]]
        if nearest:
            alike = {one: np.corrcoef(heads[one][0].ravel(), image.ravel())[0, 1] for one in others}
            others.sort(key=lambda one: -alike[one])
        start = time.perf_counter()
        pairs = [heads[other] for other in others[:count]]
        found = label_by_atlases(image, pairs, spacing, 0, threads)
        seconds = time.perf_counter() - start
        scores[name] = dice(found, truth, table.names)
        mean = scores[name].mean()
        print(f"{name} from {', '.join(others[:count])}: mean Dice {mean:.3f}, {seconds:.0f} s")
    result = pd.DataFrame(scores)
    print(result.agg(["mean", "std"], axis="columns").round(3).to_string())
    print(f"mean over structures of {len(scores)} scans {np.nanmean(result.to_numpy()):.3f}")
    if output:
        result.to_csv(output, sep="\t", float_format="%.6g")


if __name__ == "__main__":
    app()
