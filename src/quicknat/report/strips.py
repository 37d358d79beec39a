"""Lay out strip plots for the pages: a row per structure or measure, a dot per scan.

The page draws them as HTML and SVG, so that their text has the page's size and type at any width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

WIDTH = 1000  # of a strip, in its own units
LINE = 18  # height of the dots of one side
ALL_LINKED = 12  # scans up to which each dot leads to its page; beyond, outliers only
SIDE_LETTERS = ("L", "R")
MANY = 2000  # scans beyond which equal values are not all drawn
MOST_EQUAL = 3  # of them
SPREAD = 9  # within which dots are spread, so that they hide each other less


@dataclass(frozen=True)
class Dot:
    """A dot that leads to a scan."""

    scan: str
    x: int
    y: float
    title: str


@dataclass
class Strip:
    """A row of a strip plot.

    ``path`` draws the dots without a link, ``dots`` are those with one, ``series`` are paths by
    colour, ``marks`` are (x, y, low, high).
    """

    label: str
    color: str
    group: str = ""
    sides: tuple[str, ...] = ("",)
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


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high`; values beyond are drawn at its ends."""

    low: float
    high: float

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
        part = (value - self.low) / (self.high - self.low)
        return round(WIDTH * min(max(part, 0.0), 1.0))

    def ticks(self, unit: str = "") -> list[tuple[float, str]]:
        """Return positions in per cent, and text."""
        values = MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(self.low, self.high)
        inside = [float(v) for v in values if self.low <= v <= self.high]
        return [(self.at(v) / WIDTH * 100, f"{v:,.6g}{unit}".replace("-", "−")) for v in inside]


def add_dots(
    strip: Strip,
    row: int,
    values: pd.Series,
    axis: Axis,
    named: Sequence[str],
    title: Callable[[str, float], str],
) -> None:
    """Add a dot per scan to a line of a strip.

    Args:
        strip: to add to.
        row: line in the strip: 0, or 1 for the right side.
        values: by scan; NaN is left out. Of very many, equal ones are hidden by each other.
        axis: where values go.
        named: scans whose dots lead to their pages.
        title: text on such a dot, of scan and value.
    """
    known, links = values.dropna(), set(named)
    parts, drawn = [], Counter[int]()
    for number, (scan, value) in enumerate(known.items()):
        x = axis.at(float(value))
        # evenly spread, whatever the number of scans (golden ratio)
        shift = (number * 0.618 % 1 - 0.5) * SPREAD if len(known) > 1 else 0.0
        y = round(LINE * (row + 0.5) + shift, 1)
        if scan in links:
            strip.dots.append(Dot(str(scan), x, y, title(str(scan), float(value))))
        elif len(known) <= MANY or drawn[x] < MOST_EQUAL:
            drawn[x] += 1
            parts.append(f"M{x} {y:g}h0")
    strip.path += "".join(parts)


def add_mark(
    strip: Strip, row: int, axis: Axis, middle: float, low: float = np.nan, high: float = np.nan
) -> None:
    """Add a mark at a mean or median, with an interval if it is finite."""
    if np.isfinite(middle):
        x = axis.at(middle)
        ends = (axis.at(low), axis.at(high)) if np.isfinite(low) else (x, x)
        strip.marks.append((x, LINE * (row + 0.5), *ends))
