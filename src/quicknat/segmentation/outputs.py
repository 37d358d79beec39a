"""Write a segmentation: label map, volumes, uncertainty, quality flags, provenance, lookups."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

import quicknat
from quicknat.cohort.examine import THICK_MM
from quicknat.files import written_whole
from quicknat.images.intensities import DENOISE, NOISY_BACKGROUND
from quicknat.images.labels import Protocol
from quicknat.images.slices import VIEWS
from quicknat.images.training_stats import ood_flags
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
    """Return the files of one scan by what they are for: ``{output}/{name}/anat/{name}_desc-…``.

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
    """Return voxels, mm³ and uncertainty of each structure, background left out.

    The last two rows are totals, without index and uncertainty: all structures together, and the
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
            **{key: values[1:].round(4) for key, values in result.uncertainty.items()},
        }
    )
    brain = ~np.isin(protocol.to_freesurfer()[1:], NOT_BRAIN)
    sums = np.array([counts.sum(), counts[brain].sum()])
    totals = {"name": ["All structures", "Brain"], "voxels": sums, "volume_mm3": sums * voxel_mm3}
    return pd.concat([table, pd.DataFrame(totals).round(1)], ignore_index=True)


def quality_flags(volumes: pd.DataFrame, record: dict) -> list[dict[str, str]]:
    """Return reasons to look at a segmentation before using it."""
    missing = list(volumes["name"][volumes["index"].notna() & (volumes["voxels"] == 0)])
    thickest = max(record["source_voxel_mm"])
    darkest = record["intensity_at_0_and_255"][0]
    outside = record["head_outside_fraction"]
    flags = []
    if missing:
        flags.append({"flag": "structure_missing", "reason": f"not found: {', '.join(missing)}"})
    if thickest > THICK_MM:
        reason = f"voxels are {thickest:g} mm along an axis"
        flags.append({"flag": "thick_slices", "reason": reason})
    if darkest < HOUNSFIELD_AIR / 2:
        reason = f"values go down to {darkest:.0f}, as air does in CT: is this a T1w scan?"
        flags.append({"flag": "other_modality", "reason": reason})
    if record.get("noisy_background"):  # records of earlier versions lack it
        flags.append({"flag": "noisy_background", "reason": f"{NOISY_BACKGROUND}; {DENOISE}"})
    if outside > 0.001:
        reason = f"{outside:.1%} of the head is outside the grid"
        flags.append({"flag": "head_cut_off", "reason": reason})
    return flags


def label_table(protocol: Protocol) -> pd.DataFrame:
    """Return the BIDS label table: index, name, abbreviation, color, freesurfer_id."""
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
    flags += ood_flags(result.statistics, bundle.training_stats, protocol.names, partner, mm3)
    quality = {"flags": flags, "source": record["source"]}
    with written_whole(*files.values()) as temporary:
        paths = dict(zip(files, temporary, strict=True))
        label_table(protocol).to_csv(paths["table"], sep="\t", index=False)
        volumes.to_csv(paths["volumes"], sep="\t", index=False, na_rep="n/a")
        paths["qc"].write_text(json.dumps(quality, indent=2) + "\n", "utf-8")
        paths["provenance"].write_text(json.dumps(provenance, indent=2) + "\n", "utf-8")
        # 8 bits are as fine as anyone can see, and a fifth of the file
        entropy = np.rint(255 * result.entropy).astype(np.uint8)
        save_nifti(paths["entropy"], entropy, result.grid, slope=1 / 255)
        for view, labels in result.views.items():
            save_nifti(paths[view], labels, result.grid)
        save_nifti(paths["dseg"], result.labels, result.grid)
    return volumes


def write_description(output: Path) -> None:
    """Write ``dataset_description.json`` of the segmentations, a BIDS derivative, if missing."""
    description = {
        "Name": "QuickNAT segmentations",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "quicknat", "Version": quicknat.__version__}],
    }
    _write_missing(output / "dataset_description.json", json.dumps(description, indent=2) + "\n")


def lookup_tables(protocol: Protocol) -> dict[str, str]:
    """Return the label tables of programs that show label maps, by the end of the file's name.

    - ``freesurfer.txt``: ``index name R G B T``, T the transparency (FreeView's lookup table);
    - ``slicer.ctbl``: the same with opacity instead (3D Slicer's color table);
    - ``itksnap.txt``: ``index R G B opacity visible mesh "name"`` (ITK-SNAP's label descriptions);
    - ``niivue.json``: lists by channel (NiiVue's label colormap).
    """
    names, (red, green, blue) = protocol.names, protocol.colors.T.tolist()
    freesurfer, slicer, itksnap = "", "# Color table file\n", ""
    for k, (name, r, g, b) in enumerate(zip(names, red, green, blue, strict=True)):
        word, shown = name.replace(" ", "_"), int(k > 0)
        freesurfer += f"{k} {word} {r} {g} {b} 0\n"
        slicer += f"{k} {word} {r} {g} {b} {255 * shown}\n"
        itksnap += f'{k} {r} {g} {b} {shown} {shown} {shown} "{name}"\n'
    opacity = [0] + [255] * (len(names) - 1)
    niivue = {"R": red, "G": green, "B": blue, "A": opacity, "I": [*range(len(names))]}
    return {
        "freesurfer.txt": freesurfer,
        "slicer.ctbl": slicer,
        "itksnap.txt": itksnap,
        "niivue.json": json.dumps(niivue | {"labels": names}) + "\n",
    }


def write_lookup_tables(protocol: Protocol, folder: str | Path) -> None:
    """Write those that are missing as ``{folder}/{protocol}_{end}``."""
    for end, content in lookup_tables(protocol).items():
        _write_missing(Path(folder) / f"{protocol.name}_{end}", content)


def _write_missing(path: Path, content: str) -> None:
    if not path.exists():
        with written_whole(path) as (temporary,):
            temporary.write_text(content, "utf-8")
