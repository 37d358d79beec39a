"""Write the report: a page for the cohort, a page per segmented scan, and their assets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from quicknat.evaluation.scores import MEASURES
from quicknat.files import written_whole
from quicknat.flags import FLAGS
from quicknat.model.card import read_card
from quicknat.package_data import SCORE_FIGURES, TEMPLATES
from quicknat.report.cohort_page import cohort_content
from quicknat.report.inputs import ReportInputs
from quicknat.report.standalone import write_libraries
from quicknat.report.structures import Structure, outline_legend
from quicknat.segmentation.volumes import TOTALS

INCOMPLETE = "incomplete.html"
CAPTIONED = ("curves", *SCORE_FIGURES)
FEWEST_SCANS = 5  # minimum number of scans for percentiles
# of a scan's table: title and digits; shown where at least one structure has it
SCAN_COLUMNS = {
    "volume_mm3": ("Volume (mm³)", 0),
    "reference_mm3": ("Reference (mm³)", 0),
    "percentile": ("Percentile", 0),
    "uncertainty": ("Uncertainty", 3),
    "view_agreement": ("View agreement", 2),
    **{name: (measure.title, measure.digits) for name, measure in MEASURES.items()},
}


def _number(value: float | None, digits: int = 3) -> str:
    # a hyphen: DataTables treats it as empty, and sorts the column as numbers
    return "-" if value is None or not np.isfinite(value) else f"{value:,.{digits}f}"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.tests["finite"] = lambda value: bool(np.isfinite(value))
    return environment


def write_report(inputs: ReportInputs, output: Path) -> None:
    """Write the cohort's page, the scans' pages and `assets/`; remove those of other scans.

    If jobs failed, only the cohort's page, `output`, is written.

    Raises:
        InputError: a page cannot be written; then none is.
    """
    environment, folder = _environment(), output.parent
    content = cohort_content(inputs)
    overview, figures = content["overview"], list[str]()
    if inputs.complete:
        figures += ["curves"] if inputs.histories else []
        figures += SCORE_FIGURES if content["scores"] else []
    _write_assets(inputs, folder / "assets", content["change"])
    shared = {
        "interactive": inputs.interactive,
        "complete": inputs.complete,
        "protocol": inputs.protocol,
        "advice": FLAGS,
        "home": output.name,
        "model": read_card(inputs.results / "model"),
        "legend": outline_legend(inputs.protocol),
        "paged": set(inputs.paged),
    }
    pages = {
        output: environment.get_template("cohort.html.j2").render(
            **content,
            figures=figures,
            captions={name: (TEMPLATES / f"{name}.rst").read_text("utf-8") for name in CAPTIONED},
            **shared,
        )
    }
    if inputs.complete:
        template, names = environment.get_template("scan.html.j2"), [r["scan"] for r in overview]
        ranked = None if inputs.volumes is None else with_percentiles(inputs.volumes)
        around = zip(["", *names], [*names[1:], ""], overview, strict=False)
        for before, after, row in around:
            steps = {"before": before, "after": after, "n_scans": len(overview)}
            page = template.render(**scan_content(inputs, row, ranked), **steps, **shared)
            pages[folder / f"{row['scan']}.html"] = page
        for path in [*folder.glob("sub-*.html"), folder / INCOMPLETE]:
            if path not in pages:
                path.unlink(missing_ok=True)
        kept = {*names, *figures}
        drawn = ["curves.*", *(f"{name}.*" for name in SCORE_FIGURES), "sub-*"]  # not a user's own
        ours = [path for pattern in drawn for path in folder.glob(f"figures/{pattern}")]
        for path in [*ours, *folder.glob("volumes/sub-*.js")]:
            if path.stem not in kept:  # its images, too, since people mail this folder
                is_folder = path.is_dir() and not path.is_symlink()
                shutil.rmtree(path) if is_folder else path.unlink()
    with written_whole(*pages) as temporaries:
        for temporary, text in zip(temporaries, pages.values(), strict=True):
            temporary.write_text(text, encoding="utf-8")


def with_percentiles(volumes: pd.DataFrame) -> pd.DataFrame:
    """Add ``percentile`` to the gathered volumes: among all segmented scans, 0 … 100.

    It is NaN with fewer than five scans.
    """
    groups = volumes.groupby("name")["volume_mm3"]
    percentile = 100 * groups.rank(pct=True).where(groups.transform("size") >= FEWEST_SCANS)
    return volumes.assign(percentile=percentile)


def scan_content(inputs: ReportInputs, row: dict, volumes: pd.DataFrame) -> dict:
    """Return the content of one scan's page.

    `row` is the scan's in the cohort's overview; `volumes` are from :func:`with_percentiles`.
    """
    name, files = row["scan"], row["files"]
    own = volumes[volumes["subject"] == name].drop(columns="subject")
    if inputs.metrics is not None:
        measures = inputs.metrics[inputs.metrics["subject"] == name].set_index("structure")
        own = own.join(measures[[*MEASURES, "reference_mm3"]], on="name")
    mosaics = inputs.results / "report" / "figures" / name
    return {
        "title": name,
        "row": row,
        "scan": name,
        "record": row["record"],
        "known": inputs.known(row["record"]),
        "has_reference": (mosaics / "axial_reference.png").exists(),
        "has_uncertainty": (mosaics / "axial_uncertainty.png").exists(),
        **_volume_table(own.set_index("name"), inputs.structures),
        "totals": [
            {"name": TOTALS[key][1], "volume_mm3": mm3} for key, mm3 in row["totals"].items()
        ],
        "tiles": json.loads((mosaics / "tiles.json").read_bytes()),
        "provenance": json.loads(files["quicknat_dseg.json"].read_bytes()),
        "files": {p.name: f"../segmentations/{name}/anat/{p.name}" for p in files.values()},
    }


def _volume_table(volumes: pd.DataFrame, those: Sequence[Structure]) -> dict[str, Any]:
    """Return ``measures``: those that a structure has; ``volume_groups``: rows by group."""
    columns = SCAN_COLUMNS.items()
    measures = {key: of for key, of in columns if key in volumes and volumes[key].any()}
    groups: dict[str, list[dict]] = {}
    for one in those:
        members = volumes.reindex(list(one.members)).to_dict("records")
        asymmetry = None
        if len(members) == 2:
            left, right = (member["volume_mm3"] for member in members)
            asymmetry = (left - right) / (left + right) if left + right > 0 else None
        row = {"name": one.name, "indices": one.indices, "color": one.color,
               "members": members, "asymmetry": asymmetry}  # fmt: skip
        groups.setdefault(one.group, []).append(row)
    return {"measures": measures, "volume_groups": groups}


def _write_assets(inputs: ReportInputs, folder: Path, change: dict) -> None:
    """Write what pages load, and the table of change between sessions."""
    for source in sorted((TEMPLATES / "assets").iterdir()):
        with written_whole(folder / source.name) as (temporary,):
            shutil.copyfile(source, temporary)
    if inputs.interactive:
        write_libraries(folder)
    table = folder / "change.tsv"
    if inputs.complete and change:  # else an earlier run's page may link to the table
        with written_whole(table) as (temporary,):
            change["table"].to_csv(temporary, sep="\t", index=False, na_rep="n/a")
    elif inputs.complete:
        table.unlink(missing_ok=True)
