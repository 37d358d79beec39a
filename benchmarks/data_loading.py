"""Slices loaded per second: memory-mapped view stacks against PNG files.

    python benchmarks/data_loading.py results/slices/coronal/*.npy

The other way is that of many tutorials: each slice and its label map written as PNG by matplotlib,
read with MONAI's ``LoadImaged(reader=PILReader)`` in batches of one. Both ways take turns in one
process. They give the network the same numbers to one grey level, which is checked: matplotlib's
colour map moves some values by one.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import matplotlib.image
import numpy as np
import torch
import typer
from monai.data import Dataset, PILReader
from monai.transforms import Compose, LoadImaged, ScaleIntensityRanged
from torch.utils.data import DataLoader

from quicknat.training.data import EpochBatches, SliceDataset, augmentation


def write_png(stacks: SliceDataset, folder: Path) -> list[dict[str, Path]]:
    """Every slice as two grey PNG files."""
    files = []
    for number, pair in enumerate(pair for stack in stacks.stacks for pair in stack):
        row = {"image": folder / f"{number}.png", "labels": folder / f"{number}_labels.png"}
        for values, path in zip(pair, row.values(), strict=True):
            matplotlib.image.imsave(path, values, cmap="gray", vmin=0, vmax=255)
        files.append(row)
    return files


def png_loader(files: list[dict[str, Path]]) -> DataLoader:
    """MONAI reading those files, one at a time."""
    reader: Any = PILReader(  # monai takes one, though its types want a class
        converter=lambda image: image.convert("L"), reverse_indexing=False
    )
    load = Compose(
        [
            LoadImaged(("image", "labels"), reader=reader, ensure_channel_first=True),
            ScaleIntensityRanged("image", a_min=0, a_max=255, b_min=0, b_max=1),
        ]
    )
    return DataLoader(Dataset(files, load), batch_size=1, shuffle=True)


def our_loader(paths: list[Path], batch_size: int, augment: bool) -> DataLoader:
    """What ``quicknat train`` loads with."""
    size = SliceDataset(paths).stacks[0].shape[2]
    slices = SliceDataset(paths, augmentation(size) if augment else None)
    return DataLoader(slices, batch_sampler=EpochBatches(len(slices), batch_size, seed=0))


def slices_per_second(loader: Iterable[dict]) -> float:
    """Of one pass."""
    start, count = time.perf_counter(), 0
    for batch in loader:
        count += len(batch["image"])
    return count / (time.perf_counter() - start)


def main(
    stacks: Annotated[list[Path], typer.Argument(help="View stacks (results/slices/*/*.npy).")],
    rounds: Annotated[int, typer.Option(help="Passes of each way.")] = 5,
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Time one pass over the slices of some view stacks, loaded in several ways."""
    torch.set_num_threads(1)
    plain = SliceDataset(stacks)
    with tempfile.TemporaryDirectory() as folder:
        files = write_png(plain, Path(folder))
        for number in (0, len(plain) // 2):
            ours, theirs = plain[number], png_loader(files).dataset[number]
            png = np.asarray(theirs["image"]).reshape(ours["image"].shape)
            np.testing.assert_allclose(png, ours["image"], atol=1.01 / 255)
        ways = {
            "PNG, MONAI, batches of 1": png_loader(files),
            "stack, batches of 1": our_loader(stacks, 1, augment=False),
            "stack, batches of 4": our_loader(stacks, 4, augment=False),
            "stack, batches of 4, augmented": our_loader(stacks, 4, augment=True),
        }
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, loader in ways.items():
                speeds[name].append(slices_per_second(loader))
        png_bytes = sum(path.stat().st_size for row in files for path in row.values())
    stack_bytes = sum(path.stat().st_size for path in stacks)
    slowest = median(speeds["PNG, MONAI, batches of 1"])
    rows: list[dict[str, Any]] = [
        {
            "way": name,
            "slices_per_second": median(values),
            "times_png": median(values) / slowest,
            "bytes": png_bytes if name.startswith("PNG") else stack_bytes,
        }
        for name, values in speeds.items()
    ]
    height, width = plain.stacks[0].shape[2:]
    print(f"{len(plain)} slices of {height} x {width}, one process")
    print(f"{'way':32}{'slices/s':>10}{'x PNG':>8}{'MB on disk':>12}")
    for row in rows:
        print(
            f"{row['way']:32}{row['slices_per_second']:10.0f}{row['times_png']:8.1f}"
            f"{row['bytes'] / 1e6:12.1f}"
        )
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        record = {"slices": len(plain), "shape": [height, width], "ways": rows}
        output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
