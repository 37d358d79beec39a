"""Draw a cohort's training and scores in figures that suit one test scan as well as hundreds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.ticker import StrMethodFormatter

from quicknat.evaluation import scores
from quicknat.images.labels import Protocol
from quicknat.report.figures import INK, plt, save, training_curves
from quicknat.report.inputs import ReportInputs
from quicknat.report.structures import paired_order, structures

# Okabe–Ito, colour-blind-safe; one per scan, if there are enough
SCAN_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
POINT, ACCENT = "#0072B2", "#D55E00"
MANY_POINTS = 3000  # above this, SVG files hold the points as a bitmap, or they would be huge
NAMED = 5  # farthest points to label
HALO = {"facecolor": "white", "alpha": 0.6, "linewidth": 0, "pad": 0.5}
PLAIN = StrMethodFormatter("{x:g}")


def write_figures(inputs: ReportInputs, folder: Path) -> None:
    """Write the figures that a complete run has data for, as PNG and SVG, to a folder."""
    figures = {"curves": training_curves(inputs.histories)} if inputs.histories else {}
    if (metrics := inputs.metrics) is not None:
        table, people = inputs.protocol, inputs.participants
        points = scores.with_uncertainty(metrics, inputs.volumes)
        figures |= {
            "dice": dice(metrics, paired_order(inputs.structures), people),
            "bland_altman": bland_altman(metrics, table),
            "confusion": confusion(inputs.table("metrics/confusion.tsv"), table),
            "uncertainty": uncertainty(points, table),
        }
    for name, figure in figures.items():
        save(figure, folder / f"{name}.png", folder / f"{name}.svg", dpi=160)


def _axis(width: float, height: float) -> Any:  # whose figure is a Figure, not a SubFigure
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def _short(protocol: Protocol) -> dict[str, str]:
    """Return the abbreviations of the structures."""
    return dict(zip(protocol.names, protocol.table["abbreviation"], strict=True))


def _strips(metrics: pd.DataFrame, order: Sequence[str]) -> Any:
    """Draw the Dice of each scan in rows of structures, the first on top; few scans in colours."""
    axis = _axis(8, 0.27 * len(order) + 1.4)
    axis.set(yticks=range(len(order)), ylim=(len(order) - 0.5, -0.5))
    axis.set_yticklabels(order)
    axis.tick_params(axis="y", length=0)
    for row in range(0, len(order), 2):
        axis.axhspan(row - 0.5, row + 0.5, color="#f5f7fa", zorder=0)
    axis.grid(axis="x")
    subjects = list(dict.fromkeys(metrics["subject"]))
    few = len(subjects) <= len(SCAN_COLORS)
    # scans side by side within the row, always in the same order
    shifts = dict(zip(subjects, np.linspace(-0.3, 0.3, len(subjects) + 2)[1:-1], strict=True))
    rows = {name: row for row, name in enumerate(order)}
    heights = metrics["structure"].map(rows) + metrics["subject"].map(shifts)
    colors = dict(zip(subjects, SCAN_COLORS, strict=False)) if few else {"a test scan": POINT}
    for label, color in colors.items():
        some = metrics["subject"] == label if few else slice(None)
        axis.plot(
            metrics.loc[some, "dice"], heights[some], "o", color=color, label=label,
            ms=5 if few else 2.5, alpha=0.9 if few else 0.35, mew=0,
            rasterized=len(metrics) > MANY_POINTS,
        )  # fmt: skip
    return axis


def dice(
    metrics: pd.DataFrame, order: Sequence[str], participants: Mapping[str, str] | None = None
) -> plt.Figure:
    """Draw Dice per structure: points of scans; if several, mean and interval over participants.

    `participants` maps scans to participants, as for :func:`quicknat.evaluation.scores.mean_dice`.
    """
    axis = _strips(metrics, order)
    table = scores.by_structure(metrics, order, participants).reset_index(drop=True)
    known = table.dropna(subset="dice_low")
    if metrics["subject"].nunique() > 1:
        label = "mean, 95 % interval" if len(known) else "mean"
        axis.plot(table["dice"], table.index, "|", color=INK, ms=11, mew=2, label=label)
    axis.errorbar(
        known["dice"], known.index, fmt="none", ecolor=INK, elinewidth=1.5, capsize=3,
        xerr=[known["dice"] - known["dice_low"], known["dice_high"] - known["dice"]],
    )  # fmt: skip
    average, low, high = scores.mean_dice(metrics, participants)
    text = f" (95 % interval {low:.3f} to {high:.3f})" if np.isfinite(low) else ""
    lowest = metrics["dice"].min()
    left = np.floor(10 * lowest - 0.2) / 10 if np.isfinite(lowest) else 0
    axis.set(xlabel="Dice", xlim=(max(left, -0.02), 1))
    axis.set_title(f"Mean Dice {average:.3f}{text}")
    axis.figure.legend(loc="outside lower center", ncols=4)  # where it hides nothing
    return axis.figure


def confusion(table: pd.DataFrame, protocol: Protocol) -> plt.Figure:
    """Draw the confusion matrix of reference and predicted classes; rows add up to 100 %."""
    fractions = scores.confusion_matrix(
        table, [protocol.names[0], *paired_order(structures(protocol))]
    )
    short = _short(protocol)
    fractions = fractions.rename(index=short, columns=short)
    axis = _axis(0.28 * fractions.shape[1] + 2.4, 0.28 * fractions.shape[0] + 1.2)
    drawn = axis.imshow(fractions.where(fractions > 0.001), cmap="Blues", norm=LogNorm(0.001, 1))
    for (row, column), value in np.ndenumerate(fractions.to_numpy()):
        if value >= 0.02:
            axis.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7,
                      color="white" if value > 0.1 else "black")  # fmt: skip
    axis.set_yticks(range(len(fractions)), fractions.index, fontsize=8)
    axis.set_xticks(range(fractions.shape[1]), fractions.columns, fontsize=8, rotation=90)
    axis.set(xlabel="predicted", ylabel="reference")
    bar = axis.figure.colorbar(drawn, ax=axis, shrink=0.6, ticks=[0.001, 0.01, 0.1, 1])
    bar.ax.set_yticklabels(["0.1 %", "1 %", "10 %", "100 %"])
    bar.set_label("fraction of the reference voxels")
    return axis.figure


def _scatter(
    axis: plt.Axes,
    points: pd.DataFrame,
    place: tuple[str, str],
    distance: pd.Series,
    left: pd.Series,
    protocol: Protocol,
    **settings: Any,
) -> None:
    """Draw one point per structure and scan; label those with the largest distance.

    `points` has subject, structure, and the columns of `place`, x and y. Labels do not overlap; a
    point's goes to its left if `left` says so and there is room.
    """
    few = len(points) <= 200
    x, y = (points[name] for name in place)
    # above the labels, which would hide some
    axis.plot(x, y, "o", color=POINT, ms=5 if few else 3, alpha=0.7 if few else 0.25, mew=0,
              rasterized=len(points) > MANY_POINTS, zorder=4)  # fmt: skip
    axis.set(**settings)
    axis.grid()
    short = _short(protocol)
    named: list[tuple[float, float]] = []
    to_axes = axis.transData + axis.transAxes.inverted()
    for index in distance.nlargest(NAMED).index:
        at, row = (x[index], y[index]), points.loc[index]
        across, up = to_axes.transform(at)
        if any(abs(across - other) < 0.4 and abs(up - level) < 0.03 for other, level in named):
            continue
        named.append((across, up))
        leftwards = across > 0.78 or (across > 0.18 and left[index])
        axis.annotate(
            f"{short[row['structure']]}, {row['subject']}", at, fontsize=9, bbox=HALO,
            textcoords="offset points", xytext=(-5, 2) if leftwards else (5, -5),
            ha="right" if leftwards else "left",
        )  # fmt: skip


def bland_altman(metrics: pd.DataFrame, protocol: Protocol) -> plt.Figure:
    """Draw a Bland–Altman plot of all volumes."""
    points = scores.volume_differences(metrics)
    points["mean"] /= 1000
    axis = _axis(5.6, 5)
    mean, spread = points["difference"].mean(), 1.96 * points["difference"].std()
    away, outer = (points["difference"] - mean).abs(), points["mean"] > 10
    labels = {
        "xlabel": "mean of predicted and reference volume (ml)",
        "ylabel": "prediction − reference (% of their mean)",
    }
    scale = {"xscale": "log"} if len(points) else {}
    _scatter(axis, points, ("mean", "difference"), away, outer, protocol, **labels, **scale)
    axis.axhline(0, color=INK, lw=1)
    if len(points) >= scores.FEWEST:
        low, high = mean - spread, mean + spread
        axis.axhline(mean, color=ACCENT, label=f"bias {mean:+.1f} %")
        axis.axhline(low, color=ACCENT, ls="--", label=f"limits {low:+.1f} % to {high:+.1f} %")
        axis.axhline(high, color=ACCENT, ls="--")
        axis.figure.legend(loc="outside upper left", ncols=2)
    axis.xaxis.set_major_formatter(PLAIN)
    return axis.figure


def uncertainty(points: pd.DataFrame, protocol: Protocol) -> plt.Figure:
    """Draw Dice against uncertainty; `points`: as from `scores.with_uncertainty`."""
    axis = _axis(5.6, 4.6)
    outer = points["uncertainty"] > points["uncertainty"].median()
    labels = {"xlabel": "mean uncertainty of the structure (normalised entropy)", "ylabel": "Dice"}
    place = ("uncertainty", "dice")
    _scatter(axis, points, place, -points["dice"], outer, protocol, ylim=(None, 1), **labels)
    rho = scores.rank_correlation(points)
    title = "too few points for a rank correlation"
    if np.isfinite(rho):
        title = f"Spearman's ρ = {rho:.2f} over all points"
    within = scores.correlation_by_structure(points).dropna()
    if len(within):
        title += f"; within a structure {within.median():.2f} (median)"
    axis.set_title(title)
    return axis.figure
