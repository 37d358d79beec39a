"""The report page: everything a reader needs to judge the run, in one HTML file."""

from __future__ import annotations

import base64
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

import quicknat
from quicknat.cohort import Scan
from quicknat.errors import written_whole
from quicknat.labels import Protocol
from quicknat.scores import by_scan, by_structure, mean_dice, view_means, worst_cases
from quicknat.verdicts import Verdict

PACKAGES = [
    "snakemake",
    "torch",
    "monai",
    "lightning-fabric",
    "torchio",
    "nibabel",
    "SimpleITK",
    "scipy",
    "numpy",
    "pandas",
    "matplotlib",
]


DEMOGRAPHICS = ["age", "sex", "handedness"]
DEFAULT_NOTE = (
    "The scores measure agreement with the reference labels named in the sheet, on scans that the "
    "networks did not see in training. They can be no better than those labels, and they hold for "
    "scans like these."
)


@dataclass(frozen=True)
class People:
    """Who was scanned: a BIDS ``participants.tsv``, its columns chosen by :data:`DEMOGRAPHICS`."""

    table: pd.DataFrame | None = None

    @property
    def columns(self) -> list[str]:
        return [] if self.table is None else [c for c in DEMOGRAPHICS if c in self.table]

    def of(self, scan: Scan) -> list[str]:
        """What is known of the scan's subject, by column."""
        name = f"sub-{scan.subject}"
        known = self.table is not None and name in self.table.index
        return [self.table.at[name, column] if known else "n/a" for column in self.columns]


@dataclass(frozen=True)
class ReportInputs:
    """Files and tables that the page is made of."""

    title: str
    note: str
    scans: Sequence[Scan]
    protocol: Protocol
    bundle: Path
    metrics: pd.DataFrame | None  # None: no test scans
    views: pd.DataFrame | None  # scores of each view alone
    volumes: pd.DataFrame
    quality: Mapping[str, Path]
    figures: Mapping[str, Path]  # by name; captions are the files of that name at the template
    overlays: Mapping[str, Path]
    benchmarks: Path
    skipped: Sequence[Verdict] = ()  # scans of the sheet that the run left out
    people: People = People()
    waiting: Sequence[str] = ()  # scans to train on that the models have not seen


def embed(path: Path) -> str:
    """A picture as a data URI, so that the page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


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


def versions() -> dict[str, str]:
    """Versions of what the results depend on."""
    found = {"quicknat": quicknat.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed here"
    return found


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"


def render(inputs: ReportInputs, template: str | Path, output: str | Path) -> None:
    """Write the page.

    Args:
        inputs: what to show.
        template: Jinja template; every value is escaped.
        output: ``index.html``.
    """
    template, bundle = Path(template), json.loads(inputs.bundle.read_text())
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    scores, order = {}, inputs.protocol.names[1:]
    if inputs.metrics is not None:
        persons = {scan.id: scan.person for scan in inputs.scans}
        scores = {
            "mean": mean_dice(inputs.metrics, persons),
            "scans": by_scan(inputs.metrics).to_dict("records"),
            "structures": by_structure(inputs.metrics, order, persons).to_dict("records"),
            "worst": worst_cases(inputs.metrics).to_dict("records"),
            "views": view_means(inputs.views).to_dict("records"),
        }
    uses = pd.Series([scan.use for scan in inputs.scans]).value_counts()
    page = environment.get_template(template.name).render(
        title=inputs.title,
        note=inputs.note,
        scans=inputs.scans,
        skipped=inputs.skipped,
        people=inputs.people,
        waiting=inputs.waiting,
        uses=[
            (use, int(uses[use]))
            for use in ("pretrain", "train", "val", "test", "segment")
            if use in uses
        ],
        protocol=inputs.protocol,
        sagittal_classes=inputs.protocol.n_classes("sagittal"),
        bundle=bundle,
        scores=scores,
        people_scored=len({s.person for s in inputs.scans if s.use == "test"}),
        quality={
            name: json.loads(path.read_text())["flags"] for name, path in inputs.quality.items()
        },
        volumes=inputs.volumes.to_dict("records"),
        figures={name: embed(path) for name, path in inputs.figures.items()},
        captions={name: (template.parent / f"{name}.rst").read_text() for name in inputs.figures},
        overlays={name: embed(path) for name, path in inputs.overlays.items()},
        times=run_times(inputs.benchmarks),
        versions=versions(),
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )
    with written_whole(output) as (temporary,):
        temporary.write_text(page, encoding="utf-8")
