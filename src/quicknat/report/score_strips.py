"""Lay out the strip plots of scores: Dice, HD95, each view alone, bias of volumes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from quicknat.images.slices import VIEWS
from quicknat.report.figures import VIEW_COLORS
from quicknat.report.strips import (
    ALL_LINKED,
    LINE,
    SIDE_LETTERS,
    WIDTH,
    Axis,
    Chart,
    Strip,
    add_dots,
    add_mark,
)
from quicknat.report.structures import Structure

WORST = 15  # dots that lead to their scans, if there are too many to link all
HD95_TICKS = (0, 1, 2, 5, 10, 20, 50, 100, 200)  # mm


def _strips(those: Sequence[Structure]) -> list[Strip]:
    return [
        Strip(s.name, s.color, s.group, SIDE_LETTERS if len(s.members) == 2 else ("",))
        for s in those
    ]


def _points(
    metrics: pd.DataFrame,
    measure: str,
    those: Sequence[Structure],
    paged: Collection[str],
    axis: Axis,
    move: Callable[[pd.DataFrame], pd.DataFrame],
    largest: bool,
) -> list[Strip]:
    """Return strips with a dot per scan; `move` is the axis's scale."""
    table = metrics.pivot(index="subject", columns="structure", values=measure)
    values = metrics.set_index(["subject", "structure"])[measure].dropna()
    worst = set((values.nlargest if largest else values.nsmallest)(WORST).index)
    few, moved, strips = len(table) <= ALL_LINKED, move(table), _strips(those)
    for strip, one in zip(strips, those, strict=True):
        for row, name in enumerate(one.members):
            if name not in table:
                continue
            named = [s for s in table.index if s in paged and (few or (s, name) in worst)]
            text = table[name]
            add_dots(strip, row, moved[name], axis, named,
                     lambda scan, _, name=name, text=text: f"{scan}: {name} {text[scan]:.3g}")  # type: ignore[misc]  # fmt: skip
    return strips


def dice(
    metrics: pd.DataFrame, table: pd.DataFrame, those: Sequence[Structure], paged: Collection[str]
) -> Chart:
    """Return Dice of each scan, with means and intervals over participants.

    Args:
        metrics: scores of all test scans.
        table: of :func:`quicknat.evaluation.scores.by_structure`.
        those: the structures.
        paged: scans that have a page.
    """
    axis = _to_one(metrics["dice"])
    strips = _points(metrics, "dice", those, paged, axis, lambda values: values, False)
    means = table.set_index("structure")
    if metrics["subject"].nunique() > 1:
        for strip, one in zip(strips, those, strict=True):
            for row, name in enumerate(one.members):
                add_mark(strip, row, axis, *means.loc[name, ["dice", "dice_low", "dice_high"]])
    return Chart(strips, axis.ticks(), "Dice")


def _to_one(values: pd.Series) -> Axis:
    low = values.min()
    return Axis(max(0, np.floor(10 * low - 0.2) / 10) if np.isfinite(low) else 0, 1)


def hd95(metrics: pd.DataFrame, those: Sequence[Structure], paged: Collection[str]) -> Chart:
    """Return the 95 % Hausdorff distance of each scan, with medians; as :func:`dice` does."""
    farthest = metrics["hd95_mm"].max()
    axis = Axis(0, float(np.log1p(farthest if np.isfinite(farthest) else 5)) * 1.03 or 1)
    strips = _points(metrics, "hd95_mm", those, paged, axis, np.log1p, True)
    medians = metrics.groupby("structure")["hd95_mm"].median()
    if metrics["subject"].nunique() > 1:
        for strip, one in zip(strips, those, strict=True):
            for row, name in enumerate(one.members):
                add_mark(strip, row, axis, float(np.log1p(medians.get(name, np.nan))))
    ticks = [(axis.at(np.log1p(mm)) / WIDTH * 100, f"{mm}") for mm in HD95_TICKS]
    return Chart(strips, [t for t in ticks if t[0] < 100], "HD95, mm (log)")


def views(by_view: pd.DataFrame, those: Sequence[Structure]) -> Chart:
    """Return mean Dice of each view alone and (bar) of all three.

    Args:
        by_view: of :func:`quicknat.evaluation.scores.by_view`.
        those: the structures.
    """
    means = by_view.set_index("structure")
    shown = [view for view in VIEWS if view in means]
    axis = _to_one(means[["aggregate", *shown]].stack())
    strips = _strips(those)
    for strip, one in zip(strips, those, strict=True):
        for row, name in enumerate(one.members):
            add_mark(strip, row, axis, means.at[name, "aggregate"])
            for view in shown:
                if np.isfinite(dice := means.at[name, view]):
                    path = f"M{axis.at(dice)} {LINE * (row + 0.5):g}h0"
                    strip.series[VIEW_COLORS[view]] = strip.series.get(VIEW_COLORS[view], "") + path
    return Chart(strips, axis.ticks(), "mean Dice")


def bias(table: pd.DataFrame, those: Sequence[Structure]) -> Chart:
    """Return the bias of predicted volumes with limits of agreement, in per cent.

    Args:
        table: of :func:`quicknat.evaluation.scores.bland_altman`.
        those: the structures.
    """
    rows: Mapping[str, pd.Series] = dict(table.set_index("structure").iterrows())
    axis = Axis.around(table[["bias", "low", "high"]].to_numpy(float).ravel(), -5, 5)
    strips = _strips(those)
    for strip, one in zip(strips, those, strict=True):
        for row, name in enumerate(one.members):
            add_mark(strip, row, axis, *(float(rows[name][key]) for key in ("bias", "low", "high")))
    zero = axis.at(0) / WIDTH * 100
    return Chart(strips, axis.ticks(), "prediction − reference, % of their mean", zero=zero)
