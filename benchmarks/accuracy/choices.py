"""How to make one label map of three networks: each choice on people that they never saw.

    python benchmarks/accuracy/choices.py /scratch/cv/scratch/0 /scratch/cv/scratch/1 \
        --output choices.tsv

Takes finished folds of ``cross_validate.py``. The weights of the views are fitted by leaving one
participant out: those that suit the other participants best are judged on the one left out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from scipy import ndimage

from quicknat.evaluation.metrics import count_pairs, evaluate, overlap
from quicknat.evaluation.scores import by_scan, interval
from quicknat.images.conform import head_window, load_conformed, record_grid
from quicknat.images.slices import VIEWS, crop
from quicknat.images.volumes import read_volume
from quicknat.model.bundle import Bundle, load_bundle, read_description
from quicknat.model.losses import prior_offsets
from quicknat.model.views import aggregate
from quicknat.segmentation.inference import HALF, moved, shifted
from quicknat.segmentation.native import to_native

PAPER = {"coronal": 0.4, "axial": 0.4, "sagittal": 0.2}
EQUAL = dict.fromkeys(VIEWS, 1 / 3)
FRACTIONS = (0.4, 0.8)  # of the class weights
STEPS = 10  # of the grid of weights
GRID = [
    dict(zip(VIEWS, (a / STEPS, b / STEPS, (STEPS - a - b) / STEPS), strict=True))
    for a, b in product(range(STEPS + 1), repeat=2)
    if a + b <= STEPS
]


def unweighted(bundle: Bundle, model: Path, fraction: float) -> Bundle:
    """Return the model with this prior correction (its own is 0)."""
    described = read_description(model)
    if described["prior_correction"]:
        raise SystemExit(f"{model}: was made with a prior correction already")
    networks = {view: copy.deepcopy(network) for view, network in bundle.networks.items()}
    for view, network in networks.items():
        offsets = prior_offsets(described["views"][view]["class_weights"], fraction)
        network.get_parameter("classifier.bias").data += offsets
    return replace(bundle, networks=networks)


def views_of(bundle: Bundle, window: np.ndarray) -> dict[str, torch.Tensor]:
    """Probabilities of each view alone, (C, S, S, S); background where it sees nothing."""
    found = {}
    for view in VIEWS:
        how = bundle.aggregation | {"weights": {view: 1.0}}
        one = aggregate({view: bundle.networks[view]}, torch.from_numpy(window.copy()), **how)
        box = (slice(f, f + n) for f, n in zip(one.start, one.probabilities.shape[1:], strict=True))
        found[view] = torch.zeros(len(bundle.protocol.names), *window.shape)
        found[view][0] = 1
        found[view][(slice(None), *box)] = one.probabilities
    return found


def together(views: Mapping[str, torch.Tensor], weights: Mapping[str, float]) -> torch.Tensor:
    """Weighted mean of the views."""
    return sum(weights[view] * views[view] for view in VIEWS)  # type: ignore[return-value]


def mean_dice(found: np.ndarray, reference: np.ndarray, classes: int) -> float:
    """Mean over the structures that either map has."""
    return float(np.nanmean(overlap(count_pairs(found, reference, classes, "choices"))[0][1:]))


def largest_components(labels: np.ndarray, classes: int) -> np.ndarray:
    """Of each structure the largest connected part alone."""
    result = np.zeros_like(labels)
    for index in range(1, classes):
        parts, count = ndimage.label(labels == index, np.ones((3, 3, 3)))
        if count:
            result[parts == np.bincount(parts.ravel())[1:].argmax() + 1] = index
    return result


def judge(run: Path, subject: str) -> tuple[list[dict], list[float]]:
    """Scores of one participant on the native grid by choice, and Dice by weights of the grid."""
    bundle = load_bundle(run / "results/model")
    classes = len(bundle.protocol.names)
    anat = run / f"results/scans/sub-{subject}/anat"
    name = f"sub-{subject}"
    image, grid, record = load_conformed(anat / f"{name}_space-conformed_T1w.nii.gz")
    first = head_window(image, bundle.spacing_mm, bundle.slice_size)
    window = crop(image, first, bundle.slice_size)
    native = record_grid(record)
    reference = read_volume(anat / f"{name}_dseg.nii.gz").data.astype(np.uint8)
    conformed = read_volume(anat / f"{name}_space-conformed_dseg.nii.gz").data
    there = crop(conformed, first, bundle.slice_size).astype(np.uint8)
    plain, mirrored = (views_of(replace(bundle, flip=mirror), window) for mirror in (False, True))
    by_weights = [
        mean_dice(together(plain, weights).argmax(dim=0).byte().numpy(), there, classes)
        for weights in GRID
    ]
    here, half = (moved(grid.affine, np.add(first, step)) for step in (0, HALF))
    plain_half, mirrored_half = (
        views_of(replace(bundle, flip=mirror), shifted(window)) for mirror in (False, True)
    )

    def labels(
        weights: Mapping[str, float], *passes: tuple[dict[str, torch.Tensor], np.ndarray]
    ) -> np.ndarray:
        return to_native([(together(views, weights), where) for views, where in passes], native)

    maps = {
        view: labels({**dict.fromkeys(VIEWS, 0.0), view: 1.0}, (plain, here))
        for view in ("coronal", "axial")
    }
    maps |= {
        "paper's weights": labels(PAPER, (plain, here)),
        "equal weights": labels(EQUAL, (plain, here)),
        "equal, mirror": labels(EQUAL, (mirrored, here)),
        "equal, shift": labels(EQUAL, (plain, here), (plain_half, half)),
        "equal, mirror, shift": labels(EQUAL, (mirrored, here), (mirrored_half, half)),
    }
    for fraction in FRACTIONS:
        corrected = replace(unweighted(bundle, run / "results/model", fraction), flip=True)
        choice = f"equal, mirror, {fraction:.0%} prior correction"
        maps[choice] = labels(EQUAL, (views_of(corrected, window), here))
    best = maps["equal, mirror, shift"]
    maps["equal, mirror, shift, largest component"] = largest_components(best, classes)
    rows = []
    for choice, found in maps.items():
        table = evaluate(found, reference, native.affine, bundle.protocol, name)
        means = by_scan(table)[["dice", "hd95_mm", "volume_error"]].iloc[0]
        rows.append({"subject": name, "choice": choice, **means})
    return rows, by_weights


def tell(table: pd.DataFrame, grid: pd.DataFrame) -> None:
    """Each choice against the paper's weights, then the fitted weights."""
    dice = table.pivot(index="subject", columns="choice", values="dice")
    means = table.groupby("choice")[["hd95_mm", "volume_error"]].mean()
    print("| choice | participants | mean Dice | gain | 95 % interval | HD95, mm | volume error |")
    print("|-|-|-|-|-|-|-|")
    for choice in table["choice"].unique():
        gain = dice[choice] - dice["paper's weights"]
        low, high = interval(gain)
        print(
            f"| {choice} | {len(gain)} | {dice[choice].mean():.4f} | {gain.mean():+.4f} "
            f"| {low:+.4f} to {high:+.4f} | {means.loc[choice, 'hd95_mm']:.2f} "
            f"| {means.loc[choice, 'volume_error']:.1%} |"
        )
    chosen = {p: (grid.drop(index=p).mean()).idxmax() for p in grid.index}
    gain = pd.Series({p: grid.loc[p, w] - grid.loc[p, str(PAPER)] for p, w in chosen.items()})
    low, high = interval(gain)
    print(
        f"\nFitted weights, one participant left out, on the conformed grid: {gain.mean():+.4f} "
        f"({low:+.4f} to {high:+.4f}) over the paper's; "
        f"equal: {(grid[str(nearest(EQUAL))] - grid[str(PAPER)]).mean():+.4f}. "
        f"Best for all: {grid.mean().idxmax()}."
    )


def nearest(weights: Mapping[str, float]) -> dict[str, float]:
    """The weights of the grid that are closest."""
    return min(GRID, key=lambda one: sum((one[view] - weights[view]) ** 2 for view in VIEWS))


def main(
    runs: Annotated[list[Path], typer.Argument(help="Finished folds of one arm.")],
    output: Annotated[Path, typer.Option(help="TSV of all scores.")],
    participants: Annotated[int, typer.Option(help="Of each fold; 0: all.")] = 0,
) -> None:
    """Score every choice on every participant tested."""
    torch.set_num_threads(1)
    rows, grid = [], {}
    for run in runs:
        sheet = pd.read_csv(run / "cohort.tsv", sep="\t", dtype=str)
        subjects = sheet.loc[sheet["split"] == "test", "subject"].tolist()
        for subject in subjects[: participants or None]:
            found, by_weights = judge(run, subject)
            rows += found
            grid[f"sub-{subject}"] = by_weights
            print(pd.DataFrame(found).to_string(index=False), flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(output, sep="\t", index=False, float_format="%.5f")
    tell(table, pd.DataFrame(grid, index=[str(weights) for weights in GRID]).T)


if __name__ == "__main__":
    typer.run(main)
