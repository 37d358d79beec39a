"""Collect the content of the report's pages from a results folder."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from shlex import quote
from typing import Any

import pandas as pd

from quicknat.cohort.check import Verdict
from quicknat.cohort.participants import trained_on
from quicknat.cohort.sheet import Scan
from quicknat.evaluation import scores
from quicknat.failures import Failure
from quicknat.images.labels import Protocol
from quicknat.images.slices import VIEWS
from quicknat.model.card import methods, model_card
from quicknat.report import score_strips
from quicknat.report.cohort_qc import cohort_quality
from quicknat.report.figures import VIEW_COLORS
from quicknat.report.repeated import NO_TIMES, change_content
from quicknat.report.structures import paired_order, structures
from quicknat.report.tables import (
    DEMOGRAPHICS,
    MOST_ROWS,
    demographics,
    model_rows,
    run_times,
    versions,
    volume_ranges,
)
from quicknat.report.volume_table import outline_legend, volume_table
from quicknat.reruns import file_digest
from quicknat.segmentation.tasks import FAILED, SCANS
from quicknat.segmentation.volumes import TOTALS, read_totals
from quicknat.training.history import STAGES, duration, overfitting

SPLITS = ("pretrain", "train", "val", "test", "segment")
VOLUMES = "segmentations/volumes.tsv"
# the per-scan tables from which a complete run gathers each table
GATHERED_FROM = {
    "metrics.tsv": "metrics/{0}.tsv",
    "metrics/views.tsv": "metrics/{0}_views.tsv",
    "metrics/confusion.tsv": "metrics/{0}_confusion.tsv",
    VOLUMES: "segmentations/{0}/anat/{0}_desc-quicknat_volumes.tsv",
}


@dataclass(frozen=True)
class ReportInputs:
    """The inputs of the pages; files are in `results`, where the workflow put them."""

    title: str
    note: str
    results: Path
    scans: Sequence[Scan]
    segmented: Sequence[str]  # scans with a page; if jobs failed, only finished ones
    protocol: Protocol
    skipped: Sequence[Verdict] = ()  # scans that the run left out
    failed: Sequence[Failure] = ()  # jobs
    people: pd.DataFrame = field(default_factory=pd.DataFrame)  # of participants.tsv, by sub-X
    times: pd.DataFrame = field(default_factory=NO_TIMES.copy)  # of sessions
    given: str = ""  # name of the given model, if none was trained
    interactive: bool = False  # with viewer and sortable tables
    chunks: Sequence[Path] = ()  # folders of the tables of scans without a page

    @property
    def complete(self) -> bool:
        """Return whether no job failed, so that everything is available."""
        return not self.failed

    def table(self, path: str) -> pd.DataFrame | None:
        """Return a table of all scans, or None.

        If jobs failed it is gathered again, since the existing one may be from an earlier run. So
        may scores if there is no test scan any more.
        """
        scored = {scan.id for scan in self.scans if scan.split == "test"}
        names = [n for n in self.segmented if n in scored or not path.startswith("metrics")]
        if self.complete:
            file = self.results / path
            wanted = names or (self.chunks and path == VOLUMES)
            table = pd.read_csv(file, sep="\t") if wanted and file.exists() else pd.DataFrame()
            return None if table.empty else table  # of no scan, if those of all chunks are bad
        files = {name: self.results / GATHERED_FROM[path].format(name) for name in names}
        parts = [pd.read_csv(file, sep="\t").assign(subject=name) for name, file in files.items()]
        if path == VOLUMES:
            parts += [pd.read_csv(chunk / "volumes.tsv", sep="\t") for chunk in self.chunks]
        return pd.concat(parts, ignore_index=True) if parts else None

    @property
    def columns(self) -> list[str]:
        """Return the available demographic columns."""
        return [name for name in DEMOGRAPHICS if name in self.people]

    def known(self, scan: Scan) -> dict[str, str]:
        """Return the demographics of a scan's subject, n/a where unknown."""
        rows = self.people[self.columns].reindex([f"sub-{scan.subject}"]).fillna("n/a")
        return dict(rows.iloc[0])

    def files(self, scan: str) -> dict[str, Path]:
        """Return the files of a segmented scan, by the suffixes of their names."""
        folder = self.results / "segmentations" / scan / "anat"
        start = f"{scan}_desc-"
        return {path.name.removeprefix(start): path for path in sorted(folder.glob(f"{start}*"))}


def scored_content(inputs: ReportInputs) -> dict:
    """Return the scores as lists of records; empty without test scans."""
    metrics, those = inputs.table("metrics.tsv"), structures(inputs.protocol)
    order = paired_order(those)
    if metrics is None:
        return {}
    views, confusion = (inputs.table(f"metrics/{name}.tsv") for name in ("views", "confusion"))
    participants = {scan.id: scan.participant for scan in inputs.scans}
    tables = {
        "scans": scores.by_scan(metrics),
        "structures": scores.by_structure(metrics, order, participants),
        "worst": scores.worst_cases(metrics),
        "views": scores.view_means(views, participants),
        "by_view": scores.by_view(views, order, participants),
        "bias": scores.bland_altman(metrics, order),
        "confused": scores.confused(confusion, inputs.protocol.names[0]),
    }
    records = {name: table.to_dict("records") for name, table in tables.items()}
    people = {participants[name] for name in metrics["subject"]}
    paged = inputs.segmented if inputs.complete else ()
    return {
        **records,
        "mean": scores.mean_dice(metrics, participants),
        "people": len(people),
        "charts": {
            "dice": score_strips.dice(metrics, tables["structures"], those, paged),
            "hd95": score_strips.hd95(metrics, those, paged),
            "views": score_strips.views(tables["by_view"], those),
            "bias": score_strips.bias(tables["bias"], those),
        },
    }


def overview_rows(inputs: ReportInputs, volumes: pd.DataFrame | None, scored: dict) -> list[dict]:
    """Return one row per segmented scan, flagged ones first."""
    if volumes is None:
        return []
    dice = {row["subject"]: row["dice"] for row in scored.get("scans", [])}
    splits = {scan.id: scan.split for scan in inputs.scans}
    uncertain = volumes.groupby("subject")["uncertainty"].mean()
    rows = []
    for name in inputs.segmented:
        files = inputs.files(name)
        quality = json.loads(files["quicknat_qc.json"].read_bytes())
        brain = float(read_totals(files["quicknat_dseg.stats"])["brain"]) / 1000
        row = {"scan": name, "split": splits[name], "flags": quality["flags"]}
        row |= {"dice": dice.get(name), "brain_ml": brain, "uncertainty": uncertain[name]}
        rows.append(row)
    return sorted(rows, key=lambda row: -len(row["flags"]))


def scan_content(
    inputs: ReportInputs, row: dict, volumes: pd.DataFrame, scored: pd.DataFrame | None
) -> dict:
    """Return the content of one scan's page."""
    name, files = row["scan"], inputs.files(row["scan"])
    own = volumes[volumes["subject"] == name].drop(columns="subject")
    if scored is not None:
        measures = scored[scored["subject"] == name].set_index("structure")
        own = own.join(measures[["dice", "hd95_mm", "reference_mm3"]], on="name")
    sums = read_totals(files["quicknat_dseg.stats"])
    rows = [{"name": TOTALS[key][1], "volume_mm3": float(mm3)} for key, mm3 in sums.items()]
    own = pd.concat([own, pd.DataFrame(rows)])  # without index
    (scan,) = (scan for scan in inputs.scans if scan.id == name)
    mosaics = inputs.results / "report" / "figures" / name
    return {
        "title": name,
        "row": row,
        "scan": name,
        "record": scan,
        "known": inputs.known(scan),
        "has_reference": (mosaics / "axial_reference.png").exists(),
        "has_uncertainty": (mosaics / "axial_uncertainty.png").exists(),
        **volume_table(own, inputs.protocol),
        "legend": outline_legend(inputs.protocol),
        "tiles": json.loads((mosaics / "tiles.json").read_bytes()),
        "scored": scored is not None and name in set(scored["subject"]),
        "provenance": json.loads(files["quicknat_dseg.json"].read_bytes()),
        "files": {p.name: f"../segmentations/{name}/anat/{p.name}" for p in files.values()},
    }


def cohort_content(inputs: ReportInputs, volumes: pd.DataFrame | None) -> dict:
    """Return the content of the cohort's page on scans, training and run, except scores."""
    splits = pd.Series([scan.split for scan in inputs.scans]).value_counts()
    order = paired_order(structures(inputs.protocol))
    # networks trained by an earlier run have nothing to do with a given model
    histories = {} if inputs.given else _histories(inputs.results / "models")
    path = inputs.results / "model" / "bundle.json"
    bundle = json.loads(path.read_bytes()) if path.exists() else None
    times = {
        view: " + ".join(
            duration(histories[stage, view]["seconds"].sum())
            for stage in STAGES
            if (stage, view) in histories
        )
        for view in VIEWS
    }
    return {
        "title": inputs.title,
        "inputs": inputs,
        "splits": [(name, int(splits[name])) for name in SPLITS if name in splits],
        "n_segmented": sum(scan.split in ("test", "segment") for scan in inputs.scans),
        "demographics": demographics(inputs.people, [f"sub-{s.subject}" for s in inputs.scans]),
        "ranges": [] if volumes is None else volume_ranges(volumes, order).to_dict("records"),
        "overfitting": overfitting(histories),
        "model_rows": model_rows(bundle["views"], times) if bundle else [],
        "view_colors": VIEW_COLORS,
        "colors": dict(zip(inputs.protocol.names, inputs.protocol.table["color"], strict=True)),
        "sagittal_classes": inputs.protocol.n_classes("sagittal"),
        "many": _chunked(inputs.chunks),
        "most_rows": MOST_ROWS,
        "bundle": bundle,
        "methods": methods(bundle, model_card(bundle, file_digest(path)), True) if bundle else "",
        "trained_on": trained_on(bundle["views"].values(), inputs.scans) if bundle else "",
        "times": run_times(inputs.results / "benchmarks").to_dict("records"),
        "software": versions(),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def quality_content(inputs: ReportInputs, volumes: pd.DataFrame | None, rows: list[dict]) -> dict:
    """Return the content of the cohort's page that needs no reference labels.

    Args:
        inputs: content to show.
        volumes: the gathered volumes, or None.
        rows: of :func:`overview_rows`.
    """
    path = inputs.results / "model" / "bundle.json"
    found: dict[str, Any] = {
        "quality": {"n_scans": 0},
        "change": {},
        "correct": None,
        "brain": pd.Series([row["brain_ml"] for row in rows], dtype=float).median(),
        "model_digest": file_digest(path)[:12] if path.exists() else "",
    }
    if volumes is None:
        return found
    those, paged = structures(inputs.protocol), inputs.segmented if inputs.complete else ()
    found["quality"] = cohort_quality(volumes, those, paged)
    found["change"] = change_content(volumes, inputs.scans, those, inputs.times, paged)
    first = next(
        (row["scan"] for row in found["quality"]["first"] if row["scan"] in inputs.segmented), ""
    )
    if first:
        provenance = json.loads(inputs.files(first)["quicknat_dseg.json"].read_bytes())
        folder = f"{inputs.results}/segmentations"
        dseg = f"{folder}/{first}/anat/{first}_desc-quicknat_dseg.nii.gz"
        labels = f"{folder}/labels/{inputs.protocol.name}"
        found["correct"] = {
            "scan": first,
            "image": quote(provenance["source"]["path"]),
            "dseg": quote(dseg),
            "itksnap": quote(f"{labels}_itksnap.txt"),
            "freeview": quote(f"{dseg}:colormap=lut:lut={labels}_freesurfer.txt:opacity=0.4"),
        }
    return found


def _chunked(folders: Sequence[Path]) -> dict[str, Any]:
    """Return counts of the scans without a page, and the rows of failed and of flagged ones."""
    if not folders:
        return {}
    parts = [
        pd.read_csv(folder / SCANS, sep="\t", dtype=str, keep_default_na=False)
        for folder in folders
    ]
    table = pd.concat(parts, ignore_index=True).sort_values("name")
    failed, flagged = table[table["status"] == FAILED], table[table["flags"] != ""]
    worst = flagged["flags"].str.count("; ").sort_values(ascending=False, kind="stable").index
    rows = {"failed": failed, "flagged": flagged.loc[worst]}
    shown = {name: part.head(MOST_ROWS).to_dict("records") for name, part in rows.items()}
    return {**shown, "n_done": len(table) - len(failed), "n_flagged": len(flagged)}


def _histories(folder: Path) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the histories of the trained networks by stage and view, in order."""
    found = {key: folder.joinpath(*key, "history.tsv") for key in product(STAGES, VIEWS)}
    return {key: pd.read_csv(path, sep="\t") for key, path in found.items() if path.exists()}
