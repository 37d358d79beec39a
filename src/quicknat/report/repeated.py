"""Measure change within participants who were scanned in several sessions."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from quicknat.cohort.naming import name_parts
from quicknat.cohort.participants import spelled_as
from quicknat.cohort.sheet import Scan, read_cells
from quicknat.errors import notice
from quicknat.evaluation.scores import interval
from quicknat.report.cohort_qc import linked, robust_z
from quicknat.report.strips import ALL_LINKED, WIDTH, Axis, Chart, Strip, add_dots, add_mark
from quicknat.report.structures import Structure, brain_volume
from quicknat.report.tables import MOST_ROWS

DAYS = 365.25
BRAIN = "Brain"
PANEL = 300  # height of a panel, in its own units
MOST_LINES = 500  # of a panel
UNKNOWN = ("", "n/a", "na", "nan", "null", "none")
NO_TIMES = pd.DataFrame(columns=["age", "date"], dtype=float)


def read_times(paths: Sequence[Path], scans: Sequence[Scan] = ()) -> pd.DataFrame:
    """Read when sessions were, from tables with a row per participant and session.

    Args:
        paths: BIDS ``sessions.tsv`` or ``participants.tsv`` with ``participant_id``,
            ``session_id`` and ``age`` (years) or ``acq_time`` (ISO 8601); those without are
            ignored.
        scans: of the sheet, whose spelling of subjects and sessions the ids get, as in
            :func:`quicknat.cohort.participants.read_participants`.

    Returns:
        ``age`` and ``date``, both in years, by (subject, session); NaN where unknown, or where a
        notice says that it cannot be read.

    Raises:
        InputError: a file cannot be read.
    """
    parts = [NO_TIMES]
    for path in paths:
        table = read_cells(path)
        if not {"participant_id", "session_id"} <= set(table):
            continue
        people = [name_parts(person.strip())[0] for person in table["participant_id"]]
        visited = [session.strip().removeprefix("ses-") for session in table["session_id"]]
        people = spelled_as(people, [scan.subject for scan in scans])
        visited = spelled_as(visited, [scan.session for scan in scans])
        blank = pd.Series("n/a", index=table.index)
        ages = [_age(text.strip(), path) for text in table.get("age", blank)]
        dates = [_date(text.strip(), path) for text in table.get("acq_time", blank)]
        index = pd.Index(list(zip(people, visited, strict=True)), tupleize_cols=False)
        parts.append(pd.DataFrame({"age": ages, "date": dates}, index=index))
    times = pd.concat(parts)
    return times.groupby(level=0).first() if len(times) else times


def _age(text: str, path: Path) -> float:
    if text.lower() in UNKNOWN:
        return np.nan
    try:
        return float(text.replace(",", ".").removesuffix("+"))  # BIDS: 89+
    except ValueError:
        notice(f"{path}: age '{text}' is not a number of years, and is not used")
        return np.nan


def _date(text: str, path: Path) -> float:
    if text.lower() in UNKNOWN:
        return np.nan
    try:
        moment = pd.Timestamp(text)
    except ValueError:
        notice(f"{path}: acq_time '{text}' is not a date (YYYY-MM-DD), and is not used")
        return np.nan
    return float((moment.tz_localize(None) - pd.Timestamp(2000, 1, 1)) / pd.Timedelta(days=DAYS))


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def visits(
    volumes: pd.DataFrame, scans: Sequence[Scan], those: Sequence[Structure], times: pd.DataFrame
) -> pd.DataFrame:
    """Return volumes per visit of the participants with several, in order of time.

    Scans of one visit are averaged. Years since the first visit are from dates, else from ages,
    and NaN unless they are known for all of a participant's visits and increase.

    Returns:
        participant, visit, scan (the visit's first), years, then volumes in mm³: the brain, and
        each structure, left and right together.
    """
    wide = volumes.pivot(index="subject", columns="name", values="volume_mm3")
    sums = {
        BRAIN: brain_volume(wide, those),
        **{one.name: wide[list(one.members)].sum(axis=1) for one in those},
    }
    table = pd.DataFrame(sums)
    found = [scan for scan in scans if scan.id in table.index]
    table = table.loc[[scan.id for scan in found]].reset_index(names="scan")
    keys = [(scan.subject, scan.session) for scan in found]
    table.insert(0, "participant", [scan.participant or scan.subject for scan in found])
    table.insert(1, "key", [" ".join(key) for key in keys])
    table.insert(2, "visit", [session or subject for subject, session in keys])
    known = times.reindex(pd.Index(keys, tupleize_cols=False))
    table["age"], table["date"] = known["age"].to_numpy(), known["date"].to_numpy()
    kinds = {"visit": "first", "scan": "first", **dict.fromkeys([*sums, "age", "date"], "mean")}
    merged = table.groupby(["participant", "key"], as_index=False).agg(kinds)
    parts = []
    for _, part in merged.groupby("participant"):
        if len(part) < 2:
            continue
        part = part.iloc[sorted(range(len(part)), key=lambda k: _natural(part["key"].iloc[k]))]
        part = part.assign(years=np.nan)
        for kind in ("age", "date"):
            if part[kind].nunique() == len(part):
                part = part.sort_values(kind).assign(years=lambda p, k=kind: p[k] - p[k].iloc[0])
        parts.append(part)
    columns = ["participant", "visit", "scan", "years", *sums]
    return pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)


def changes(table: pd.DataFrame) -> pd.DataFrame:
    """Return the change from first to last visit, a row per participant and structure.

    Args:
        table: from :func:`visits`.

    Returns:
        participant, first, last (visits), scan (last), years, structure, first_mm3, last_mm3,
        percent (of the first volume), percent_per_year (NaN without years).
    """
    groups = table.groupby("participant")
    first, last = groups.first(), groups.last()
    rows = []
    for structure in table.columns[4:]:
        percent = 100 * (last[structure] / first[structure].replace(0, np.nan) - 1)
        rows.append(
            pd.DataFrame(
                {
                    "first": first["visit"], "last": last["visit"], "scan": last["scan"],
                    "years": last["years"].astype(float), "structure": structure,
                    "first_mm3": first[structure], "last_mm3": last[structure],
                    "percent": percent, "percent_per_year": percent / last["years"],
                }
            ).reset_index()
        )  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def change_content(
    volumes: pd.DataFrame,
    scans: Sequence[Scan],
    those: Sequence[Structure],
    times: pd.DataFrame,
    paged: Collection[str],
) -> dict[str, Any]:
    """Return tables and charts of change; empty if no participant has several visits.

    Dots lead to scans that are in `paged`.
    """
    table = visits(volumes, scans, those, times)
    if table.empty:
        return {}
    change = changes(table)
    yearly = bool(change["percent_per_year"].notna().any())
    measure = "percent_per_year" if yearly else "percent"
    colors = {one.name: (one.color, one.group) for one in those} | {BRAIN: ("#1c2430", "")}
    axis = Axis.around(change[measure].to_numpy(float), -1, 1)
    unit = "% per year" if yearly else "% from first to last session"
    strips, summary = [], []
    few = change["participant"].nunique() <= ALL_LINKED
    for name, part in change.groupby("structure", sort=False):
        values = part.set_index("scan")[measure]
        strip = Strip(str(name), colors[str(name)][0], colors[str(name)][1])
        who = part.set_index("scan")["participant"]
        add_dots(strip, 0, values, axis, linked(robust_z(values.to_frame("z"))["z"], paged, few),
                 lambda scan, value, who=who, name=name: f"{who[scan]}: {name} {value:+.2f} {unit}")  # type: ignore[misc]  # fmt: skip
        low, high = interval(values.dropna())
        add_mark(strip, 0, axis, float(values.mean()), low, high)
        strips.append(strip)
        summary.append(_summary(str(name), part))
    chart = Chart(strips, axis.ticks(), f"change, {unit}", zero=axis.at(0) / WIDTH * 100)
    wide = change.pivot(index="participant", columns="structure", values=measure)
    people = change.drop_duplicates("participant").set_index("participant")
    counts = table["participant"].value_counts()
    shown = [BRAIN, *(name for name in _most_wanted(those) if name in wide)]
    rows = [
        {**people.loc[who].to_dict(), "participant": who, "visits": int(counts[who]),
         "values": [wide.at[who, name] for name in shown]}
        for who in people.index[:MOST_ROWS]
    ]  # fmt: skip
    return {
        "chart": chart, "summary": summary, "rows": rows,
        "shown_headings": [f"#{name}" for name in shown], "yearly": yearly,
        "timed": bool(change["years"].notna().any()), "unit": unit, "people": len(people),
        "few": few, "lines": min(len(people), MOST_LINES), "panels": _panels(table, colors),
        "table": change,
    }  # fmt: skip


def _most_wanted(those: Sequence[Structure]) -> list[str]:
    """Return the structures of the table of participants: those that studies ask for most."""
    wanted = ("cortex", "white matter", "lateral ventricle", "hippocampus")
    found = [next((s.name for s in those if word in s.name.lower()), None) for word in wanted]
    return list(dict.fromkeys(filter(None, found)))


def _summary(name: str, part: pd.DataFrame) -> dict[str, Any]:
    """Return a structure's mean and standard deviation of change, and the largest one."""
    largest = part.loc[part["percent"].abs().idxmax()] if part["percent"].notna().any() else None
    return {
        "structure": name,
        "n": int(part["percent"].notna().sum()),
        "mean": part["percent"].mean(),
        "sd": part["percent"].std(),
        "yearly": part["percent_per_year"].mean(),
        "yearly_sd": part["percent_per_year"].std(),
        "largest": np.nan if largest is None else largest["percent"],
        "scan": "" if largest is None else largest["scan"],
        "who": "" if largest is None else largest["participant"],
    }


def _panels(table: pd.DataFrame, colors: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """Return a panel per structure: a line per participant, in per cent of the first visit."""
    table = table[table["participant"].isin(table["participant"].unique()[:MOST_LINES])]
    timed = bool(table["years"].notna().all())
    number = table.groupby("participant").cumcount()
    x = table["years"].astype(float) if timed else number
    across = Axis(0, float(x.max()) or 1)
    panels = []
    for name in table.columns[4:]:
        base = table.groupby("participant")[name].transform("first").replace(0, np.nan)
        percent = (100 * table[name] / base - 100).astype(float)
        up = Axis.around(percent.to_numpy(), -1, 1)
        path = "".join(
            f"{'M' if first else 'L'}{across.at(a)} {PANEL - up.at(b) * PANEL // WIDTH}"
            for first, a, b in zip(number == 0, x, percent, strict=True)
            if np.isfinite(b)
        )
        zero = PANEL - up.at(0) * PANEL // WIDTH
        ends = [f"{value:+.1f}".replace("-", "−") for value in (up.high, up.low)]
        panels.append({"name": name, "color": colors[name][0], "path": path, "zero": zero,
                       "high": ends[0], "low": ends[1]})  # fmt: skip
    longest = f"{across.high:.1f} years" if timed else f"session {int(across.high) + 1}"
    return {"panels": panels, "start": "0" if timed else "session 1", "end": longest}
