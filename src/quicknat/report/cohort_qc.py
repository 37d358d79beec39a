"""Find unusual scans in a cohort without reference labels, and lay out the figures of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from quicknat.report.strips import (
    ALL_LINKED,
    SIDE_LETTERS,
    WIDTH,
    Axis,
    Chart,
    Strip,
    add_dots,
    add_mark,
)
from quicknat.report.structures import Structure, brain_volume
from quicknat.report.tables import MOST_ROWS

FEWEST = 10  # scans for outliers
LIMIT = 3.5  # robust z-score beyond which a value is an outlier (Iglewicz and Hoaglin)
MOST_OUTLIERS = 200  # in the table
RARE = 0.1  # fraction of scans without a structure up to which its absence is an outlier
FIRST = 10  # scans to correct first
PERCENT_TICKS = (
    (5, 10, 25, 50, 100, 200, 400, 1000),
    (10, 25, 50, 75, 100, 150, 200, 300),
    (50, 60, 70, 80, 90, 100, 110, 120, 140, 160, 180, 200),
)  # coarse to fine


def robust_z(table: pd.DataFrame) -> pd.DataFrame:
    """Return each value's distance from its column's median, in robust standard deviations.

    That is 0.6745 times the distance over the median absolute deviation; NaN with fewer than
    :data:`FEWEST` values or without any deviation.
    """
    away = table - table.median()
    deviation = away.abs().median().where(table.count() >= FEWEST)
    return 0.6745 * away / deviation.replace(0, np.nan)


def asymmetries(wide: pd.DataFrame, those: Sequence[Structure]) -> pd.DataFrame:
    """Return 100 × (left − right) / (left + right) of each pair, by scan; NaN if both are absent.

    Args:
        wide: volumes, scans by names of structures.
        those: the structures.
    """
    pairs = {one.name: one.members for one in those if len(one.members) == 2}
    found = {
        name: 100 * (wide[left] - wide[right]) / (wide[left] + wide[right]).replace(0, np.nan)
        for name, (left, right) in pairs.items()
    }
    return pd.DataFrame(found, index=wide.index)


def cohort_quality(
    volumes: pd.DataFrame, those: Sequence[Structure], paged: Collection[str]
) -> dict[str, Any]:
    """Return charts, outliers, and the scans to correct first.

    Args:
        volumes: the gathered table of volumes, of all segmented scans.
        those: the protocol's structures.
        paged: scans that have a page, to which dots lead.

    Returns:
        ``volumes``, ``asymmetry`` and ``uncertainty``, each a chart; ``measures``, a list of them;
        ``outliers`` (records of scan, measure, value, median and z), ``outlying_scans``,
        ``with_outliers`` (their names), ``first`` (records of scan, uncertainty, structures),
        ``limit``, ``fewest``, ``n_scans``.
    """
    names = [name for one in those for name in one.members]

    def wide(column: str) -> pd.DataFrame:
        return volumes.pivot(index="subject", columns="name", values=column)

    millilitres = wide("volume_mm3") / 1000
    uncertain, agreement = wide("uncertainty")[names], wide("view_agreement")[names]
    sides = asymmetries(millilitres, those)
    measures = pd.DataFrame(
        {
            "Brain volume (ml)": brain_volume(millilitres, those),
            "Mean uncertainty": uncertain.mean(axis=1),
            "Mean view agreement (Dice)": agreement.mean(axis=1),
            "Lowest view agreement (Dice)": agreement.min(axis=1),
        }
    )
    # volumes differ by factors, so that their logarithms are compared
    present = millilitres[names].where(millilitres[names] > 0)
    # of a structure that half of the scans lack, the others are no outliers
    log2 = np.log2(present / millilitres[names].median().replace(0, np.nan))
    z_volume = robust_z(log2)
    if len(present) >= FEWEST:
        z_volume = z_volume.mask(present.isna() & (present.isna().mean() <= RARE), -np.inf)
    tables = {
        "volume (ml)": (millilitres[names], z_volume),
        "asymmetry (%)": (sides, robust_z(sides)),
        "uncertainty": (uncertain, robust_z(uncertain)),
        "": (measures, robust_z(measures)),
    }
    few = len(millilitres) <= ALL_LINKED
    parts = [_outliers(kind, table, z) for kind, (table, z) in tables.items()]
    outliers = pd.concat(parts, ignore_index=True)
    outliers = outliers.reindex(outliers["z"].abs().sort_values(ascending=False).index)

    def chart(key: str, table: pd.DataFrame, axis: Axis, label: str, by_pair: bool) -> Chart:
        values, z = tables[key]
        strips = []
        for one in those:
            members = [one.name] if by_pair else list(one.members)
            if members[0] not in table:
                continue
            letters = SIDE_LETTERS if len(members) == 2 else ("",)
            strip = Strip(one.name, one.color, one.group, letters)
            for row, member in enumerate(members):
                add_dots(strip, row, table[member], axis, linked(z[member], paged, few),
                         _title(member, values[member]))  # fmt: skip
                add_mark(strip, row, axis, table[member].median())
            strips.append(strip)
        return Chart(strips, axis.ticks(), label)

    volume = Axis.around(log2.to_numpy(), -0.5, 0.5)
    volume_chart = chart("volume (ml)", log2, volume, "% of the cohort’s median (log)", False)
    inside = [
        [p for p in ticks if volume.low < np.log2(p / 100) < volume.high] for ticks in PERCENT_TICKS
    ]
    chosen = next((ticks for ticks in inside if len(ticks) >= 4), inside[-1])
    volume_chart.ticks = [(volume.at(np.log2(p / 100)) / WIDTH * 100, f"{p}") for p in chosen]
    volume_chart.zero = volume.at(0) / WIDTH * 100
    side = Axis.around(sides.to_numpy(), -5, 5)
    side_chart = chart("asymmetry (%)", sides, side, "left larger →", True)
    side_chart.zero = side.at(0) / WIDTH * 100
    entropy = Axis.around(uncertain.to_numpy(), 0)
    charts = []
    for name in measures.columns:
        column = measures[name]
        axis = Axis.around(column.to_numpy())
        strip = Strip(name, "#0b5cad")
        add_dots(strip, 0, column, axis, linked(tables[""][1][name], paged, few),
                 _title(name, column))  # fmt: skip
        add_mark(strip, 0, axis, column.median())
        charts.append(Chart([strip], axis.ticks(), name))
    return {
        "volumes": volume_chart,
        "asymmetry": side_chart if len(sides.columns) else None,
        "uncertainty": chart("uncertainty", uncertain, entropy, "uncertainty", False),
        "measures": charts,
        "outlying_scans": _by_scan(outliers)[:MOST_ROWS],
        "outliers": outliers.head(MOST_OUTLIERS).to_dict("records"),
        "n_outliers": len(outliers),
        "with_outliers": set(outliers["scan"]),
        "first": _correct_first(uncertain),
        "limit": LIMIT,
        "fewest": FEWEST,
        "n_scans": len(millilitres),
        "few": few,
    }


def linked(z: pd.Series, paged: Collection[str], few: bool) -> list[str]:
    """Return the scans whose dots are links: those with a page, only outliers if many."""
    pages = set(paged)
    return [scan for scan in z.index[few | (z.abs() > LIMIT)] if scan in pages]


def _title(name: str, values: pd.Series) -> Any:
    """Return the text on a dot: scan, structure, value."""
    return lambda scan, _: f"{scan}: {name} {values[scan]:,.3g}"


def _outliers(kind: str, table: pd.DataFrame, z: pd.DataFrame) -> pd.DataFrame:
    """Return a row per outlier."""
    far = z.stack()
    far = far[far.abs() > LIMIT]
    rows = [
        {
            "scan": scan,
            "measure": f"{name}, {kind if np.isfinite(value) else 'absent'}" if kind else name,
            "value": table.at[scan, name],
            "median": table[name].median(),
            "z": value,
        }
        for (scan, name), value in far.items()
    ]
    return pd.DataFrame(rows, columns=["scan", "measure", "value", "median", "z"])


def _by_scan(outliers: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row per scan with outliers, most first, with the farthest of them."""
    rows = [
        {
            "scan": scan,
            "count": len(part),
            "farthest": list(part["measure"][:3]),
            "z": part["z"].iloc[0],
        }
        for scan, part in outliers.groupby("scan", sort=False)
    ]
    return sorted(rows, key=lambda row: -row["count"])


def _correct_first(uncertain: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the most uncertain scans, each with the structures that stand out most."""
    means = uncertain.mean(axis=1).sort_values(ascending=False)
    # compared with other scans, if there are enough: small structures are uncertain everywhere
    excess = uncertain - uncertain.median() if len(uncertain) >= FEWEST else uncertain
    return [
        {
            "scan": scan,
            "uncertainty": mean,
            "structures": list(excess.loc[scan].nlargest(3).index),
        }
        for scan, mean in means.head(FIRST).items()
    ]
