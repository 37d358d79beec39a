"""Write a segmentation: label map, volumes, uncertainty, quality flags, provenance, lookups."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pandas as pd

import quicknat
from quicknat.cohort.examine import THICK_MM
from quicknat.errors import InputError, one_line
from quicknat.files import written_whole
from quicknat.flags import raised
from quicknat.images.intensities import DENOISE, NOISY_BACKGROUND
from quicknat.images.labels import Protocol, freesurfer_structures, stored_values
from quicknat.images.slices import VIEWS
from quicknat.images.training_stats import ood_flags
from quicknat.images.volumes import save_nifti
from quicknat.segmentation.tasks import Options
from quicknat.segmentation.volumes import stats_text, totals, volume_table

if TYPE_CHECKING:  # importing them takes torch
    from quicknat.model.bundle import Bundle
    from quicknat.segmentation.inference import Segmentation

HOUNSFIELD_AIR = -1000
DESCRIPTION = "dataset_description.json"

# what each file is for -> its name after the scan's; the label map comes last into place
FILES = {
    "table": "desc-quicknat_dseg.tsv",
    "stats": "desc-quicknat_dseg.stats",
    "volumes": "desc-quicknat_volumes.tsv",  # what is listed, so after what is read with it
    "qc": "desc-quicknat_qc.json",
    "provenance": "desc-quicknat_dseg.json",
    "entropy": "desc-quicknat_uncertainty.nii.gz",
    "mask_sidecar": "desc-brain_mask.json",
    "mask": "desc-brain_mask.nii.gz",
    **{view: f"desc-{view}_dseg.nii.gz" for view in VIEWS},
    "mgz": "desc-quicknat_dseg.mgz",
    "dseg": "desc-quicknat_dseg.nii.gz",
}
MASK = {
    "Type": "Brain",
    "Description": "What the cranial cavity holds: brain, ventricles, CSF and vessels up to the "
    "inner table of the skull, down to the foramen magnum; and all labelled voxels. "
    "IntracranialVolume is the cavity's, mm³",
}
# of our files, those that BIDS has no names for
NOT_BIDS = """\
*_volumes.tsv
*_qc.json
*_uncertainty.nii.gz
*.stats
*.mgz
labels
scans.tsv
volumes.tsv
volumes_wide.tsv
"""


def output_files(output: str | Path, name: str, options: Options | None = None) -> dict[str, Path]:
    """Return the files of a scan, in ``{output}/sub-X/[ses-Y/]anat/``, by what they are for.

    Of the options, `views` and `mgz` add files, `folder_per_scan` changes their folder.
    """
    chosen = options or Options()
    found = re.fullmatch(r"(sub-[A-Za-z0-9]+)(?:_(ses-[A-Za-z0-9]+))?(?:_.*)?", name)
    folders = [name] if chosen.folder_per_scan or not found else filter(None, found.groups())
    folder = Path(output, *folders, "anat")
    left_out = {*(() if chosen.views else VIEWS), *(() if chosen.mgz else ["mgz"])}
    return {key: folder / f"{name}_{end}" for key, end in FILES.items() if key not in left_out}


def stated_convention(labels: Path) -> str:
    """Return the label convention that the sidecar of a label map of ours states; "" for none."""
    name = labels.name.removesuffix(".nii.gz").removesuffix(".mgz")
    sidecar = labels.with_name(f"{name}.json")
    try:
        return str(json.loads(sidecar.read_bytes())["how"]["label_convention"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""  # of another program


def quality_flags(volumes: pd.DataFrame, record: dict) -> list[dict[str, str]]:
    """Return reasons to look at a segmentation before using it."""
    missing = list(volumes["name"][volumes["voxels"] == 0])
    thickest = max(record["source_voxel_mm"])
    darkest = record["intensity_at_0_and_255"][0]
    outside = record["head_outside_fraction"]
    flags = []
    if missing:
        flags.append(raised("structure_missing", f"not found: {', '.join(missing)}"))
    if thickest > THICK_MM:
        flags.append(raised("thick_slices", f"voxels are {thickest:g} mm along an axis"))
    if darkest < HOUNSFIELD_AIR / 2:
        reason = f"values are as low as {darkest:.0f}, like air in CT: is this a T1w scan?"
        flags.append(raised("other_modality", reason))
    if record.get("looks_like_labels"):
        reason = "most neighbouring voxels have equal values: is this a T1w scan?"
        flags.append(raised("label_map", reason))
    if record.get("noisy_background"):  # records of earlier versions lack it
        flags.append(raised("noisy_background", f"{NOISY_BACKGROUND}; {DENOISE}"))
    if outside > 0.001:
        flags.append(raised("head_cut_off", f"{outside:.1%} of the head is outside the grid"))
    return flags


def label_table(protocol: Protocol, convention: str = "") -> pd.DataFrame:
    """Return the BIDS label table: index, name, abbreviation, color, freesurfer_id.

    ``index`` is the value in the label map, see :func:`stored_values` for the convention.
    """
    table = protocol.table[["index", "name", "abbreviation", "color"]].copy()
    table["freesurfer_id"] = freesurfer_structures(protocol)["freesurfer_id"]
    return table.assign(index=stored_values(protocol, convention)).sort_values("index")


def write_segmentation(
    result: Segmentation,
    bundle: Bundle,
    name: str,
    record: dict,
    provenance: dict,
    output: Path,
    options: Options,
) -> tuple[pd.DataFrame, dict[str, float], list[str]]:
    """Write all files of a segmented scan, or none; remove those that an earlier call added.

    Args:
        result, bundle, name: the segmentation, its model, its scan.
        record: of the conversion.
        provenance: what made it; becomes the label map's sidecar.
        output, options: see :func:`output_files`.

    Returns:
        The table of volumes, the totals in mm³, and the names of the quality flags.

    Raises:
        InputError: the label map cannot have this convention, or a file cannot be written.
    """
    protocol, files = bundle.protocol, output_files(output, name, options)
    values = np.array(stored_values(protocol, options.label_convention))
    values = values.astype(np.uint8 if values.max() < 256 else np.int32)
    volumes = volume_table(result, protocol)
    cavity = result.intracranial
    sums = totals(volumes, protocol, cavity.volume_mm3)
    mask = MASK | {"IntracranialVolume": cavity.volume_mm3}
    mask |= {"WhyNoVolume": cavity.reason} if cavity.reason else {}
    flags = quality_flags(volumes, record)
    partner, mm3 = protocol.partners("coronal"), bundle.spacing_mm**3
    flags += ood_flags(result.statistics, bundle.training_stats, protocol.names, partner, mm3)
    quality = {"flags": flags, "source": record["source"]}
    everything = output_files(output, name, replace(options, views=True, mgz=True))
    for path in everything.keys() - files.keys():
        everything[path].unlink(missing_ok=True)
    with written_whole(*files.values()) as temporary:
        paths = dict(zip(files, temporary, strict=True))
        table = label_table(protocol, options.label_convention)
        table.to_csv(paths["table"], sep="\t", index=False, na_rep="n/a")
        volumes.to_csv(paths["volumes"], sep="\t", index=False, na_rep="n/a")
        paths["stats"].write_text(stats_text(name, volumes, sums, protocol), "utf-8")
        paths["qc"].write_text(json.dumps(quality, indent=2) + "\n", "utf-8")
        paths["provenance"].write_text(json.dumps(provenance, indent=2) + "\n", "utf-8")
        paths["mask_sidecar"].write_text(json.dumps(mask, indent=2) + "\n", "utf-8")
        save_nifti(paths["mask"], cavity.mask, result.grid)
        # 8 bits are as fine as anyone can see, and a fifth of the file
        entropy = np.rint(255 * result.entropy).astype(np.uint8)
        save_nifti(paths["entropy"], entropy, result.grid, slope=1 / 255)
        for view, labels in result.views.items():
            save_nifti(paths[view], values[labels], result.grid)
        if options.mgz:
            nib.save(nib.MGHImage(values[result.labels], result.grid.affine), paths["mgz"])
        save_nifti(paths["dseg"], values[result.labels], result.grid)
    return volumes, sums, [flag["flag"] for flag in flags]


def write_description(output: Path, sources: Sequence[Path] = ()) -> None:
    """Make a folder of segmentations a BIDS derivative of some data sets, if it is not one yet."""
    description = {
        "Name": "QuickNAT segmentations",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "quicknat", "Version": quicknat.__version__}],
    }
    if sources:
        description["SourceDatasets"] = [source_dataset(path) for path in sources]
    _write_missing(output / DESCRIPTION, json.dumps(description, indent=2) + "\n")
    _write_missing(output / ".bidsignore", NOT_BIDS)


def require_bids(folder: Path) -> dict:
    """Return the ``dataset_description.json`` of a BIDS data set.

    Raises:
        InputError: there is none, or it lacks what BIDS requires.
    """
    path = folder / DESCRIPTION
    try:
        described = json.loads(path.read_bytes())
        absent = [key for key in ("Name", "BIDSVersion") if key not in described]
        problem = f"lacks {' and '.join(absent)}" if absent else ""
    except FileNotFoundError as error:
        fix = "name a BIDS data set, or --skip-bids-validation"
        raise InputError(path, "does not exist", fix) from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        problem = f"cannot be read ({one_line(error)})"
    if problem:
        raise InputError(path, problem, "complete it as BIDS says, or --skip-bids-validation")
    return dict(described)


def is_raw(folder: Path) -> bool:
    """Return whether a folder is a BIDS data set, and no derivative of ours."""
    try:
        made = json.loads((folder / DESCRIPTION).read_bytes()).get("GeneratedBy", [])
        return all(program.get("Name") != "quicknat" for program in made)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return True  # damaged


def source_dataset(folder: Path) -> dict[str, str]:
    """Return what ``SourceDatasets`` says about a BIDS data set: where it is, and its DOI."""
    found = {"URL": folder.resolve().as_uri()}
    with suppress(InputError):  # whoever wants it valid has checked it
        found |= {"DOI": doi} if (doi := require_bids(folder).get("DatasetDOI")) else {}
    return found


def lookup_tables(protocol: Protocol, convention: str = "") -> dict[str, str]:
    """Return the label tables of programs that show label maps, by the end of the file's name.

    - ``freesurfer.txt``: ``index name R G B T``, T the transparency (FreeView's lookup table);
    - ``slicer.ctbl``: the same with opacity instead (3D Slicer's color table);
    - ``itksnap.txt``: ``index R G B opacity visible mesh "name"`` (ITK-SNAP's label descriptions);
    - ``niivue.json``: lists by channel (NiiVue's label colormap).
    """
    names, (red, green, blue) = protocol.names, protocol.colors.T.tolist()
    values = stored_values(protocol, convention)
    freesurfer, slicer, itksnap = "", "# Color table file\n", ""
    for k, name, r, g, b in sorted(zip(values, names, red, green, blue, strict=True)):
        word, shown = name.replace(" ", "_"), int(k > 0)
        freesurfer += f"{k} {word} {r} {g} {b} 0\n"
        slicer += f"{k} {word} {r} {g} {b} {255 * shown}\n"
        itksnap += f'{k} {r} {g} {b} {shown} {shown} {shown} "{name}"\n'
    opacity = [0] + [255] * (len(names) - 1)
    niivue = {"R": red, "G": green, "B": blue, "A": opacity, "I": values}
    return {
        "freesurfer.txt": freesurfer,
        "slicer.ctbl": slicer,
        "itksnap.txt": itksnap,
        "niivue.json": json.dumps(niivue | {"labels": names}) + "\n",
    }


def write_lookup_tables(protocol: Protocol, folder: str | Path, convention: str = "") -> None:
    """Write those that are missing as ``{folder}/{protocol}[-{convention}]_{end}``."""
    own = protocol.name if convention in ("", protocol.name) else f"{protocol.name}-{convention}"
    for end, content in lookup_tables(protocol, convention).items():
        _write_missing(Path(folder) / f"{own}_{end}", content)


def _write_missing(path: Path, content: str) -> None:
    if not path.exists():
        with written_whole(path) as (temporary,):
            temporary.write_text(content, "utf-8")
