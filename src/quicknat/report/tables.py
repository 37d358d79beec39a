"""Tables of the report: people, run times, versions, volumes against the cohort."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd

import quicknat
from quicknat.cohort.sheet import Scan

PACKAGES = [
    "snakemake",
    "torch",
    "monai",
    "torchio",
    "nibabel",
    "SimpleITK",
    "scipy",
    "numpy",
    "pandas",
    "pydantic",
    "matplotlib",
]


DEMOGRAPHICS = ["age", "sex", "handedness"]
FEWEST_SCANS = 5  # scans below which a percentile says nothing
TOTAL = "All structures"


@dataclass(frozen=True)
class People:
    """Who was scanned: a BIDS ``participants.tsv``, its columns chosen by :data:`DEMOGRAPHICS`."""

    table: pd.DataFrame | None = None

    @property
    def columns(self) -> list[str]:
        return [] if self.table is None else [c for c in DEMOGRAPHICS if c in self.table]

    def of(self, scan: Scan) -> list[str]:
        """What is known of the scan's subject, by column."""
        if self.table is None:
            return []
        name = f"sub-{scan.subject}"
        known = name in self.table.index
        return [self.table.at[name, column] if known else "n/a" for column in self.columns]


def run_times(folder: Path) -> list[dict]:
    """Jobs, seconds and peak memory of each rule, from Snakemake's benchmark files.

    A folder is a rule, a file in it is a job.
    """
    rows = []
    for rule in sorted({path.parent for path in folder.glob("*/*.tsv")}):
        jobs = pd.concat(
            [pd.read_csv(path, sep="\t", na_values="-") for path in sorted(rule.glob("*.tsv"))]
        )
        rows.append(
            {
                "rule": rule.name,
                "jobs": len(jobs),
                "median_s": jobs["s"].median(),
                "total_s": jobs["s"].sum(),
                "peak_mb": jobs["max_rss"].max(),
            }
        )
    return rows


def page_weights(folder: Path, scans: Sequence[str], figures: Sequence[str]) -> dict[str, float]:
    """How much a browser loads, in MB: ``cohort``'s page, the heaviest ``scan``'s page; ``folder``.

    The cohort's page with all of its pictures, which load as they come into view; small text files
    do not count.
    """

    def size(*paths: Path) -> float:
        return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6

    code = size(*(folder / "assets").glob("*"))
    figures_size = size(*(folder / "figures" / f"{name}.png" for name in figures))
    thumbnails = size(*(folder / "figures" / name / "thumbnail.jpg" for name in scans))
    own = [
        size(folder / "volumes" / f"{name}.js", *(folder / "figures" / name).glob("*"))
        for name in scans
    ]
    return {
        "cohort": code + figures_size + thumbnails,
        "scan": code + max(own, default=0),
        "folder": size(*folder.rglob("*")),
    }


def versions() -> dict[str, str]:
    """Versions of what the results depend on."""
    found = {"quicknat": quicknat.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed here"
    return found


def demographics(people: People, scans: Sequence[Scan]) -> list[str]:
    """What is known of the people behind `scans`, in a few words each: ages, sexes, hands."""
    if people.table is None:
        return []
    subjects = list(dict.fromkeys(f"sub-{scan.subject}" for scan in scans))
    known, words = people.table.reindex(subjects), []
    for column in people.columns:
        values = known[column].replace("n/a", np.nan).dropna()
        numbers = pd.to_numeric(values, errors="coerce").dropna()
        if column == "age" and len(numbers):
            low, middle, high = numbers.min(), numbers.median(), numbers.max()
            words.append(f"age {low:g} to {high:g}, median {middle:g} (known of {len(numbers)})")
        elif len(values):
            counts = values.value_counts()
            words.append(f"{column} {', '.join(f'{n} {value}' for value, n in counts.items())}")
    return words


def volumes_in_cohort(volumes: pd.DataFrame) -> pd.DataFrame:
    """Add to the gathered volumes what they are in proportion.

    Returns:
        The table with ``share`` (of all structures' volume in that scan), and ``percentile`` of
        the volume among all segmented scans, 0 … 100, NaN with fewer than five scans.
    """
    total = volumes[volumes["name"] == TOTAL].set_index("subject")["volume_mm3"]
    share = volumes["volume_mm3"] / volumes["subject"].map(total).replace(0, np.nan)
    groups = volumes.groupby("name")["volume_mm3"]
    percentile = 100 * groups.rank(pct=True).where(groups.transform("size") >= FEWEST_SCANS)
    return volumes.assign(share=share, percentile=percentile)


def volume_ranges(volumes: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """Of each structure over all segmented scans: median and range of volume, and whose they are.

    Returns:
        name, median, smallest, smallest_scan, largest, largest_scan; mm³.
    """
    table = volumes.pivot(index="subject", columns="name", values="volume_mm3")[list(order)]
    return pd.DataFrame(
        {
            "name": list(order),
            "median": table.median().to_numpy(),
            "smallest": table.min().to_numpy(),
            "smallest_scan": table.idxmin().to_numpy(),
            "largest": table.max().to_numpy(),
            "largest_scan": table.idxmax().to_numpy(),
        }
    )
