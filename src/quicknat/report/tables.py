"""Make tables for the report: participants, run times, versions, volumes in the cohort."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd

import quicknat

PACKAGES = (
    "snakemake", "torch", "monai", "torchio", "nibabel", "SimpleITK", "scipy",
    "numpy", "pandas", "pydantic", "matplotlib",
)  # fmt: skip
DEMOGRAPHICS = ("age", "sex", "handedness")  # columns of a BIDS participants.tsv
MOST_ROWS = 1000  # of a table that has a row per scan or participant
FEWEST_SCANS = 5  # minimum number of scans for percentiles


def run_times(folder: Path) -> pd.DataFrame:
    """Return jobs, seconds and peak memory of each rule, from Snakemake's benchmark files.

    Each folder is a rule, each file in it a job.
    """
    jobs = [
        pd.read_csv(path, sep="\t", na_values="-").assign(rule=path.parent.name)
        for path in sorted(folder.glob("*/*.tsv"))
    ]
    table = pd.concat(jobs) if jobs else pd.DataFrame(columns=["rule", "s", "max_rss"])
    columns = {"jobs": "size", "median_s": "median", "total_s": "sum"}
    rules = table.groupby("rule")
    return rules["s"].agg(**columns).assign(peak_mb=rules["max_rss"].max()).reset_index()


def page_weights(folder: Path, scans: Sequence[str], figures: Sequence[str]) -> dict[str, float]:
    """Return sizes in MB: the ``cohort`` page, the largest ``scan`` page, the ``folder``.

    The cohort page is counted with all its pictures, which load lazily; small text files are not
    counted.
    """

    def size(*paths: Path) -> float:
        return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6

    drawn, volumes = folder / "figures", folder / "volumes"
    code = size(*(folder / "assets").glob("*"))
    pictures = [drawn / f"{name}.svg" for name in figures]
    pictures += [drawn / name / "thumbnail.jpg" for name in scans]
    own = [size(volumes / f"{name}.js", *(drawn / name).glob("*")) for name in scans]
    return {
        "cohort": code + size(*pictures),
        "scan": code + max(own, default=0),
        "folder": size(*folder.rglob("*")),
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    found = {"quicknat": quicknat.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed here"
    return found


def model_rows(views: Mapping[str, Mapping], times: Mapping[str, str]) -> list[dict]:
    """Return what is known of a model's networks: a row per setting with its values by view.

    Args:
        views: the networks of a bundle.
        times: how long each was trained, "" if unknown.
    """

    def values(get: Callable[[Mapping], object]) -> list[object]:
        return [get(entry) for entry in views.values()]

    def validation(entry: Mapping) -> str:
        dice = entry["best_val_dice"]
        return f"{dice:.3f}" if dice is not None and np.isfinite(dice) else ""

    def start(entry: Mapping) -> str:
        return f" from {entry['warm_start']['sha256'][:12]}" if entry.get("warm_start") else ""

    rows: dict[str, list[object]] = {
        "Filters": values(lambda e: e["network"]["filters"]),
        "Squeeze and excitation": values(lambda e: e["network"]["squeeze_excitation"]),
        "Dropout": values(lambda e: e["network"]["dropout"]),
        "Optimiser": values(lambda e: e["training"]["optimizer"]),
        "Learning rate": values(lambda e: e["training"]["learning_rate"]),
        "Epochs": values(lambda e: f"{e['training']['epochs']}{start(e)}"),
        "Epoch kept": values(lambda e: e["best_epoch"]),
        "Validation Dice": values(validation),
        "Training scans": values(lambda e: len(e.get("training_scans", []))),
        "Training time": [times.get(view, "") for view in views],
        "Trained on": values(lambda e: e.get("device_name", "")),
        "Precision": values(lambda e: e.get("precision", "")),
        "SHA-256": values(lambda e: e["sha256"][:12]),
    }
    # what no network says is left out
    known = {name: row for name, row in rows.items() if any(v not in ("", None) for v in row)}
    return [{"name": name, "values": ["" if v is None else v for v in row]}
            for name, row in known.items()]  # fmt: skip


def demographics(people: pd.DataFrame, subjects: Sequence[str]) -> list[str]:
    """Summarize age, sex and handedness of `subjects` (sub-X).

    Args:
        people: demographics as text, by subject; columns :data:`DEMOGRAPHICS` are used.
        subjects: to summarize, each counted once.
    """
    known, words = people.reindex(list(dict.fromkeys(subjects))), []
    for column in (name for name in DEMOGRAPHICS if name in known):
        values = known[column].replace("n/a", np.nan).dropna()
        numbers = pd.to_numeric(values, errors="coerce").dropna()
        if column == "age" and len(numbers):
            low, middle, high = numbers.min(), numbers.median(), numbers.max()
            words.append(f"age {low:g} to {high:g}, median {middle:g} (known for {len(numbers)})")
        elif len(values):
            counts = values.value_counts()
            words.append(f"{column} {', '.join(f'{n} {value}' for value, n in counts.items())}")
    return words


def volumes_in_cohort(volumes: pd.DataFrame) -> pd.DataFrame:
    """Add fractions and percentiles to the gathered volumes.

    Returns:
        The table with ``share`` (fraction of the scan's total volume) and ``percentile`` (among all
        segmented scans, 0 … 100, NaN with fewer than five scans).
    """
    total = volumes.groupby("subject")["volume_mm3"].transform("sum")
    share = volumes["volume_mm3"] / total.replace(0, np.nan)
    groups = volumes.groupby("name")["volume_mm3"]
    percentile = 100 * groups.rank(pct=True).where(groups.transform("size") >= FEWEST_SCANS)
    return volumes.assign(share=share, percentile=percentile)


def volume_ranges(volumes: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """Return median and range of each structure's volume (mm³), and the scans at the extremes.

    Returns:
        name, median, smallest, smallest_scan, largest, largest_scan.
    """
    table = volumes.pivot(index="subject", columns="name", values="volume_mm3")[list(order)]
    found = {
        "median": table.median(), "smallest": table.min(), "smallest_scan": table.idxmin(),
        "largest": table.max(), "largest_scan": table.idxmax(),
    }  # fmt: skip
    return pd.DataFrame(found).rename_axis("name").reset_index()
