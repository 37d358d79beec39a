"""Find the scans that an incomplete run has finished."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from quicknat.reruns import file_digest
from quicknat.segmentation.tasks import SCANS

# files of a segmented scan in the report; `dseg.json` names the model
ENDS = ("dseg.nii.gz", "dseg.json", "dseg.stats", "volumes.tsv", "qc.json")


def complete_scans(
    results: str | Path, names: Sequence[str], tested: Collection[str] = ()
) -> list[str]:
    """Return the scans with all files for the report, made with the current model.

    After an incomplete run, segmentations may be of the previous model, and scores and pictures of
    previous segmentations; such scans are not complete.

    Args:
        results: folder of the run.
        names: scans to segment.
        tested: those of them to score.
    """
    results = Path(results)
    model = file_digest(results / "model" / "bundle.json")
    return [
        name
        for name in names
        if _is_segmented(results, name, model)
        and _is_later(results, name, f"report/figures/{name}/thumbnail.jpg")
        and (name not in tested or _is_later(results, name, f"metrics/{name}.tsv"))
    ]


def complete_chunks(results: str | Path, chunks: Sequence[str]) -> list[Path]:
    """Return the folders of the chunks that were finished after the current model was made."""
    model = Path(results, "model", "bundle.json")
    tables = [Path(results, "chunks", chunk, SCANS) for chunk in chunks]
    return [
        table.parent
        for table in tables
        if table.exists() and model.exists() and table.stat().st_mtime >= model.stat().st_mtime
    ]


def _file(results: Path, name: str, end: str) -> Path:
    return results / "segmentations" / name / "anat" / f"{name}_desc-quicknat_{end}"


def _is_segmented(results: Path, name: str, model: str) -> bool:
    if not all(_file(results, name, end).is_file() for end in ENDS):
        return False
    try:
        made = json.loads(_file(results, name, "dseg.json").read_bytes())
        return made["model"]["sha256"] == model
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_later(results: Path, name: str, file: str) -> bool:
    """Return whether a file was made from the scan's current segmentation."""
    segmented = _file(results, name, "dseg.nii.gz").stat().st_mtime
    return (results / file).is_file() and (results / file).stat().st_mtime >= segmented
