"""The report: a page for the cohort, a page per segmented scan, and what they need beside them."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from quicknat import scores
from quicknat.cohort import Scan
from quicknat.errors import written_whole
from quicknat.failures import Failure
from quicknat.history import overfitting
from quicknat.labels import Protocol
from quicknat.report_tables import (
    FEWEST,
    People,
    demographics,
    run_times,
    versions,
    volume_ranges,
    volumes_in_cohort,
)  # fmt: skip
from quicknat.slices import VIEWS
from quicknat.verdicts import Verdict
from quicknat.viewer import colour_blind_colors

USES = ("pretrain", "train", "val", "test", "segment")
SCORE_FIGURES = ("dice", "views", "hd95", "volumes", "bland_altman", "confusion", "uncertainty")

DEFAULT_NOTE = (
    "The scores measure agreement with the reference labels named in the sheet, on scans that the "
    "networks did not see in training. They can be no better than those labels, and they hold for "
    "scans like these."
)
# what to make of each flag of {scan}_desc-quicknat_qc.json
ADVICE = {
    "structure_missing": "Look there in the viewer: absent in this head, or not found?",
    "thick_slices": "Thin structures blur across thick slices; take small volumes with caution.",
    "head_cut_off": "Structures near that edge may be cut; a larger 'conform.size' holds more.",
    "implausible_volume": "Either this head is unusual, or the segmentation ran out of bounds.",
    "asymmetry": "Compare both sides in the mosaics: a lesion, or an error on one side?",
    "other_field": "The networks saw no such scans; train on some, or prepare these alike.",
    "other_contrast": "Check the file's sequence; other contrasts need networks trained on them.",
}


@dataclass(frozen=True)
class ReportInputs:
    """What the pages are made of; files lie in `results` where the workflow put them."""

    title: str
    note: str
    results: Path
    scans: Sequence[Scan]
    segmented: Sequence[str]  # scans that have a page
    protocol: Protocol
    skipped: Sequence[Verdict] = ()  # scans of the sheet that the run left out
    failed: Sequence[Failure] = ()  # jobs
    people: People = field(default_factory=People)
    waiting: Sequence[str] = ()  # scans to train on that the models have not seen
    libraries: Mapping[str, Path] | None = None  # scripts by name of source; None: a static report

    def table(self, path: str) -> pd.DataFrame | None:
        """A table of the results, None where there is none."""
        file = self.results / path
        return pd.read_csv(file, sep="\t") if file.exists() else None

    def files(self, scan: str) -> dict[str, Path]:
        """What there is of a segmented scan, by the end of its name."""
        folder = self.results / "segmentations" / scan / "anat"
        start = f"{scan}_desc-"
        return {path.name.removeprefix(start): path for path in sorted(folder.glob(f"{start}*"))}


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:,.{digits}f}"


def _environment(templates: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(templates),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    return environment


def _scored(inputs: ReportInputs) -> dict:
    """What the scores say, as records; empty without test scans."""
    metrics, order = inputs.table("metrics.tsv"), inputs.protocol.names[1:]
    if metrics is None:
        return {}
    views, confusion = (inputs.table(f"metrics/{name}.tsv") for name in ("views", "confusion"))
    persons = {scan.id: scan.person for scan in inputs.scans}
    tables = {
        "scans": scores.by_scan(metrics),
        "structures": scores.by_structure(metrics, order, persons),
        "worst": scores.worst_cases(metrics),
        "views": scores.view_means(views),
        "by_view": scores.by_view(views, order),
        "bias": scores.bland_altman(metrics, order),
        "confused": scores.confused(confusion, inputs.protocol.names[0]),
    }
    records = {name: table.to_dict("records") for name, table in tables.items()}
    people = {persons[name] for name in metrics["subject"]}
    return {**records, "mean": scores.mean_dice(metrics, persons), "people": len(people)}


def _overview(inputs: ReportInputs, volumes: pd.DataFrame | None, scored: dict) -> list[dict]:
    """A row per segmented scan, flagged ones first."""
    dice = {row["subject"]: row["dice"] for row in scored.get("scans", [])}
    uses = {scan.id: scan.use for scan in inputs.scans}
    rows = []
    for name in inputs.segmented:
        quality = json.loads(inputs.files(name)["quicknat_qc.json"].read_text())
        own = volumes[volumes["subject"] == name].set_index("name")
        row = {"scan": name, "use": uses[name], "dice": dice.get(name), "flags": quality["flags"]}
        row["brain_ml"] = own["volume_mm3"]["Brain"] / 1000
        row["uncertainty"] = own["uncertainty"].mean()
        rows.append(row)
    return sorted(rows, key=lambda row: -len(row["flags"]))


def _scan_page(inputs: ReportInputs, row: dict, volumes: pd.DataFrame, scored: pd.DataFrame | None):
    """What one scan's page shows."""
    name, files = row["scan"], inputs.files(row["scan"])
    own = volumes[volumes["subject"] == name].drop(columns="subject")
    if scored is not None:
        columns = ["structure", "dice", "hd95_mm", "reference_mm3"]
        own = own.merge(
            scored[scored["subject"] == name][columns], "left", left_on="name", right_on="structure"
        )
    (scan,) = (scan for scan in inputs.scans if scan.id == name)
    mosaics = inputs.results / "report" / "figures" / name
    return {
        "row": row,
        "scan": name,
        "record": scan,
        "known": dict(zip(inputs.people.columns, inputs.people.of(scan), strict=True)),
        "has_reference": (mosaics / "axial_reference.png").exists(),
        "has_uncertainty": (mosaics / "axial_uncertainty.png").exists(),
        "views": ("axial", "coronal", "sagittal"),
        "volumes": own.to_dict("records"),
        "scored": scored is not None and name in set(scored["subject"]),
        "provenance": json.loads(files["quicknat_dseg.json"].read_text()),
        "files": {
            path.name: f"../segmentations/{name}/anat/{path.name}" for path in files.values()
        },
    }


def _histories(folder: Path) -> dict[tuple[str, str], pd.DataFrame]:
    """Histories of the trained networks by stage and view, stages in their order."""
    files = [
        folder / stage / view / "history.tsv"
        for stage in ("pretrain", "finetune")
        for view in VIEWS
    ]
    return {p.parts[-3:-1]: pd.read_csv(p, sep="\t") for p in files if p.exists()}


def write_report(inputs: ReportInputs, templates: Path, output: Path) -> None:
    """Write the cohort's page, beside it the scans' pages and `assets/`; remove other scans' pages.

    Args:
        inputs: what to show.
        templates: folder of the Jinja templates, captions (``{figure}.rst``) and ``assets``; every
            value is escaped.
        output: the cohort's page, such as ``index.html``.

    Raises:
        InputError: nothing of a page is written under its name then.
    """
    environment, folder = _environment(templates), output.parent
    shared = {
        "interactive": inputs.libraries is not None,
        "protocol": inputs.protocol,
        "safe_colors": [f"#{bytes(c).hex()}" for c in colour_blind_colors(inputs.protocol)],
        "advice": ADVICE,
        "home": output.name,
        "fewest": FEWEST,
    }
    gathered = inputs.table("segmentations/volumes.tsv") if inputs.segmented else None
    volumes = None if gathered is None else volumes_in_cohort(gathered)
    scored, metrics = _scored(inputs), inputs.table("metrics.tsv")
    overview = _overview(inputs, volumes, scored)
    pages, template = {}, environment.get_template("scan.html.j2")
    for number, row in enumerate(overview):
        before, after = (overview[k]["scan"] if 0 <= k < len(overview) else None
                         for k in (number - 1, number + 1))  # fmt: skip
        content = _scan_page(inputs, row, volumes, metrics)
        pages[folder / f"{row['scan']}.html"] = template.render(
            title=row["scan"],
            before=before,
            after=after,
            n_scans=len(overview),
            **content,
            **shared,
        )
    uses = pd.Series([scan.use for scan in inputs.scans]).value_counts()
    figures = ("curves", *(SCORE_FIGURES if scored else ()))
    pages[output] = environment.get_template("cohort.html.j2").render(
        title=inputs.title,
        note=inputs.note,
        inputs=inputs,
        uses=[(use, int(uses[use])) for use in USES if use in uses],
        demographics=demographics(inputs.people, inputs.scans),
        scores=scored,
        overview=overview,
        ranges=[] if volumes is None else volume_ranges(
            volumes, inputs.protocol.names[1:]).to_dict("records"),
        figures=figures,
        captions={name: (templates / f"{name}.rst").read_text() for name in figures},
        overfitting=overfitting(_histories(inputs.results / "models")),
        sagittal_classes=inputs.protocol.n_classes("sagittal"),
        bundle=json.loads((inputs.results / "model" / "bundle.json").read_text()),
        times=run_times(inputs.results / "benchmarks"),
        software=versions(),
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        **shared,
    )  # fmt: skip
    for path in folder.glob("sub-*.html"):
        if path not in pages:
            path.unlink()
    assets = {path.name: path for path in sorted((templates / "assets").iterdir())}
    assets |= {f"{name}.js": path for name, path in (inputs.libraries or {}).items()}
    for name, source in assets.items():
        with written_whole(folder / "assets" / name) as (temporary,):
            shutil.copyfile(source, temporary)
    with written_whole(*pages) as temporaries:
        for temporary, text in zip(temporaries, pages.values(), strict=True):
            temporary.write_text(text, encoding="utf-8")
