"""Find unusual scans in a cohort without reference labels, and lay out the figures of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from quicknat.report.charts import ALL_LINKED, Axis, Chart, strip_chart
from quicknat.report.structures import GROUPS, Structure, brain_volume, paired_order

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


def outlying(z: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Return the robust z-scores beyond the limit, by row and column."""
    far = z.stack()
    return far[far.abs() > LIMIT].to_dict()


def asymmetries(wide: pd.DataFrame, those: Sequence[Structure]) -> pd.DataFrame:
    """Return 100 × (left − right) / (left + right) of each pair, by scan; NaN if both are absent.

    Volumes are `wide`: scans by names of structures.
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
    """Return charts, outliers, and the scans to correct first, for ``cohort_quality.html.j2``.

    `volumes` is the gathered table; dots lead to scans that are in `paged`.
    """
    names = paired_order(those)
    millilitres, uncertain, agreement = (
        volumes.pivot(index="subject", columns="name", values=column)[names]
        for column in ("volume_mm3", "uncertainty", "view_agreement")
    )
    millilitres = millilitres / 1000
    sides = asymmetries(millilitres, those)
    measures = pd.DataFrame(
        {
            "Brain volume (ml)": brain_volume(millilitres, those),
            "Mean uncertainty": uncertain.mean(axis=1),
            "Mean view agreement (Dice)": agreement.mean(axis=1),
            "Lowest view agreement (Dice)": agreement.min(axis=1),
        }
    ).dropna(axis="columns", how="all")  # a protocol may have no brain volume
    # volumes differ by factors, so that their logarithms are compared
    present = millilitres.where(millilitres > 0)
    # of a structure that half of the scans lack, the others are no outliers
    log2 = np.log2(present / millilitres.median().replace(0, np.nan))
    z_volume = robust_z(log2)
    if len(present) >= FEWEST:
        z_volume = z_volume.mask(present.isna() & (present.isna().mean() <= RARE), -np.inf)
    tables = {
        "volume (ml)": (millilitres, z_volume),
        "asymmetry (%)": (sides, robust_z(sides)),
        "uncertainty": (uncertain, robust_z(uncertain)),
        "": (measures, robust_z(measures)),
    }
    far = {kind: outlying(z) for kind, (_, z) in tables.items()}
    rows = [
        (scan, _measure(kind, name, z), values.at[scan, name], values[name].median(), z)
        for kind, (values, _) in tables.items()
        for (scan, name), z in far[kind].items()
    ]
    outliers = pd.DataFrame(rows, columns=["scan", "measure", "value", "median", "z"])
    outliers = outliers.sort_values("z", key=np.abs, ascending=False)

    def chart(
        rows: Sequence[Structure], values: pd.DataFrame, kind: str, axis: Axis, label: str,
        **options: Any,
    ) -> Chart:  # fmt: skip
        marks = values.median().to_frame()
        return strip_chart(rows, axis, label, marks, values, far[kind], paged, **options)

    axis = Axis.around(log2.to_numpy(), -0.5, 0.5)
    volume_chart = chart(
        those, log2, "volume (ml)", axis, "% of the cohort’s median (log)", zero=True,
        title=lambda scan, name: f"{scan}: {name} {millilitres.at[scan, name]:,.3g}",
    )  # fmt: skip
    volume_chart.ticks = _percent_ticks(axis)
    pairs = [replace(one, members=(one.name,)) for one in those if one.name in sides]
    axis = Axis.around(sides.to_numpy(), -5, 5)
    side_chart = chart(pairs, sides, "asymmetry (%)", axis, "left larger →", zero=True)
    axis = Axis.around(uncertain.to_numpy(), 0)
    color = GROUPS["Cerebrum"][1]
    return {
        "volumes": volume_chart,
        "asymmetry": side_chart if pairs else None,
        "uncertainty": chart(those, uncertain, "uncertainty", axis, "uncertainty"),
        "measures": [
            chart([Structure(name, "", color, (name,))], measures, "", Axis.around(values), name)
            for name, values in measures.items()
        ],
        "outliers": outliers.head(MOST_OUTLIERS).to_dict("records"),
        "n_outliers": len(outliers),
        "with_outliers": set(outliers["scan"]),
        "first": _correct_first(uncertain),
        "limit": LIMIT,
        "fewest": FEWEST,
        "n_scans": len(millilitres),
        "few": len(millilitres) <= ALL_LINKED,
    }


def _percent_ticks(axis: Axis) -> list[tuple[float, str]]:
    """Return ticks in per cent of the cohort's median, for logarithms to the base 2."""
    inside = [
        [p for p in ticks if axis.low < np.log2(p / 100) < axis.high] for ticks in PERCENT_TICKS
    ]
    chosen = next((ticks for ticks in inside if len(ticks) >= 4), inside[-1])
    return [(axis.percent(np.log2(p / 100)), f"{p}") for p in chosen]


def _measure(kind: str, name: str, z: float) -> str:
    return f"{name}, {kind if np.isfinite(z) else 'absent'}" if kind else name


def _correct_first(uncertain: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the most uncertain scans, each with the structures that stand out most."""
    means = uncertain.mean(axis=1).sort_values(ascending=False)
    # compared with other scans, if there are enough: small structures are uncertain everywhere
    excess = uncertain - uncertain.median() if len(uncertain) >= FEWEST else uncertain
    return [
        {"scan": scan, "uncertainty": mean, "structures": list(excess.loc[scan].nlargest(3).index)}
        for scan, mean in means.head(FIRST).items()
    ]
