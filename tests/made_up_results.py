"""Results of a cohort that never was, as large as a test of the report wants it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from quicknat.cohort.sheet import Scan
from quicknat.images.labels import Protocol
from quicknat.package_data import SCORE_FIGURES
from quicknat.report.inputs import GATHERED_FROM, ReportInputs
from quicknat.report.pages import write_report

VIEWS = ("coronal", "axial", "sagittal")
# totals of a scan, mm³, as its stats file has them
BRAIN = "# Measure Brain, BrainVol, Brain, 1200000.0, mm^3\n"
LAYERS = ("prediction", "prediction_safe", "reference", "disagreement")
TILES = {"columns": 4, "rows": 3, "width": 20, "height": 10, "positions_mm": list(range(-6, 6))}


def one_scan(name: str, split: str = "test") -> Scan:
    """Return one scan of one participant."""
    return Scan(subject=name, image=f"{name}.nii", split=split, participant=name)


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, pd.DataFrame):
        content.to_csv(path, sep="\t", index=False, na_rep="n/a")
    elif isinstance(content, Image.Image):
        content.save(path)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def scores(names: Sequence[str], structures: Sequence[str]) -> pd.DataFrame:
    """Return the scores of scans by structure."""
    random = np.random.default_rng(0)
    pairs = [(name, structure) for name in names for structure in structures]
    table = pd.DataFrame(pairs, columns=["subject", "structure"])
    table["dice"] = random.uniform(0.6, 0.95, len(table))
    table["iou"] = table["dice"] / (2 - table["dice"])
    table["hd95_mm"] = random.uniform(1, 8, len(table))
    table["reference_mm3"] = random.uniform(500, 9000, len(table))
    table["volume_mm3"] = table["reference_mm3"] * random.uniform(0.8, 1.2, len(table))
    return table


def _score_tables(names: Sequence[str], protocol: Protocol) -> dict[str, pd.DataFrame]:
    table = scores(names, protocol.names[1:])
    views = [
        table[["subject", "structure", "dice", "iou"]].assign(view=view)
        for view in ("aggregate", *VIEWS)
    ]
    first, second = protocol.names[1:3]
    confusion = [(name, first, k, n) for name in names for k, n in ((first, 90), (second, 10))]
    columns = ["subject", "reference", "prediction", "voxels"]
    return {
        "metrics.tsv": table,
        "metrics/views.tsv": pd.concat(views),
        "metrics/confusion.tsv": pd.DataFrame(confusion, columns=columns),
    }


def volumes(names: Sequence[str], protocol: Protocol) -> pd.DataFrame:
    """Return volumes, uncertainty and agreement of scans by structure, none of them unusual."""
    random, parts = np.random.default_rng(0), []
    for name in names:
        part = protocol.table[["index", "name"]][1:].copy()
        part["volume_mm3"] = 5000 * np.exp(random.normal(0, 0.05, len(part)))
        part["uncertainty"] = random.normal(0.2, 0.01, len(part))
        part["view_agreement"] = random.normal(0.9, 0.01, len(part))
        parts.append(part.assign(subject=name))
    return pd.concat(parts, ignore_index=True)


def made_up_results(
    results: Path, scans: Sequence[Scan], protocol: Protocol, text: str = "", **more: object
) -> ReportInputs:
    """Write what the report reads, and say what to show.

    Args:
        results: folder to fill.
        scans: all are shown; those with `split` test are scored.
        protocol: of the labels.
        text: stands wherever a program or a person may have left text.
        more: for the :class:`ReportInputs`.
    """
    names = [scan.id for scan in scans]
    if tested := [scan.id for scan in scans if scan.split == "test"]:
        for path, table in _score_tables(tested, protocol).items():
            _write(results / path, table)
    _write(results / "segmentations/volumes.tsv", volumes(names, protocol))
    flags = [{"flag": "asymmetry", "reason": f"left and right differ {text}"}]
    how = {"quicknat": text, "precision": "torch.float32"}
    provenance = {
        "source": {"path": text, "sha256": "0" * 64}, "model": {"sha256": "1" * 64}, "how": how,
        "torch": "2", "python": "3", "device": "cpu", "threads": 1, "date": text, "seconds": {},
    }  # fmt: skip
    figures = results / "report/figures"
    for number, name in enumerate(names):
        start = results / f"segmentations/{name}/anat/{name}_desc-quicknat"
        _write(Path(f"{start}_qc.json"), {"flags": flags if number % 3 == 0 else []})
        _write(Path(f"{start}_dseg.json"), provenance)
        _write(Path(f"{start}_dseg.stats"), BRAIN)
        _write(results / f"logs/segment/{name}.log", "")
        _write(figures / name / "thumbnail.jpg", Image.new("RGB", (380, 166)))
        for view in VIEWS:
            _write(figures / name / f"{view}.webp", Image.new("L", (80, 30), number % 256))
            for layer in LAYERS:
                _write(figures / name / f"{view}_{layer}.png", Image.new("P", (80, 30)))
        _write(figures / name / "tiles.json", dict.fromkeys(VIEWS, TILES))
    for name in ("curves", *SCORE_FIGURES):
        _write(figures / f"{name}.png", Image.new("RGB", (600, 400), "white"))
        _write(figures / f"{name}.svg", '<svg xmlns="http://www.w3.org/2000/svg"/>')
    view = {
        "network": {"filters": 4, "squeeze_excitation": "none", "dropout": 0.0},
        "training": {"optimizer": text, "learning_rate": 1, "epochs": 2},
        "best_epoch": 1, "best_val_dice": 0.5, "sha256": "0" * 64,
        "classes": ["Background", "Left hippocampus"],
    }  # fmt: skip
    bundle = {
        "protocol": "p", "aggregation": dict.fromkeys(VIEWS, 1 / 3), "conform": {"spacing_mm": 2},
        "slices": {"size": 96}, "views": dict.fromkeys(VIEWS, view),
    }  # fmt: skip
    _write(results / "model/bundle.json", bundle)
    _write(results / "model/README.md", "")
    _write(results / "config.yaml", "")
    history = pd.DataFrame({"epoch": [1, 2], "train_loss": [2, 1], "val_loss": [1, 1.5],
                            "val_dice": [0.5, 0.4], "seconds": [30, 30]})  # fmt: skip
    for name in VIEWS:
        _write(results / f"models/finetune/{name}/history.tsv", history)
    times = pd.DataFrame({"s": [1.5], "max_rss": [100.0]})
    _write(results / "benchmarks/segment/sub-1.tsv", times)
    return ReportInputs(
        title=f"Report {text}", note=f"A note {text}", results=results, scans=scans,
        segmented=names, protocol=protocol, **more,
    )  # fmt: skip


def written(inputs: ReportInputs, name: str = "index.html") -> str:
    """Write the report; its page."""
    write_report(inputs, inputs.results / "report" / name)
    return (inputs.results / "report" / name).read_text()


def split_tables(inputs: ReportInputs) -> None:
    """Write each scan's own part of the tables of all."""
    for path, own in GATHERED_FROM.items():
        for name, part in inputs.table(path).groupby("subject"):
            _write(inputs.results / own.format(name), part)
