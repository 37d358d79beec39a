"""What is written of a segmentation: label map, tables, quality flags, where it came from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

import quicknat
from quicknat.cohort.examine import THICK_MM
from quicknat.files import written_whole
from quicknat.images.labels import Protocol
from quicknat.images.slices import VIEWS
from quicknat.images.training_stats import unlike
from quicknat.images.volumes import save_nifti
from quicknat.model.bundle import Bundle
from quicknat.segmentation.inference import Segmentation

# FreeSurfer's numbers of ventricles, cerebrospinal fluid, fifth ventricle, cerebral exterior
NOT_BRAIN = [4, 5, 14, 15, 24, 43, 44, 72, 1, 40]

HOUNSFIELD_AIR = -1000

# what each file is for -> its name after the scan's; the label map comes last into place
FILES = {
    "table": "desc-quicknat_dseg.tsv",
    "volumes": "desc-quicknat_volumes.tsv",
    "qc": "desc-quicknat_qc.json",
    "provenance": "desc-quicknat_dseg.json",
    "entropy": "desc-quicknat_uncertainty.nii.gz",
    **{view: f"desc-{view}_dseg.nii.gz" for view in VIEWS},  # only if wanted
    "dseg": "desc-quicknat_dseg.nii.gz",
}


def output_files(output: str | Path, name: str, views: bool = False) -> dict[str, Path]:
    """Where the files of one scan are: ``{output}/{name}/anat/{name}_desc-…``.

    Args:
        output: folder of all scans.
        name: of the scan.
        views: with each view's own label map.
    """
    folder = Path(output) / name / "anat"
    return {
        key: folder / f"{name}_{end}" for key, end in FILES.items() if views or key not in VIEWS
    }


def volume_table(result: Segmentation, protocol: Protocol) -> pd.DataFrame:
    """Voxels, mm³ and measures of confidence of each structure, background left out.

    The last two rows are totals, without index and confidence: all structures together, and the
    brain, that is without ventricles, other cerebrospinal fluid, and what lies outside the brain.
    """
    counts = np.bincount(result.labels.ravel(), minlength=len(protocol.names))[1:]
    voxel_mm3 = abs(np.linalg.det(result.grid.affine[:3, :3]))
    table = pd.DataFrame(
        {
            "index": protocol.table["index"][1:].astype("Int64"),
            "name": protocol.names[1:],
            "voxels": counts,
            "volume_mm3": (counts * voxel_mm3).round(1),
            **{key: values[1:].round(4) for key, values in result.confidence.items()},
        }
    )
    brain = ~np.isin(protocol.to_freesurfer()[1:], NOT_BRAIN)
    sums = np.array([counts.sum(), counts[brain].sum()])
    totals = {"name": ["All structures", "Brain"], "voxels": sums, "volume_mm3": sums * voxel_mm3}
    return pd.concat([table, pd.DataFrame(totals).round(1)], ignore_index=True)


def quality_flags(volumes: pd.DataFrame, record: dict) -> list[dict[str, str]]:
    """Reasons to look at a segmentation before using it."""
    flags = []
    missing = list(volumes["name"][volumes["index"].notna() & (volumes["voxels"] == 0)])
    if missing:
        flags.append({"flag": "structure_missing", "reason": f"not found: {', '.join(missing)}"})
    thickest = max(record["source_voxel_mm"])
    if thickest > THICK_MM:
        flags.append(
            {"flag": "thick_slices", "reason": f"voxels are {thickest:g} mm along an axis"}
        )
    darkest = record["intensity_at_0_and_255"][0]
    if darkest < HOUNSFIELD_AIR / 2:
        reason = f"values go down to {darkest:.0f}, as air does in CT: is this a T1w scan?"
        flags.append({"flag": "other_modality", "reason": reason})
    outside = record["head_outside_fraction"]
    if outside > 0.001:
        flags.append(
            {"flag": "head_cut_off", "reason": f"{outside:.1%} of the head is outside the grid"}
        )
    return flags


def label_table(protocol: Protocol) -> pd.DataFrame:
    """BIDS label table: index, name, abbreviation, color, freesurfer_id."""
    table = protocol.table[["index", "name", "abbreviation", "color"]].copy()
    table["freesurfer_id"] = [str(i) if i >= 0 else "n/a" for i in protocol.to_freesurfer()]
    return table


def write_segmentation(
    result: Segmentation, bundle: Bundle, record: dict, provenance: dict, files: dict[str, Path]
) -> pd.DataFrame:
    """Write all files of a segmented scan, or none.

    Args:
        result: the segmentation.
        bundle: the model.
        record: of the conversion.
        provenance: what made it; becomes the label map's sidecar.
        files: from :func:`output_files`.

    Returns:
        The volume table.
    """
    protocol = bundle.protocol
    volumes = volume_table(result, protocol)
    flags = quality_flags(volumes, record)
    partner, mm3 = protocol.partners("coronal"), bundle.spacing_mm**3
    flags += unlike(result.statistics, bundle.population, protocol.names, partner, mm3)
    quality = {"flags": flags, "source": record["source"]}
    with written_whole(*files.values()) as temporary:
        paths = dict(zip(files, temporary, strict=True))
        label_table(protocol).to_csv(paths["table"], sep="\t", index=False)
        volumes.to_csv(paths["volumes"], sep="\t", index=False, na_rep="n/a")
        paths["qc"].write_text(json.dumps(quality, indent=2) + "\n")
        paths["provenance"].write_text(json.dumps(provenance, indent=2) + "\n")
        # 8 bits are as fine as anyone can see, and a fifth of the file
        entropy = np.rint(255 * result.entropy).astype(np.uint8)
        save_nifti(paths["entropy"], entropy, result.grid, slope=1 / 255)
        for view, labels in result.views.items():
            save_nifti(paths[view], labels, result.grid)
        save_nifti(paths["dseg"], result.labels, result.grid)
    return volumes


def dataset_description() -> dict:
    """BIDS derivative description of the segmentations folder."""
    return {
        "Name": "QuickNAT segmentations",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "quicknat", "Version": quicknat.__version__}],
    }
