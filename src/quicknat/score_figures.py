"""Pictures of a cohort's scores, each legible with one test scan and with hundreds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.ticker import NullLocator, PercentFormatter, ScalarFormatter

from quicknat import scores
from quicknat.confusion import AGGREGATE
from quicknat.figures import VIEW_COLORS, plt
from quicknat.labels import Protocol

# Okabe–Ito, told apart also by the colour-blind; a scan each, if there are no more
SCAN_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
POINT, ACCENT = "#0072B2", "#D55E00"
MANY_POINTS = 3000  # beyond, SVG files hold the points as a picture, or they would be huge
NAMED = 5  # farthest points that get their names
VIEW_MARKERS = {"coronal": "o", "axial": "^", "sagittal": "s"}


def _rows(axis: plt.Axes, order: Sequence[str]) -> None:
    """A row per structure, the first on top, in alternating bands that lead the eye."""
    axis.set(yticks=range(len(order)), ylim=(len(order) - 0.5, -0.5))
    axis.set_yticklabels(order, fontsize=8)
    axis.tick_params(axis="y", length=0)
    for row in range(0, len(order), 2):
        axis.axhspan(row - 0.5, row + 0.5, color="#f2f4f7", zorder=0)
    axis.grid(axis="x", alpha=0.4)


def _height(order: Sequence[str]) -> float:
    """Inches that so many rows need."""
    return 0.27 * len(order) + 1.4


def _strips(metrics: pd.DataFrame, measure: str, order: Sequence[str]) -> tuple:
    """Points of each scan in a row per structure; few scans have a colour each."""
    figure, axis = plt.subplots(figsize=(8, _height(order)), layout="constrained")
    _rows(axis, order)
    places = {name: row for row, name in enumerate(order)}
    subjects = list(dict.fromkeys(metrics["subject"]))
    few = len(subjects) <= len(SCAN_COLORS)
    # scans side by side within the row, always in the same place
    shifts = dict(zip(subjects, np.linspace(-0.3, 0.3, len(subjects) + 2)[1:-1], strict=True))
    heights = metrics["structure"].map(places) + metrics["subject"].map(shifts)
    colors = dict(zip(subjects, SCAN_COLORS, strict=False)) if few else {}
    for subject, color in (colors or {None: POINT}).items():
        some = metrics["subject"] == subject if subject else slice(None)
        axis.plot(
            metrics.loc[some, measure], heights[some], "o", color=color, label=subject,
            ms=5 if few else 2.5, alpha=0.9 if few else 0.35, mew=0,
            rasterized=len(metrics) > MANY_POINTS,
        )  # fmt: skip
    return figure, axis


def dice(metrics: pd.DataFrame, order: Sequence[str]) -> plt.Figure:
    """Dice of each structure: a point per scan, the mean, and its interval over persons."""
    figure, axis = _strips(metrics, "dice", order)
    table = scores.by_structure(metrics, order)
    rows, mean = np.arange(len(order)), table["dice"]
    known = table["dice_low"].notna()
    label = "mean, 95 % interval" if known.any() else "mean"
    axis.plot(mean, rows, "|", color="black", ms=11, mew=2, label=label)
    reach = [mean - table["dice_low"], table["dice_high"] - mean]
    axis.errorbar(
        mean[known], rows[known], xerr=[part[known] for part in reach], fmt="none",
        ecolor="black", elinewidth=1.5, capsize=3,
    )  # fmt: skip
    average, low, high = scores.mean_dice(metrics)
    text = f" (95 % interval {low:.3f} to {high:.3f})" if np.isfinite(low) else ""
    axis.set(xlabel="Dice", xlim=(0, 1))
    axis.set_title(f"Mean Dice {average:.3f}{text}", fontsize=10, loc="left")
    axis.legend(loc="lower left", fontsize=8)
    return figure


def hd95(metrics: pd.DataFrame, order: Sequence[str]) -> plt.Figure:
    """95 % Hausdorff distance of each structure: a point per scan, and the median."""
    figure, axis = _strips(metrics, "hd95_mm", order)
    median = metrics.groupby("structure")["hd95_mm"].median().reindex(list(order))
    axis.plot(median, range(len(order)), "|", color="black", ms=11, mew=2, label="median")
    axis.set_xscale("symlog", linthresh=1, linscale=0.4)
    farthest = metrics["hd95_mm"].max()
    ticks = [0, 0.5, 1, 2, 5, 10, 20, 50, 100, 200]
    axis.set_xlim(0, max(5, 1.1 * farthest) if np.isfinite(farthest) else 5)
    axis.set_xticks([tick for tick in ticks if tick <= axis.get_xlim()[1]])
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("HD95 (mm; logarithmic from 1 mm on)")
    axis.legend(loc="lower right", fontsize=8)
    return figure


def views(table: pd.DataFrame, order: Sequence[str]) -> plt.Figure:
    """Mean Dice of each view alone and of their aggregate, per structure."""
    means = scores.by_view(table, order)
    figure, axis = plt.subplots(figsize=(8, _height(order)), layout="constrained")
    _rows(axis, order)
    rows = range(len(order))
    for view, marker in VIEW_MARKERS.items():
        if view in means:
            axis.plot(means[view], rows, marker, color=VIEW_COLORS[view], ms=5, label=view)
    axis.plot(means[AGGREGATE], rows, "D", color="black", ms=5.5, label="all three")
    gains = means["gain"].dropna()
    if len(gains):
        title = f"All three are better than the best view in {(gains > 0).sum()} of {len(gains)}"
        axis.set_title(
            f"{title} structures; mean gain {gains.mean():+.3f}", fontsize=10, loc="left"
        )
    axis.set(xlabel="mean Dice over the test scans", xlim=(0, 1))
    axis.legend(loc="lower left", fontsize=8)
    return figure


def _points(axis: plt.Axes, x: pd.Series, y: pd.Series) -> None:
    few = len(x) <= 200
    axis.plot(x, y, "o", color=POINT, ms=5 if few else 3, alpha=0.7 if few else 0.25, mew=0,
              rasterized=len(x) > MANY_POINTS)  # fmt: skip


def _name_farthest(
    axis: plt.Axes, points: pd.DataFrame, x: str, y: str, distance: pd.Series, protocol: Protocol
) -> None:
    """Write scan and structure beside the points with the largest distance."""
    short = dict(zip(protocol.names, protocol.table["abbreviation"], strict=True))
    for number, index in enumerate(distance.nlargest(NAMED).index):
        row = points.loc[index]
        left = axis.transAxes.inverted().transform(axis.transData.transform((row[x], row[y])))[0]
        axis.annotate(
            f"{short.get(row['structure'], row['structure'])}, {row['subject']}",
            (row[x], row[y]), fontsize=7, color="#444444", textcoords="offset points",
            xytext=(-5 if left > 0.6 else 5, (4, -8)[number % 2]),
            ha="right" if left > 0.6 else "left",
        )  # fmt: skip


def volumes(metrics: pd.DataFrame, protocol: Protocol) -> plt.Figure:
    """Predicted against reference volume, a point per structure and scan."""
    both = metrics[(metrics["volume_mm3"] > 0) & (metrics["reference_mm3"] > 0)]
    points = both[["subject", "structure"]].assign(
        reference=both["reference_mm3"] / 1000, predicted=both["volume_mm3"] / 1000
    )
    figure, axis = plt.subplots(figsize=(6.2, 6), layout="constrained")
    _points(axis, points["reference"], points["predicted"])
    axis.set(xscale="log", yscale="log", aspect="equal")
    if len(points):
        ends = [points[["reference", "predicted"]].stack().agg(f) for f in ("min", "max")]
        ends = [ends[0] / 1.5, ends[1] * 1.5]
        axis.set(xlim=ends, ylim=ends)
        axis.plot(ends, ends, color="black", lw=1, label="equal volumes")
        for factor, label in ((1.1, "±10 %"), (1 / 1.1, None)):
            line = [end * factor for end in ends]
            axis.plot(ends, line, ":", color="black", lw=1, label=label)
        away = np.log(points["predicted"] / points["reference"]).abs()
        _name_farthest(axis, points, "reference", "predicted", away, protocol)
        axis.legend(loc="upper left", fontsize=8)
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter(ScalarFormatter())
    axis.set(xlabel="reference volume (ml)", ylabel="predicted volume (ml)")
    axis.grid(alpha=0.3)
    return figure


def bland_altman(metrics: pd.DataFrame, protocol: Protocol) -> plt.Figure:
    """Difference of the volumes against their mean, and bias with limits of each structure."""
    order = protocol.names[1:]
    points = scores.volume_differences(metrics)
    points["mean"] /= 1000
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12, _height(order)), layout="constrained", width_ratios=(1.2, 1)
    )
    _points(left, points["mean"], points["difference"])
    left.axhline(0, color="black", lw=1)
    mean, spread = points["difference"].mean(), 1.96 * points["difference"].std()
    left.axhline(mean, color=ACCENT, label=f"bias {mean:+.1f} %")
    if len(points) >= scores.FEWEST:
        low, high = mean - spread, mean + spread
        left.axhline(low, color=ACCENT, ls="--", label=f"limits {low:+.1f} % to {high:+.1f} %")
        left.axhline(high, color=ACCENT, ls="--")
    left.set(xscale="log", ylabel="prediction less reference (% of the mean of both)")
    left.set_xlabel("mean of predicted and reference volume (ml)")
    left.xaxis.set_major_formatter(ScalarFormatter())
    left.set_title("All structures and scans", fontsize=10, loc="left")
    left.grid(alpha=0.3)
    left.legend(fontsize=8)
    _name_farthest(
        left, points, "mean", "difference", (points["difference"] - mean).abs(), protocol
    )
    table = scores.bland_altman(metrics, order)
    _rows(right, order)
    right.axvline(0, color="black", lw=1)
    known = table.dropna(subset="low")
    right.errorbar(
        known["bias"], known.index, xerr=known["high"] - known["bias"], fmt="none", ecolor=POINT,
        elinewidth=2, capsize=3, label="limits of agreement (bias ± 1.96 SD)",
    )  # fmt: skip
    right.plot(table["bias"], table.index, "D", color="black", ms=5, label="bias (mean)")
    right.set_xlabel("prediction less reference (% of the mean of both)")
    right.set_title("Each structure over the scans", fontsize=10, loc="left")
    right.legend(fontsize=8)
    return figure


def confusion(table: pd.DataFrame, protocol: Protocol) -> plt.Figure:
    """Which class the voxels of each reference class were given; a row adds up to 100 %."""
    shares = scores.confusion_matrix(table, protocol.names)
    short = dict(zip(protocol.names, protocol.table["abbreviation"], strict=True))
    rows, columns = ([short[name] for name in names] for names in (shares.index, shares.columns))
    side = 0.28
    figure, axis = plt.subplots(
        figsize=(side * len(columns) + 2.4, side * len(rows) + 1.2), layout="constrained"
    )
    drawn = axis.imshow(shares.where(shares > 0), cmap="cividis_r", norm=LogNorm(0.001, 1))
    for (row, column), share in np.ndenumerate(shares.to_numpy()):
        if share >= 0.02:
            axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=6,
                      color="white" if share > 0.1 else "black")  # fmt: skip
    axis.set_yticks(range(len(rows)), rows, fontsize=7)
    axis.set_xticks(range(len(columns)), columns, fontsize=7, rotation=90)
    axis.set(xlabel="predicted", ylabel="reference")
    bar = figure.colorbar(drawn, ax=axis, shrink=0.6, format=PercentFormatter(1, None))
    bar.set_label("share of the reference's voxels (figures: %)", fontsize=8)
    return figure


def uncertainty(points: pd.DataFrame, protocol: Protocol) -> plt.Figure:
    """Dice against the uncertainty that the segmentation itself reports.

    Args:
        points: of :func:`quicknat.scores.with_uncertainty`.
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
    _name_farthest(axis, points, "uncertainty", "dice", -points["dice"], protocol)
    return figure
