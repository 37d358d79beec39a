"""Lay out strip plots for the pages: a row per structure or measure, a dot per scan.

The page draws them as HTML and SVG, so that their text has the page's size and type at any width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from quicknat.evaluation.scores import AGGREGATE, worst_cases
from quicknat.images.slices import VIEWS
from quicknat.report.figures import VIEW_COLORS
from quicknat.report.structures import Structure

WIDTH = 1000  # of a strip, in its own units
LINE = 18  # height of the dots of one side
ALL_LINKED = 12  # scans up to which each dot leads to its page; beyond, outlying ones only
MANY = 2000  # scans beyond which equal values are not all drawn
MOST_EQUAL = 3  # of them
SPREAD = 9  # within which dots are spread, so that they hide each other less
WORST = 15  # scores that are outlying
HD95_TICKS = (0, 1, 2, 5, 10, 20, 50, 100, 200)  # mm


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`, in units of its scale; values beyond are drawn at its ends."""

    low: float
    high: float
    scale: Callable[[float], float] = float

    @classmethod
    def around(cls, values: np.ndarray, *include: float) -> Axis:
        """Return an axis for all finite values, with a margin."""
        finite = np.concatenate([values[np.isfinite(values)], include])
        if not len(finite):
            return cls(0, 1)
        low, high = float(finite.min()), float(finite.max())
        margin = 0.04 * (high - low) or max(abs(high), 1) * 0.1
        return cls(low - margin, high + margin)

    def at(self, value: float) -> int:
        """Return the position of a value in units of the strip."""
        part = (self.scale(value) - self.low) / (self.high - self.low)
        return round(WIDTH * min(max(part, 0.0), 1.0))

    def percent(self, value: float) -> float:
        """Return the position of a value in per cent of the width."""
        return self.at(value) / WIDTH * 100

    def ticks(self) -> list[tuple[float, str]]:
        """Return positions in per cent, and text, of a linear axis."""
        values = MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(self.low, self.high)
        inside = [float(v) for v in values if self.low <= v <= self.high]
        return [(self.percent(v), f"{v:,.6g}".replace("-", "−")) for v in inside]


@dataclass(frozen=True)
class Dot:
    """A dot that links to a scan."""

    scan: str
    x: int
    y: float
    title: str


@dataclass
class Strip:
    """A row of a strip plot, with a line per side.

    ``path`` draws the dots without a link, ``dots`` are those with one, ``series`` are paths by
    colour, ``marks`` are (x, y, low, high).
    """

    label: str
    color: str
    group: str
    sides: tuple[str, ...]
    path: str = ""
    dots: list[Dot] = field(default_factory=list)
    marks: list[tuple[int, float, int, int]] = field(default_factory=list)
    series: dict[str, str] = field(default_factory=dict)

    @property
    def height(self) -> int:
        """Height in units of the strip."""
        return LINE * len(self.sides)


@dataclass
class Chart:
    """Strips above one axis: ``ticks`` are positions in per cent and their text."""

    strips: list[Strip]
    ticks: list[tuple[float, str]]
    label: str
    zero: float | None = None  # position of the line to compare with, in per cent


def strip_chart(
    those: Sequence[Structure],
    axis: Axis,
    label: str,
    marks: pd.DataFrame,
    dots: pd.DataFrame | None = None,
    outlying: Collection[tuple[str, str]] = (),
    paged: Collection[str] = (),
    title: Callable[[str, str], str] | None = None,
    zero: bool = False,
) -> Chart:
    """Return a chart with a strip per structure: a dot per scan, and a mark at a mean or median.

    Args:
        those: the structures; tables refer to their members.
        axis: for the values of both tables.
        label: of the axis.
        marks: by name of a member: the middle, and the ends of its interval if there are any.
        dots: values, scans by names of members; NaN is left out.
        outlying: pairs of scan and member whose dots are links though there are many scans.
        paged: scans that have a page to link to.
        title: text on a link, of scan and member, if it is not about the value in `dots`.
        zero: whether a line marks 0.
    """
    few = dots is not None and len(dots) <= ALL_LINKED
    pages, strips = set(paged), []
    for one in those:
        sides = ("L", "R") if len(one.members) == 2 else ("",)
        strip = Strip(one.name, one.color, one.group, sides)
        for line, name in enumerate(one.members):
            if dots is not None and name in dots:
                titles = {
                    scan: title(scan, name) if title else f"{scan}: {name} {value:,.3g}"
                    for scan, value in dots[name].items()
                    if scan in pages and (few or (scan, name) in outlying)
                }
                _add_dots(strip, line, dots[name], axis, titles)
            if name in marks.index:
                _add_mark(strip, line, axis, *marks.loc[name])
        strips.append(strip)
    return Chart(strips, axis.ticks(), label, axis.percent(0) if zero else None)


def _add_dots(
    strip: Strip, line: int, values: pd.Series, axis: Axis, titles: dict[str, str]
) -> None:
    """Add a dot per scan, a link if it has a title. Of very many, most equal ones are left out."""
    known = values.dropna()
    parts, drawn = [], Counter[int]()
    for number, (scan, value) in enumerate(known.items()):
        x = axis.at(float(value))
        # evenly spread, whatever the number of scans (golden ratio)
        shift = (number * 0.618 % 1 - 0.5) * SPREAD if len(known) > 1 else 0.0
        y = round(LINE * (line + 0.5) + shift, 1)
        if scan in titles:
            strip.dots.append(Dot(str(scan), x, y, titles[scan]))
        elif len(known) <= MANY or drawn[x] < MOST_EQUAL:
            drawn[x] += 1
            parts.append(f"M{x} {y:g}h0")
    strip.path += "".join(parts)


def _add_mark(
    strip: Strip, line: int, axis: Axis, middle: float, low: float = np.nan, high: float = np.nan
) -> None:
    if np.isfinite(middle):
        x = axis.at(middle)
        ends = (axis.at(low), axis.at(high)) if np.isfinite(low) else (x, x)
        strip.marks.append((x, LINE * (line + 0.5), *ends))


def dice_chart(
    metrics: pd.DataFrame, means: pd.DataFrame, those: Sequence[Structure], paged: Collection[str]
) -> Chart:
    """Return Dice of each scan; if there are several, with means and intervals over participants.

    `means` are from :func:`quicknat.evaluation.scores.by_structure`.
    """
    marks = means.set_index("structure")[["dice", "dice_low", "dice_high"]]
    axis = _axis_to_one(metrics["dice"].min())
    return _score_chart(metrics, "dice", those, paged, axis, "Dice", marks)


def hd95_chart(metrics: pd.DataFrame, those: Sequence[Structure], paged: Collection[str]) -> Chart:
    """Return the 95 % Hausdorff distance of each scan; if there are several, with medians."""
    farthest = metrics["hd95_mm"].max()
    end = float(np.log1p(farthest if np.isfinite(farthest) else 5)) * 1.03 or 1
    axis = Axis(0, end, np.log1p)
    marks = metrics.groupby("structure")["hd95_mm"].median().to_frame()
    chart = _score_chart(metrics, "hd95_mm", those, paged, axis, "HD95, mm (log)", marks)
    ticks = [(axis.percent(mm), f"{mm}") for mm in HD95_TICKS]
    chart.ticks = [tick for tick in ticks if tick[0] < 100]
    return chart


def _score_chart(
    metrics: pd.DataFrame,
    measure: str,
    those: Sequence[Structure],
    paged: Collection[str],
    axis: Axis,
    label: str,
    marks: pd.DataFrame,
) -> Chart:
    values = metrics.pivot(index="subject", columns="structure", values=measure)
    marks = marks if len(values) > 1 else marks.head(0)
    worst = worst_cases(metrics, measure, WORST)
    outlying = set(zip(worst["subject"], worst["structure"], strict=True))
    return strip_chart(those, axis, label, marks, values, outlying, paged)


def _axis_to_one(lowest: float) -> Axis:
    return Axis(max(0, np.floor(10 * lowest - 0.2) / 10) if np.isfinite(lowest) else 0, 1)


def view_chart(by_view: pd.DataFrame, those: Sequence[Structure]) -> Chart:
    """Return mean Dice of each view alone, and (mark) of all three.

    `by_view` is from :func:`quicknat.evaluation.scores.by_view`.
    """
    means = by_view.set_index("structure")
    shown = [view for view in VIEWS if view in means]
    axis = _axis_to_one(means[[AGGREGATE, *shown]].min(axis=None))
    chart = strip_chart(those, axis, "mean Dice", means[[AGGREGATE]])
    for strip, one in zip(chart.strips, those, strict=True):
        for view in shown:
            parts = [
                f"M{axis.at(means.at[name, view])} {LINE * (line + 0.5):g}h0"
                for line, name in enumerate(one.members)
                if np.isfinite(means.at[name, view])
            ]
            if parts:
                strip.series[VIEW_COLORS[view]] = "".join(parts)
    return chart


def bias_chart(table: pd.DataFrame, those: Sequence[Structure]) -> Chart:
    """Return the bias of predicted volumes with limits of agreement, in per cent.

    `table` is from :func:`quicknat.evaluation.scores.bland_altman`.
    """
    marks = table.set_index("structure")[["bias", "low", "high"]]
    axis = Axis.around(marks.to_numpy(float).ravel(), -5, 5)
    return strip_chart(those, axis, "prediction − reference, % of their mean", marks, zero=True)
