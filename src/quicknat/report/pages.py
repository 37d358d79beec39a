"""Write the report: a page for the cohort, a page per segmented scan, and their assets."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from quicknat.errors import InputError
from quicknat.files import written_whole
from quicknat.model.card import read_card
from quicknat.package_data import SCORE_FIGURES, TEMPLATES
from quicknat.report.content import (
    ReportInputs,
    cohort_content,
    overview_rows,
    quality_content,
    scan_content,
    scored_content,
)
from quicknat.report.libraries import write_libraries
from quicknat.report.tables import FEWEST_SCANS, page_weights, volumes_in_cohort

INCOMPLETE = "incomplete.html"
CAPTIONED = ("curves", *SCORE_FIGURES)
# advice for each flag in {scan}_desc-quicknat_qc.json
ADVICE = {
    "structure_missing": "Check in the viewer: is it absent in this head, or was it missed?",
    "thick_slices": "Thin structures blur across thick slices; treat small volumes with caution.",
    "head_cut_off": "Structures near that edge may be cut off; increase 'conform.size'.",
    "implausible_volume": "Either this head is unusual, or the segmentation leaked or failed.",
    "asymmetry": "Compare both sides in the mosaics: is it a lesion, or an error?",
    "other_field": "The networks were not trained on such scans: add some, or preprocess alike.",
    "noisy_background": "Use the denoised image (UNI-DEN), or denoise it, and segment it again.",
    "other_modality": "The networks were trained on T1w MRI only: do not use this segmentation.",
    "other_contrast": "Check the sequence; other contrasts need networks trained on them.",
}


def read_note(path: str | Path) -> str:
    """Return a cohort's note, a text file in UTF-8.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        problem = f"cannot be read as text ({error})"
        raise InputError(path, problem, "save it as text in UTF-8") from error


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
    """Write the cohort's page, the scans' pages and `assets/`; remove pages of other scans.

    If jobs failed, only the cohort's page is written.

    Args:
        inputs: content to show.
        output: the cohort's page, e.g. ``index.html``.

    Raises:
        InputError: a page cannot be written; then none is.
    """
    environment, folder = _environment(), output.parent
    shared = {
        "interactive": inputs.interactive,
        "complete": inputs.complete,
        "protocol": inputs.protocol,
        "advice": ADVICE,
        "home": output.name,
        "model": read_card(inputs.results / "model"),
        "fewest": FEWEST_SCANS,
        "paged": set(inputs.segmented) if inputs.complete else (),
    }
    gathered = inputs.table("segmentations/volumes.tsv")
    volumes = None if gathered is None else volumes_in_cohort(gathered)
    scored, metrics = scored_content(inputs), inputs.table("metrics.tsv")
    overview = overview_rows(inputs, volumes, scored)
    for source in sorted((TEMPLATES / "assets").iterdir()):
        with written_whole(folder / "assets" / source.name) as (temporary,):
            shutil.copyfile(source, temporary)
    if inputs.interactive:
        write_libraries(folder / "assets")
    figures: tuple[str, ...] = ()
    if inputs.complete:
        figures = (() if inputs.given else ("curves",)) + (tuple(SCORE_FIGURES) if scored else ())
    quality = quality_content(inputs, volumes, overview)
    table = folder / "assets" / "change.tsv"
    if inputs.complete and quality["change"]:  # an earlier run's page may link to the table
        with written_whole(table) as (temporary,):
            quality["change"]["table"].to_csv(temporary, sep="\t", index=False, na_rep="n/a")
    elif inputs.complete:
        table.unlink(missing_ok=True)
    pages = {
        output: environment.get_template("cohort.html.j2").render(
            **cohort_content(inputs, volumes),
            **quality,
            scores=scored,
            overview=overview,
            figures=figures,
            captions={name: (TEMPLATES / f"{name}.rst").read_text("utf-8") for name in CAPTIONED},
            weights=page_weights(folder, inputs.segmented, figures),
            **shared,
        )
    }
    if inputs.complete:
        template, names = environment.get_template("scan.html.j2"), [r["scan"] for r in overview]
        around = zip(["", *names], [*names[1:], ""], overview, strict=False)
        for before, after, row in around:
            content = scan_content(inputs, row, volumes, metrics)
            steps = {"before": before, "after": after, "n_scans": len(overview)}
            pages[folder / f"{row['scan']}.html"] = template.render(**content, **steps, **shared)
        for path in [*folder.glob("sub-*.html"), folder / INCOMPLETE]:
            if path not in pages:
                path.unlink(missing_ok=True)
    with written_whole(*pages) as temporaries:
        for temporary, text in zip(temporaries, pages.values(), strict=True):
            temporary.write_text(text, encoding="utf-8")
