"""Pictures of single structures of single scans: volumes against the reference, uncertainty."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.ticker import StrMethodFormatter

from quicknat.evaluation import scores
from quicknat.images.labels import Protocol
from quicknat.report.figures import plt
from quicknat.report.score_figures import ACCENT, MANY_POINTS, POINT, height, rows

NAMED = 5  # farthest points that get their names
HALO = {"facecolor": "white", "alpha": 0.6, "linewidth": 0, "pad": 0.5}


def _points(axis: plt.Axes, x: pd.Series, y: pd.Series) -> None:
    few = len(x) <= 200
    axis.plot(x, y, "o", color=POINT, ms=5 if few else 3, alpha=0.7 if few else 0.25, mew=0,
              rasterized=len(x) > MANY_POINTS)  # fmt: skip


def _name_farthest(
    axis: plt.Axes,
    points: pd.DataFrame,
    place: tuple[str, str],
    distance: pd.Series,
    left: pd.Series,
    protocol: Protocol,
) -> None:
    """Write structure and scan beside the points with the largest distance.

    Where two names would overlap, the one with the larger distance stays.

    Args:
        axis: with the points, at the columns `place`.
        points: subject, structure, and the columns of `place`.
        place: names of the columns drawn along x and y.
        distance: of each point.
        left: whether its name is to go to its left rather than right, if there is room.
        protocol: abbreviations.
    """  # fmt: skip
    short = dict(zip(protocol.names, protocol.table["abbreviation"], strict=True))
    to_axes = axis.transData + axis.transAxes.inverted()
    named: list[tuple[float, float]] = []
    for index in distance.nlargest(NAMED).index:
        row = points.loc[index]
        x, y = to_axes.transform(tuple(row[list(place)]))
        if any(abs(x - other) < 0.4 and abs(y - level) < 0.03 for other, level in named):
            continue
        named.append((x, y))
        leftwards = x > 0.78 or (x > 0.18 and left[index])
        axis.annotate(
            f"{short[row['structure']]}, {row['subject']}", tuple(row[list(place)]), fontsize=7,
            textcoords="offset points", xytext=(-5, 2) if leftwards else (5, -5), bbox=HALO,
            ha="right" if leftwards else "left",
        )  # fmt: skip


def volumes(metrics: pd.DataFrame, protocol: Protocol) -> plt.Figure:
    """Predicted against reference volume, a point per structure and scan."""
    both = metrics[(metrics["volume_mm3"] > 0) & (metrics["reference_mm3"] > 0)]
    points = both[["subject", "structure"]].assign(
        reference=both["reference_mm3"] / 1000, predicted=both["volume_mm3"] / 1000
    )
    figure, axis = plt.subplots(figsize=(7.8, 6), layout="constrained")
    _points(axis, points["reference"], points["predicted"])
    if len(points):
        axis.set(xscale="log", yscale="log", aspect="equal")
        ends = [points[["reference", "predicted"]].stack().agg(f) for f in ("min", "max")]
        ends = [ends[0] / 1.5, ends[1] * 1.5]
        axis.set(xlim=(ends[0], 5 * ends[1]), ylim=ends)  # room for the names on the right
        axis.plot(ends, ends, color="black", lw=1, label="equal volumes")
        for factor, label in ((1.1, "±10 %"), (1 / 1.1, None)):
            line = [end * factor for end in ends]
            axis.plot(ends, line, ":", color="black", lw=1, label=label)
        away = np.log(points["predicted"] / points["reference"]).abs()
        above = points["predicted"] > points["reference"]
        _name_farthest(axis, points, ("reference", "predicted"), away, above, protocol)
        axis.legend(loc="upper left", fontsize=8)
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set(xlabel="reference volume (ml)", ylabel="predicted volume (ml)")
    axis.grid(alpha=0.3)
    return figure


def bland_altman(metrics: pd.DataFrame, protocol: Protocol) -> plt.Figure:
    """Difference of the volumes against their mean, and bias with limits of each structure."""
    order = protocol.names[1:]
    points = scores.volume_differences(metrics)
    points["mean"] /= 1000
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12, height(order)), layout="constrained", width_ratios=(1.2, 1)
    )
    _points(left, points["mean"], points["difference"])
    left.axhline(0, color="black", lw=1)
    mean, spread = points["difference"].mean(), 1.96 * points["difference"].std()
    if len(points) >= scores.FEWEST:
        low, high = mean - spread, mean + spread
        left.axhline(mean, color=ACCENT, label=f"bias {mean:+.1f} %")
        left.axhline(low, color=ACCENT, ls="--", label=f"limits {low:+.1f} % to {high:+.1f} %")
        left.axhline(high, color=ACCENT, ls="--")
        left.legend(fontsize=8)
    if len(points):
        left.set_xscale("log")
    left.set(ylabel="prediction less reference (% of the mean of both)")
    left.set_xlabel("mean of predicted and reference volume (ml)")
    left.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    left.set_title("All structures and scans", fontsize=10, loc="left")
    left.grid(alpha=0.3)
    away, outer = (points["difference"] - mean).abs(), points["mean"] > 30
    _name_farthest(left, points, ("mean", "difference"), away, outer, protocol)
    table = scores.bland_altman(metrics, order)
    rows(right, order)
    right.axvline(0, color="black", lw=1)
    known = table.dropna(subset="low")
    if len(known):
        right.errorbar(
            known["bias"], known.index, xerr=known["high"] - known["bias"], fmt="none",
            ecolor=POINT, elinewidth=2, capsize=3, label="limits of agreement (bias ± 1.96 SD)",
        )  # fmt: skip
    right.plot(table["bias"], table.index, "D", color="black", ms=5, label="bias (mean)")
    right.set_xlabel("prediction less reference (% of the mean of both)")
    right.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.02), ncols=2, frameon=False)
    return figure


def uncertainty(points: pd.DataFrame, protocol: Protocol) -> plt.Figure:
    """Dice against the uncertainty that the segmentation itself reports.

    Args:
        points: of :func:`quicknat.evaluation.scores.with_uncertainty`.
        protocol: abbreviations of the structures.
    """
    figure, axis = plt.subplots(figsize=(7, 5), layout="constrained")
    _points(axis, points["uncertainty"], points["dice"])
    rho = scores.rank_correlation(points)
    title = "too few points for a rank correlation"
    if np.isfinite(rho):
        title = f"Spearman's ρ = {rho:.2f} over all points"
    within = scores.correlation_by_structure(points, protocol.names[1:])["spearman"].dropna()
    if len(within):
        title += f"; within a structure {within.median():.2f} (median)"
    axis.set_title(title, fontsize=10, loc="left")
    axis.set(xlabel="mean uncertainty of the structure (normalised entropy)", ylabel="Dice")
    axis.set_ylim(top=1)
    axis.grid(alpha=0.3)
    outer = points["uncertainty"] > points["uncertainty"].median()
    _name_farthest(axis, points, ("uncertainty", "dice"), -points["dice"], outer, protocol)
    return figure
