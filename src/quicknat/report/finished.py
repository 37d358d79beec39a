"""Which scans a run has finished, where it did not finish all."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from quicknat.reruns import file_digest

# what the report shows of a segmented scan; `dseg.json` says which model made it
ENDS = ("dseg.nii.gz", "dseg.json", "volumes.tsv", "qc.json")


def complete_scans(
    results: str | Path, names: Sequence[str], tested: Collection[str] = ()
) -> list[str]:
    """Those scans that have all of what the report needs, made with the model that is there now.

    A run that stopped half-way leaves segmentations of the model before, and scores and
    pictures of the segmentation before; scans that have only such are not complete.

    Args:
        results: folder of the run.
        names: scans that are to be segmented.
        tested: those of them that are to be scored.
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


def _file(results: Path, name: str, end: str) -> Path:
    return results / "segmentations" / name / "anat" / f"{name}_desc-quicknat_{end}"


def _is_segmented(results: Path, name: str, model: str) -> bool:
    if not all(_file(results, name, end).is_file() for end in ENDS):
        return False
    try:
        return json.loads(_file(results, name, "dseg.json").read_text())["model"]["sha256"] == model
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_later(results: Path, name: str, made: str) -> bool:
    """Whether a file was made of the scan's present segmentation."""
    segmented = _file(results, name, "dseg.nii.gz").stat().st_mtime
    return (results / made).is_file() and (results / made).stat().st_mtime >= segmented
