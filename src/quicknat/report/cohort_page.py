"""Collect the content of the cohort's page."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import pandas as pd

import quicknat
from quicknat.cohort.participants import trained_on
from quicknat.evaluation import scores
from quicknat.model.card import methods, model_card
from quicknat.report.charts import bias_chart, dice_chart, hd95_chart, view_chart
from quicknat.report.cohort_qc import cohort_quality
from quicknat.report.figures import VIEW_COLORS
from quicknat.report.inputs import DEMOGRAPHICS, MOST_ROWS, ReportInputs
from quicknat.report.repeated import change_content
from quicknat.report.structures import paired_order
from quicknat.reruns import file_digest
from quicknat.segmentation.tasks import FAILED, SCANS
from quicknat.segmentation.volumes import read_totals
from quicknat.training.history import STAGES, duration, overfitting

SPLITS = ("pretrain", "train", "val", "test", "segment")
PACKAGES = (
    "snakemake", "torch", "monai", "torchio", "nibabel", "SimpleITK", "scipy",
    "numpy", "pandas", "pydantic", "matplotlib",
)  # fmt: skip


def scored_content(inputs: ReportInputs) -> dict:
    """Return the scores as lists of records; empty without test scans."""
    if (metrics := inputs.metrics) is None:
        return {}
    those, order = inputs.structures, paired_order(inputs.structures)
    views, confusion = (inputs.table(f"metrics/{name}.tsv") for name in ("views", "confusion"))
    participants = inputs.participants
    tables = {
        "scans": scores.by_scan(metrics),
        "structures": scores.by_structure(metrics, order, participants),
        "worst": scores.worst_cases(metrics),
        "views": scores.view_means(views, participants),
        "by_view": scores.by_view(views, order, participants),
        "bias": scores.bland_altman(metrics, order),
        "confused": scores.confused(confusion, inputs.protocol.names[0]),
    }
    return {
        **{name: table.to_dict("records") for name, table in tables.items()},
        "mean": scores.mean_dice(metrics, participants),
        "measures": scores.MEASURES,
        "headings": [f"#{measure.title}" for measure in scores.MEASURES.values()],
        "people": len({participants[name] for name in metrics["subject"]}),
        "charts": {
            "dice": dice_chart(metrics, tables["structures"], those, inputs.paged),
            "hd95": hd95_chart(metrics, those, inputs.paged),
            "views": view_chart(tables["by_view"], those),
            "bias": bias_chart(tables["bias"], those),
        },
    }


def _overview_rows(inputs: ReportInputs, scored: dict) -> list[dict[str, Any]]:
    """Return one row per segmented scan, flagged ones first."""
    if inputs.volumes is None:
        return []
    dice = {row["subject"]: row["dice"] for row in scored.get("scans", [])}
    scans = {scan.id: scan for scan in inputs.scans}
    uncertain = inputs.volumes.groupby("subject")["uncertainty"].mean()
    rows = []
    for name in inputs.segmented:
        files = inputs.files(name)
        quality = json.loads(files["quicknat_qc.json"].read_bytes())
        totals = {key: float(mm3) for key, mm3 in read_totals(files["quicknat_dseg.stats"]).items()}
        row = {"scan": name, "split": scans[name].split, "flags": quality["flags"]}
        row |= {"dice": dice.get(name), "brain_ml": totals.get("brain", np.nan) / 1000}
        row |= {"uncertainty": uncertain[name]}
        rows.append(row | {"record": scans[name], "files": files, "totals": totals})
    return sorted(rows, key=lambda row: -len(row["flags"]))


def cohort_content(inputs: ReportInputs) -> dict[str, Any]:
    """Return the content of the cohort's page."""
    those, volumes = inputs.structures, inputs.volumes
    scored = scored_content(inputs)
    overview = _overview_rows(inputs, scored)
    splits = pd.Series([scan.split for scan in inputs.scans]).value_counts()
    quality: dict[str, Any] = {"n_scans": 0}
    change: dict[str, Any] = {}
    if volumes is not None:
        quality = cohort_quality(volumes, those, inputs.paged)
        change = change_content(volumes, inputs.scans, those, inputs.times, inputs.paged)
    return {
        "title": inputs.title,
        "inputs": inputs,
        "scores": scored,
        "overview": overview,
        "many": _chunked(inputs.chunks),
        "most_rows": MOST_ROWS,
        "n_segmented": sum(scan.split in ("test", "segment") for scan in inputs.scans),
        "brain": pd.Series([row["brain_ml"] for row in overview], dtype=float).median(),
        "quality": quality,
        "correct": _how_to_correct(inputs, quality),
        "change": change,
        "ranges": [] if volumes is None else _volume_ranges(volumes, paired_order(those)),
        "overfitting": overfitting(inputs.histories),
        "view_colors": VIEW_COLORS,
        "colors": dict(zip(inputs.protocol.names, inputs.protocol.table["color"], strict=True)),
        "splits": [(name, int(splits[name])) for name in SPLITS if name in splits],
        "demographics": demographics(inputs.people, [f"sub-{s.subject}" for s in inputs.scans]),
        "sagittal_classes": inputs.protocol.n_classes("sagittal"),
        **_model_content(inputs),
        "times": run_times(inputs.results / "benchmarks").to_dict("records"),
        "software": _versions(),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def _how_to_correct(inputs: ReportInputs, quality: dict[str, Any]) -> dict[str, str] | None:
    """Return quoted paths of the first scan to correct that has a page."""
    first = [row["scan"] for row in quality.get("first", ()) if row["scan"] in inputs.segmented]
    if not first:
        return None
    scan, folder = first[0], f"{inputs.results}/segmentations"
    provenance = json.loads(inputs.files(scan)["quicknat_dseg.json"].read_bytes())
    dseg = f"{folder}/{scan}/anat/{scan}_desc-quicknat_dseg.nii.gz"
    labels = f"{folder}/labels/{inputs.protocol.name}"
    return {
        "scan": scan,
        "image": quote(provenance["source"]["path"]),
        "dseg": quote(dseg),
        "itksnap": quote(f"{labels}_itksnap.txt"),
        "freeview": quote(f"{dseg}:colormap=lut:lut={labels}_freesurfer.txt:opacity=0.4"),
    }


def _model_content(inputs: ReportInputs) -> dict[str, Any]:
    """Return what is known of the model, which is not there if training failed."""
    path = inputs.results / "model" / "bundle.json"
    if not path.exists():
        return {"bundle": None, "model_digest": "", "trained_on": ""}
    bundle, digest = json.loads(path.read_bytes()), file_digest(path)
    histories, networks = inputs.histories, []
    for view, entry in bundle["views"].items():
        times = [
            f"{title.lower()} {duration(histories[stage, view]['seconds'].sum())}"
            for stage, title in STAGES.items()
            if (stage, view) in histories
        ]
        networks.append({**entry, "time": ", ".join(times)})
    return {
        "bundle": bundle,
        "model_digest": digest[:12],
        "model_rows": _model_rows(networks),
        "methods": methods(bundle, model_card(bundle, digest), True),
        "trained_on": trained_on(bundle["views"].values(), inputs.scans),
    }


def _model_rows(networks: Sequence[Mapping[str, Any]]) -> list[dict]:
    """Return a row per setting of a model's networks, with its value for each."""

    def epochs(network: Mapping) -> str:
        start = network.get("warm_start")
        weights = f" from {start['sha256'][:12]}" if start else ""
        return f"{network['training']['epochs']}{weights}"

    def dice(network: Mapping) -> str:
        value = network["best_val_dice"]
        return f"{value:.3f}" if value is not None and np.isfinite(value) else ""

    settings: dict[str, Callable[[Mapping], object]] = {
        "Filters": lambda n: n["network"]["filters"],
        "Squeeze and excitation": lambda n: n["network"]["squeeze_excitation"],
        "Dropout": lambda n: n["network"]["dropout"],
        "Optimiser": lambda n: n["training"]["optimizer"],
        "Learning rate": lambda n: n["training"]["learning_rate"],
        "Epochs": epochs,
        "Epoch kept": lambda n: n["best_epoch"],
        "Validation Dice": dice,
        "Training scans": lambda n: len(n.get("training_scans", [])),
        "Training time": lambda n: n["time"],
        "Trained on": lambda n: n.get("device_name"),
        "Precision": lambda n: n.get("precision"),
        "SHA-256": lambda n: n["sha256"][:12],
    }
    rows = [(name, [get(network) for network in networks]) for name, get in settings.items()]
    return [
        {"name": name, "values": ["" if value is None else value for value in values]}
        for name, values in rows
        if any(value not in ("", None) for value in values)  # what no network says is left out
    ]


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


def _volume_ranges(volumes: pd.DataFrame, order: Sequence[str]) -> list[dict]:
    """Return median and range of each structure's volume (mm³), and the scans at the extremes."""
    table = volumes.pivot(index="subject", columns="name", values="volume_mm3")[list(order)]
    found = {
        "median": table.median(), "smallest": table.min(), "smallest_scan": table.idxmin(),
        "largest": table.max(), "largest_scan": table.idxmax(),
    }  # fmt: skip
    return pd.DataFrame(found).rename_axis("name").reset_index().to_dict("records")


def demographics(people: pd.DataFrame, subjects: Sequence[str]) -> list[str]:
    """Summarize the :data:`DEMOGRAPHICS` of `subjects` (sub-X), each counted once.

    `people` has them as text, by subject.
    """
    known, words = people.reindex(list(dict.fromkeys(subjects))), []
    for column in (name for name in DEMOGRAPHICS if name in known):
        values = known[column].replace("n/a", np.nan).dropna()
        # an age may be 89+
        numbers = pd.to_numeric(values.astype(str).str.removesuffix("+"), errors="coerce").dropna()
        if column == "age" and len(numbers):
            low, middle, high = numbers.min(), numbers.median(), numbers.max()
            words.append(f"age {low:g} to {high:g}, median {middle:g} (known for {len(numbers)})")
        elif len(values):
            counts = values.value_counts()
            words.append(f"{column} {', '.join(f'{n} {value}' for value, n in counts.items())}")
    return words


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


def _versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    found = {"quicknat": quicknat.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed here"
    return found
