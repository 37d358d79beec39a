"""Pictures of a cohort's scores, each legible with one test scan and with hundreds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.ticker import NullLocator, StrMethodFormatter

from quicknat.evaluation import scores
from quicknat.evaluation.scores import AGGREGATE
from quicknat.images.labels import Protocol
from quicknat.report.figures import VIEW_COLORS, plt

# Okabe–Ito, told apart also by the colour-blind; a scan each, if there are no more
SCAN_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
POINT, ACCENT = "#0072B2", "#D55E00"
MANY_POINTS = 3000  # beyond, SVG files hold the points as a picture, or they would be huge
VIEW_MARKERS = {"coronal": "o", "axial": "^", "sagittal": "s"}


def rows(axis: plt.Axes, order: Sequence[str]) -> None:
    """A row per structure, the first on top, in alternating bands that lead the eye."""
    axis.set(yticks=range(len(order)), ylim=(len(order) - 0.5, -0.5))
    axis.set_yticklabels(order, fontsize=8)
    axis.tick_params(axis="y", length=0)
    for row in range(0, len(order), 2):
        axis.axhspan(row - 0.5, row + 0.5, color="#f2f4f7", zorder=0)
    axis.grid(axis="x", alpha=0.4)


def height(order: Sequence[str]) -> float:
    """Inches that so many rows need."""
    return 0.27 * len(order) + 1.4


def _dice_axis(axis: plt.Axes, lowest: float, label: str) -> None:
    """Dice up to 1, down to just below the lowest."""
    low = np.floor(10 * lowest - 0.2) / 10 if np.isfinite(lowest) else 0
    axis.set(xlabel=label, xlim=(max(low, -0.02), 1))


def _legend(figure: plt.Figure) -> None:
    """Below the plot, where it hides nothing."""
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)


def _strips(metrics: pd.DataFrame, measure: str, order: Sequence[str]) -> tuple:
    """Points of each scan in a row per structure; few scans have a colour each."""
    figure, axis = plt.subplots(figsize=(8, height(order)), layout="constrained")
    rows(axis, order)
    places = {name: row for row, name in enumerate(order)}
    subjects = list(dict.fromkeys(metrics["subject"]))
    few = len(subjects) <= len(SCAN_COLORS)
    # scans side by side within the row, always in the same place
    shifts = dict(zip(subjects, np.linspace(-0.3, 0.3, len(subjects) + 2)[1:-1], strict=True))
    heights = metrics["structure"].map(places) + metrics["subject"].map(shifts)
    colors = dict(zip(subjects, SCAN_COLORS, strict=False)) if few else {"a test scan": POINT}
    for label, color in colors.items():
        some = metrics["subject"] == label if few else slice(None)
        axis.plot(
            metrics.loc[some, measure], heights[some], "o", color=color, label=label,
            ms=5 if few else 2.5, alpha=0.9 if few else 0.35, mew=0,
            rasterized=len(metrics) > MANY_POINTS,
        )  # fmt: skip
    return figure, axis


def dice(
    metrics: pd.DataFrame, order: Sequence[str], persons: Mapping[str, str] | None = None
) -> plt.Figure:
    """Dice per structure: a point per scan; of several the mean and its interval over persons.

    `persons` says who each scan is of, as for :func:`quicknat.evaluation.scores.mean_dice`.
    """
    figure, axis = _strips(metrics, "dice", order)
    table = scores.by_structure(metrics, order, persons)
    places, mean = np.arange(len(order)), table["dice"]
    known = table["dice_low"].notna()
    if metrics["subject"].nunique() > 1:
        label = "mean, 95 % interval" if known.any() else "mean"
        axis.plot(mean, places, "|", color="black", ms=11, mew=2, label=label)
    reach = [mean - table["dice_low"], table["dice_high"] - mean]
    axis.errorbar(
        mean[known], places[known], xerr=[part[known] for part in reach], fmt="none",
        ecolor="black", elinewidth=1.5, capsize=3,
    )  # fmt: skip
    average, low, high = scores.mean_dice(metrics, persons)
    text = f" (95 % interval {low:.3f} to {high:.3f})" if np.isfinite(low) else ""
    _dice_axis(axis, metrics["dice"].min(), "Dice")
    axis.set_title(f"Mean Dice {average:.3f}{text}", fontsize=10, loc="left")
    _legend(figure)
    return figure


def hd95(metrics: pd.DataFrame, order: Sequence[str]) -> plt.Figure:
    """95 % Hausdorff distance per structure: a point per scan, of several the median."""
    figure, axis = _strips(metrics, "hd95_mm", order)
    if metrics["subject"].nunique() > 1:
        median = metrics.groupby("structure")["hd95_mm"].median().reindex(list(order))
        axis.plot(median, range(len(order)), "|", color="black", ms=11, mew=2, label="median")
    axis.set_xscale("symlog", linthresh=1, linscale=0.4)
    farthest = metrics["hd95_mm"].max()
    ticks = [0, 0.5, 1, 2, 5, 10, 20, 50, 100, 200]
    axis.set_xlim(0, max(5, 1.1 * farthest) if np.isfinite(farthest) else 5)
    axis.set_xticks([tick for tick in ticks if tick <= axis.get_xlim()[1]])
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("HD95 (mm; logarithmic from 1 mm on)")
    _legend(figure)
    return figure


def views(
    table: pd.DataFrame, order: Sequence[str], persons: Mapping[str, str] | None = None
) -> plt.Figure:
    """Mean Dice over persons of each view alone and of their aggregate, per structure."""
    means = scores.by_view(table, order, persons)
    figure, axis = plt.subplots(figsize=(8, height(order)), layout="constrained")
    rows(axis, order)
    places = range(len(order))
    for view, marker in VIEW_MARKERS.items():
        if view in means:
            axis.plot(means[view], places, marker, color=VIEW_COLORS[view], ms=5, label=view)
    axis.plot(means[AGGREGATE], places, "D", color="black", ms=5.5, label="all three")
    gains = means["gain"].dropna()
    if len(gains):
        better = f"{(gains > 0).sum()} of {len(gains)} structures"
        axis.set_title(
            f"Better together than the best view in {better}; mean gain {gains.mean():+.3f}",
            fontsize=10,
            loc="left",
        )
    lowest = means.drop(columns=["structure", "best_view", "gain"]).min(axis=None)
    _dice_axis(axis, lowest, "mean Dice over people")
    _legend(figure)
    return figure


def confusion(table: pd.DataFrame, protocol: Protocol) -> plt.Figure:
    """Which class the voxels of each reference class were given; a row adds up to 100 %."""
    shares = scores.confusion_matrix(table, protocol.names)
    short = dict(zip(protocol.names, protocol.table["abbreviation"], strict=True))
    down, across = ([short[name] for name in names] for names in (shares.index, shares.columns))
    side = 0.28
    figure, axis = plt.subplots(
        figsize=(side * len(across) + 2.4, side * len(down) + 1.2), layout="constrained"
    )
    drawn = axis.imshow(shares.where(shares > 0.001), cmap="Blues", norm=LogNorm(0.001, 1))
    for (row, column), share in np.ndenumerate(shares.to_numpy()):
        if share >= 0.02:
            axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=6,
                      color="white" if share > 0.1 else "black")  # fmt: skip
    axis.set_yticks(range(len(down)), down, fontsize=7)
    axis.set_xticks(range(len(across)), across, fontsize=7, rotation=90)
    axis.set(xlabel="predicted", ylabel="reference")
    bar = figure.colorbar(drawn, ax=axis, shrink=0.6, ticks=[0.001, 0.01, 0.1, 1])
    bar.ax.set_yticklabels(["0.1 %", "1 %", "10 %", "100 %"], fontsize=8)
    bar.set_label("share of the reference's voxels", fontsize=8)
    return figure
