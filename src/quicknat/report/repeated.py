"""Measure change within participants who were scanned in several sessions."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from quicknat.cohort.naming import name_parts
from quicknat.cohort.participants import spelled_as
from quicknat.cohort.sheet import Scan, read_cells
from quicknat.errors import InputError, notice, one_line
from quicknat.evaluation.scores import interval
from quicknat.report.charts import ALL_LINKED, WIDTH, Axis, strip_chart
from quicknat.report.cohort_qc import outlying, robust_z
from quicknat.report.inputs import MOST_ROWS, NO_TIMES
from quicknat.report.structures import Structure, brain_volume

DAYS = 365.25
BRAIN = Structure("Brain", "", "#1c2430", ("Brain",))
WANTED = ("cortex", "white matter", "lateral ventricle", "hippocampus")  # by most studies
PANEL = 300  # height of a panel, in its own units
MOST_LINES = 500  # of a panel
UNKNOWN = ("", "n/a", "na", "nan", "null", "none")
# names of first sessions, which the alphabet may put last
FIRST = re.compile(
    r" (pre|bl|base|baseline|screening|test|before|initial|first)(?![a-z])", re.IGNORECASE
)


def read_times(
    tables: Mapping[Path, Sequence[Scan]], found: Mapping[Path, Sequence[Scan]]
) -> pd.DataFrame:
    """Read when sessions were, from tables with a row per session.

    Args:
        tables: each with the scans whose spelling of subjects and sessions its ids get, as in
            :func:`quicknat.cohort.participants.read_participants`. They are BIDS ``sessions.tsv``
            or ``participants.tsv`` with ``participant_id``, ``session_id`` and ``age`` (years) or
            ``acq_time`` (ISO 8601); others are ignored. The first that knows a time counts.
        found: those of :func:`quicknat.report.inputs.session_tables`. One that cannot be read is
            left out, with a notice: nobody named it.

    Returns:
        ``age`` and ``date``, both in years, by (subject, session); NaN where unknown, or where a
        notice says that it cannot be read.

    Raises:
        InputError: one of `tables` cannot be read.
    """
    parts = [NO_TIMES]
    for path, scans in [*tables.items(), *found.items()]:
        try:
            table = read_cells(path)
        except InputError as error:
            if path in tables:
                raise
            notice(f"{one_line(error)}; ages and dates in it are not used")
            continue
        if path in found and "participant_id" not in table:
            table["participant_id"] = scans[0].subject
        if not {"participant_id", "session_id"} <= set(table):
            continue
        people = [name_parts(person.strip())[0] for person in table["participant_id"]]
        visited = [session.strip().removeprefix("ses-") for session in table["session_id"]]
        people = spelled_as(people, [scan.subject for scan in scans])
        visited = spelled_as(visited, [scan.session for scan in scans])
        times = {
            "age": _years(table, "age", "a number of years", _age, path),
            "date": _years(table, "acq_time", "a date (YYYY-MM-DD)", _date, path),
        }
        index = pd.Index(list(zip(people, visited, strict=True)), tupleize_cols=False)
        parts.append(pd.DataFrame(times, index=index))
    times = pd.concat(parts)
    return times.groupby(level=0).first() if len(times) else times


def _years(
    table: pd.DataFrame, column: str, kind: str, read: Callable[[str], float], path: Path
) -> list[float]:
    """Return a column in years, NaN where it is unknown or, with a notice, cannot be read."""
    found = []
    for text in table.get(column, pd.Series("", table.index)).str.strip():
        try:
            found.append(np.nan if text.lower() in UNKNOWN else read(text))
        except ValueError:
            notice(f"{path}: {column} '{text}' is not {kind}, and is not used")
            found.append(np.nan)
    return found


def _age(text: str) -> float:
    return float(text.replace(",", ".").removesuffix("+"))  # BIDS: 89+


def _date(text: str) -> float:
    return float(
        (pd.Timestamp(text).tz_localize(None) - pd.Timestamp(2000, 1, 1)) / pd.Timedelta(days=DAYS)
    )


def _by_name(key: str) -> tuple[bool, tuple[tuple[int, str], ...]]:
    """Return what sorts "subject session": first sessions, then the others, numbers by value."""
    parts = re.split(r"(\d+)", key)
    natural = ((int(part), "") if part.isdigit() else (-1, part) for part in parts)
    return not FIRST.search(key), tuple(natural)


def visits(
    volumes: pd.DataFrame, scans: Sequence[Scan], those: Sequence[Structure], times: pd.DataFrame
) -> pd.DataFrame:
    """Return volumes per visit of the participants with several, in order of time.

    Scans of one visit are averaged. Years since the first visit are from dates, else from ages,
    and NaN unless they are known for all of a participant's visits and differ: then the visits are
    in the order of their names.

    Returns:
        participant, visit, scan (the visit's first), years, then volumes in mm³: the brain if
        the protocol has it, and each structure, left and right together.
    """
    wide = volumes.pivot(index="subject", columns="name", values="volume_mm3")
    sums = {one.name: wide[list(one.members)].sum(axis=1) for one in those}
    if (brain := brain_volume(wide, those)).notna().any():
        sums = {BRAIN.name: brain} | sums
    table = pd.DataFrame(sums)
    found = [scan for scan in scans if scan.id in table.index]
    table = table.loc[[scan.id for scan in found]].reset_index(names="scan")
    keys = [(scan.subject, scan.session) for scan in found]
    table["participant"] = [scan.participant or scan.subject for scan in found]
    table["key"] = [" ".join(key) for key in keys]
    table["visit"] = [session or subject for subject, session in keys]
    known = times.reindex(pd.Index(keys, tupleize_cols=False))
    table["age"], table["date"] = known["age"].to_numpy(), known["date"].to_numpy()
    kinds = {"visit": "first", "scan": "first", **dict.fromkeys([*sums, "age", "date"], "mean")}
    merged = table.groupby(["participant", "key"], as_index=False).agg(kinds)
    merged = merged.sort_values("key", key=lambda texts: texts.map(_by_name)).assign(years=np.nan)
    parts = []
    for _, part in merged.groupby("participant"):
        for kind in ("age", "date"):
            if part[kind].nunique() == len(part):
                part = part.sort_values(kind).assign(years=lambda p, k=kind: p[k] - p[k].iloc[0])
        if len(part) > 1:
            parts.append(part)
    columns = ["participant", "visit", "scan", "years", *sums]
    return pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)


def changes(table: pd.DataFrame) -> pd.DataFrame:
    """Return the change from first to last of the :func:`visits`, by participant and structure.

    Returns:
        participant, first, last (visits), scan (last), years, structure, first_mm3, last_mm3,
        percent (of the first volume), percent_per_year (NaN without years).
    """
    groups = table.groupby("participant")
    first, last = groups.first(), groups.last()
    people = pd.DataFrame({"first": first["visit"], "last": last["visit"], "scan": last["scan"],
                           "years": last["years"].astype(float)})  # fmt: skip
    rows = []
    for name in table.columns[4:]:
        percent = 100 * (last[name] / first[name].replace(0, np.nan) - 1)
        measures = {"structure": name, "first_mm3": first[name], "last_mm3": last[name],
                    "percent": percent, "percent_per_year": percent / people["years"]}  # fmt: skip
        rows.append(people.assign(**measures).reset_index())
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
    unit = "% per year" if yearly else "% from first to last session"
    people = change.drop_duplicates("participant").set_index("participant")
    wide = change.pivot(index="participant", columns="structure", values=measure)
    every = [BRAIN, *(replace(one, members=(one.name,)) for one in those)]
    rows = [one for one in every if one.name in wide]
    dots = wide.set_axis(people["scan"])  # a dot leads to the participant's last scan
    who = people.reset_index().set_index("scan")["participant"]
    marks = {name: (values.mean(), *interval(values.dropna())) for name, values in wide.items()}
    axis = Axis.around(wide.to_numpy(float), -1, 1)
    chart = strip_chart(
        rows, axis, f"change, {unit}", pd.DataFrame(marks).T, dots,
        outlying(robust_z(dots)), paged,
        lambda scan, name: f"{who[scan]}: {name} {dots.at[scan, name]:+.2f} {unit}", zero=True,
    )  # fmt: skip
    counts = table["participant"].value_counts()
    wanted = [next((s.name for s in those if word in s.name.lower()), None) for word in WANTED]
    shown = [name for name in dict.fromkeys([BRAIN.name, *wanted]) if name in wide]
    return {
        "chart": chart,
        "summary": [_summary(str(name), part) for name, part
                    in change.groupby("structure", sort=False)],
        "rows": [
            {**people.loc[name].to_dict(), "participant": name, "visits": int(counts[name]),
             "values": list(wide.loc[name, shown])}
            for name in people.index[:MOST_ROWS]
        ],
        "shown_headings": [f"#{name}" for name in shown],
        "yearly": yearly,
        "timed": bool(change["years"].notna().any()),
        "by_name": bool(change["years"].isna().any()),
        "unit": unit,
        "people": len(people),
        "few": len(people) <= ALL_LINKED,
        "lines": min(len(people), MOST_LINES),
        "panels": _panels(table, rows),
        "table": change,
    }  # fmt: skip


def _summary(name: str, part: pd.DataFrame) -> dict[str, Any]:
    """Return a structure's mean and standard deviation of change, and the largest one."""
    largest = part.loc[part["percent"].abs().idxmax()] if part["percent"].notna().any() else {}
    return {
        "structure": name,
        "n": int(part["percent"].notna().sum()),
        "mean": part["percent"].mean(),
        "sd": part["percent"].std(),
        "yearly": part["percent_per_year"].mean(),
        "yearly_sd": part["percent_per_year"].std(),
        "largest": largest.get("percent", np.nan),
        "scan": largest.get("scan", ""),
    }


def _panels(table: pd.DataFrame, rows: Sequence[Structure]) -> dict[str, Any]:
    """Return a panel per structure: a line per participant, in per cent of the first visit."""
    table = table[table["participant"].isin(table["participant"].unique()[:MOST_LINES])]
    timed = bool(table["years"].notna().all())
    number = table.groupby("participant").cumcount()
    x = table["years"].astype(float) if timed else number
    across = Axis(0, float(x.max()) or 1)
    panels = []
    for row in rows:
        base = table.groupby("participant")[row.name].transform("first").replace(0, np.nan)
        percent = (100 * table[row.name] / base - 100).astype(float)
        up = Axis.around(percent.to_numpy(), -1, 1)
        path = "".join(
            f"{'M' if first else 'L'}{across.at(a)} {PANEL - up.at(b) * PANEL // WIDTH}"
            for first, a, b in zip(number == 0, x, percent, strict=True)
            if np.isfinite(b)
        )
        zero = PANEL - up.at(0) * PANEL // WIDTH
        ends = [f"{value:+.1f}".replace("-", "−") for value in (up.high, up.low)]
        panels.append({"name": row.name, "color": row.color, "path": path, "zero": zero,
                       "high": ends[0], "low": ends[1]})  # fmt: skip
    longest = f"{across.high:.1f} years" if timed else f"session {int(across.high) + 1}"
    return {"panels": panels, "start": "0" if timed else "session 1", "end": longest}
