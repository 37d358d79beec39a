"""Summarize the scores of a cohort: per structure, per scan, per view, and the worst cases.

All functions take the tables that the workflow gathers, with their :data:`COLUMNS`, and leave empty
(NaN) what cannot be said. A subject is a scan, ``sub-X[_ses-Y][_run-…]``; ``order`` are the
structures of the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from quicknat.cohort.naming import default_name
from quicknat.errors import InputError

AGGREGATE = "aggregate"  # in the column of the views: the result of all three
FEWEST = 3  # participants for an interval, scans for limits or a correlation
RESAMPLES = 5000


class Measure(NamedTuple):
    """A measure of agreement: its title and digits on the pages, and which end is the best."""

    title: str
    digits: int
    higher_is_better: bool


# columns of `metrics` that tables of the pages show; the first one ranks scans
MEASURES = {
    "dice": Measure("Dice", 3, True),
    "iou": Measure("IoU", 3, True),
    "hd95_mm": Measure("HD95 (mm)", 2, False),
}
COLUMNS = {
    "metrics": ["subject", "structure", *MEASURES, "volume_mm3", "reference_mm3"],
    "views": ["subject", "view", "structure", "dice", "iou"],
    "confusion": ["subject", "reference", "prediction", "voxels"],
}


def stack_tables(paths: Sequence[str]) -> pd.DataFrame:
    """Return the rows of the TSV files of single scans, one after the other.

    Rows of files without the column ``subject`` get the sub-… of the file's name.

    Raises:
        InputError: there are no files, or one is no table.
    """
    parts = []
    for path in map(Path, paths):
        try:
            part = pd.read_csv(path, sep="\t")
        except ValueError as error:  # also of pandas' own kinds
            raise InputError(path, f"is not a table ({error})", "delete it and rerun") from error
        if "subject" not in part:
            part.insert(0, "subject", default_name(path))
        parts.append(part)
    if not parts:
        raise InputError("the list of tables", "is empty", "list one per line")
    return pd.concat(parts, ignore_index=True)


def participants_of(
    subjects: pd.Series, participants: Mapping[str, str] | None = None
) -> pd.Series:
    """Return the participant of each scan: as `participants` maps it, else the name's subject."""
    own = subjects.str.replace(r"_(ses|task|acq|ce|rec|run|echo|part|chunk)-.*", "", regex=True)
    return own if participants is None else subjects.map(participants).fillna(own)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval (percentiles) of the mean, the same each time.

    It is NaN with fewer than three values.
    """
    sample = np.asarray(values, dtype=float)
    if len(sample) < FEWEST:
        return np.nan, np.nan
    found = stats.bootstrap(
        (sample,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(found.low), float(found.high)


def _with_error(metrics: pd.DataFrame) -> pd.DataFrame:
    """Add ``volume_error``: absolute difference as a fraction of the reference volume."""
    error = (metrics["volume_mm3"] - metrics["reference_mm3"]).abs() / metrics["reference_mm3"]
    return metrics.assign(volume_error=error.replace(np.inf, np.nan))


def mean_dice(
    metrics: pd.DataFrame, participants: Mapping[str, str] | None = None
) -> tuple[float, float, float]:
    """Return mean Dice over participants (each the mean of their scores), and its interval."""
    owners = participants_of(metrics["subject"], participants)
    values = metrics.groupby(owners)["dice"].mean().dropna()
    return float(values.mean()), *interval(values)


def by_structure(
    metrics: pd.DataFrame, order: Sequence[str], participants: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Return a row per structure, in the protocol's order.

    Returns:
        structure; dice, its interval ``dice_low`` and ``dice_high`` (over participants, each the
        mean of its scans); ``lowest`` Dice and its scan ``lowest_scan``; iou, hd95_mm,
        ``volume_error`` (means over scans); scans (number of scored ones).
    """
    metrics = _with_error(metrics.dropna(subset="dice"))
    metrics = metrics.assign(participant=participants_of(metrics["subject"], participants))
    means = [*list(MEASURES)[1:], "volume_error"]
    rows = []
    for name, part in metrics.groupby("structure", sort=False):
        people = part.groupby("participant")["dice"].mean()
        worst = part.loc[part["dice"].idxmin(), ["dice", "subject"]]
        rows.append(
            (name, people.mean(), *interval(people), *worst, *part[means].mean(), len(part))
        )
    columns = ["structure", "dice", "dice_low", "dice_high", "lowest", "lowest_scan", *means]
    table = pd.DataFrame(rows, columns=[*columns, "scans"]).set_index("structure")
    table = table.reindex(list(order))
    return table.assign(scans=table["scans"].fillna(0).astype(int)).reset_index()


def by_scan(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return a row per scan, worst first: means over its structures, and the lowest one.

    Returns:
        subject, dice, iou, hd95_mm, volume_error, lowest (Dice), lowest_structure.
    """
    metrics = _with_error(metrics)
    table = metrics.groupby("subject")[[*MEASURES, "volume_error"]].mean()
    scored = metrics.dropna(subset="dice")
    worst = scored.loc[scored.groupby("subject")["dice"].idxmin()].set_index("subject")
    table["lowest"], table["lowest_structure"] = worst["dice"], worst["structure"]
    return table.sort_values("dice").reset_index()


def worst_cases(metrics: pd.DataFrame, measure: str = "dice", count: int = 10) -> pd.DataFrame:
    """Return the `count` worst pairs of scan and structure: lowest Dice, for example."""
    scored = metrics.dropna(subset=measure)
    lowest_first = MEASURES[measure].higher_is_better
    return scored.sort_values(measure, ascending=lowest_first, kind="stable").head(count)


def by_view(
    views: pd.DataFrame, order: Sequence[str], participants: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Return mean Dice over participants, per structure, of the result and of each view alone.

    Returns:
        structure, aggregate, a column per view, ``gain`` (aggregate minus the best single view).
        The sagittal view's is of merged sides, which is easier.
    """
    owners = participants_of(views["subject"], participants)
    people = views.groupby(["structure", "view", owners])["dice"].mean()
    table = people.groupby(level=["structure", "view"]).mean().unstack().reindex(list(order))
    alone = table.drop(columns=AGGREGATE)
    table = table[[AGGREGATE, *alone]].assign(gain=table[AGGREGATE] - alone.max(axis=1))
    return table.rename_axis(columns=None).reset_index()


def view_means(views: pd.DataFrame, participants: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return means over participants, as :func:`mean_dice`: view, dice, iou; aggregate first."""
    owners = participants_of(views["subject"], participants)
    people = views.groupby(["view", owners])[["dice", "iou"]].mean()
    table = people.groupby(level="view").mean().reset_index()
    return table.sort_values("view", key=lambda names: names != AGGREGATE, kind="stable")


def bland_altman(metrics: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """Return the difference of predicted and reference volumes, per structure.

    Returns:
        structure, scans, bias (mean of prediction minus reference, in % of the mean of the two),
        low and high (limits of agreement, bias ± 1.96 standard deviations; NaN with fewer than
        three scans).
    """
    points = volume_differences(metrics)
    found = points.groupby("structure")["difference"].agg(scans="size", bias="mean", sd="std")
    found = found.reindex(pd.Index(order, name="structure"))
    spread = 1.96 * found.pop("sd").where(found["scans"] >= FEWEST)
    found = found.assign(low=found["bias"] - spread, high=found["bias"] + spread)
    return found.assign(scans=found["scans"].fillna(0).astype(int)).reset_index()


def volume_differences(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return subject, structure, mean (mm³) of both volumes, difference (% of it)."""
    both = metrics[(metrics["volume_mm3"] > 0) & (metrics["reference_mm3"] > 0)]
    mean = (both["volume_mm3"] + both["reference_mm3"]) / 2
    difference = 100 * (both["volume_mm3"] - both["reference_mm3"]) / mean
    return both[["subject", "structure"]].assign(mean=mean, difference=difference)


def with_uncertainty(metrics: pd.DataFrame, volumes: pd.DataFrame) -> pd.DataFrame:
    """Return subject, structure, dice, uncertainty, where both are known."""
    known = volumes.rename(columns={"name": "structure"})[["subject", "structure", "uncertainty"]]
    joined = metrics[["subject", "structure", "dice"]].merge(known, on=["subject", "structure"])
    return joined.dropna(subset=["dice", "uncertainty"]).reset_index(drop=True)


def rank_correlation(points: pd.DataFrame) -> float:
    """Return Spearman's correlation of uncertainty with Dice; NaN if few points or equal values."""
    if len(points) < FEWEST or min(points["dice"].nunique(), points["uncertainty"].nunique()) < 2:
        return np.nan
    return float(stats.spearmanr(points["uncertainty"], points["dice"]).statistic)


def correlation_by_structure(points: pd.DataFrame) -> pd.Series:
    """Return Spearman's correlation of uncertainty with Dice over scans, by structure."""
    parts = points.groupby("structure")
    return pd.Series({name: rank_correlation(part) for name, part in parts}, dtype=float)


def confusion_matrix(confusion: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the fraction of each reference class (row) that has each predicted class (column).

    All scans' voxels count together. Rows of classes that no reference has are left out, and so
    are columns of classes that neither side has. The names begin with the background.
    """
    sums = confusion.pivot_table("voxels", "reference", "prediction", aggfunc="sum", fill_value=0)
    rows = [name for name in names if name in sums.index]
    columns = [name for name in names if name in sums.columns or name in sums.index]
    sums = sums.reindex(index=rows, columns=columns, fill_value=0)
    return sums.div(sums.sum(axis=1), axis=0)


def confused(confusion: pd.DataFrame, background: str, count: int = 15) -> pd.DataFrame:
    """Return the pairs that are confused most.

    Returns:
        reference, prediction (may be the background: missed), voxels, fraction (of the reference
        structure's voxels in all scans), largest fraction first.
    """
    pairs = confusion.groupby(["reference", "prediction"], as_index=False)["voxels"].sum()
    pairs["fraction"] = pairs["voxels"] / pairs.groupby("reference")["voxels"].transform("sum")
    wrong = (pairs["reference"] != pairs["prediction"]) & (pairs["reference"] != background)
    return pairs[wrong].sort_values("fraction", ascending=False, kind="stable").head(count)
