"""Tables of volumes: of a scan, also in FreeSurfer's format, and of many, long and wide."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

import quicknat
from quicknat.cohort.naming import ENTITIES, entities
from quicknat.errors import InputError
from quicknat.files import written_whole
from quicknat.images.labels import Protocol, freesurfer_structures
from quicknat.model.card import filled

if TYPE_CHECKING:  # importing it takes torch
    from quicknat.segmentation.inference import Segmentation

LONG, WIDE = "volumes.tsv", "volumes_wide.tsv"
VOLUMES_END, STATS_END = "_desc-quicknat_volumes.tsv", "_desc-quicknat_dseg.stats"
# totals of a scan, mm³: name (as in the wide table, without _mm3) -> its name and description as a
# measure of the stats file. A total more needs a row here and a value in `totals`
TOTALS = {
    "brain": ("BrainVol", "Brain without ventricles and other cerebrospinal fluid"),
    "all_structures": ("AllStructuresVol", "All segmented structures"),
    "intracranial": ("eTIV", "Estimated Total Intracranial Volume"),
}
ORDINALS = {"3rd": "third", "4th": "fourth", "5th": "fifth"}  # R wants names to begin with a letter


def volume_table(result: Segmentation, protocol: Protocol) -> pd.DataFrame:
    """Return number, voxels, mm³ and uncertainty of each structure, background left out."""
    counts = np.bincount(result.labels.ravel(), minlength=len(protocol.names))[1:]
    voxel_mm3 = abs(np.linalg.det(result.grid.affine[:3, :3]))
    return pd.DataFrame(
        {
            "index": range(1, len(protocol.names)),
            "name": protocol.names[1:],
            "freesurfer_id": freesurfer_structures(protocol)["freesurfer_id"][1:].array,
            "voxels": counts,
            "volume_mm3": (counts * voxel_mm3).round(1),
            **{key: values[1:].round(4) for key, values in result.uncertainty.items()},
        }
    )


def totals(
    volumes: pd.DataFrame, protocol: Protocol, intracranial_mm3: float | None
) -> dict[str, float]:
    """Return the totals of a scan, mm³, by their names in :data:`TOTALS`; unknown ones are absent.

    There is no brain volume where the protocol lacks the cerebrum.
    """
    brain = freesurfer_structures(protocol)["brain"][1:].to_numpy()
    mm3 = volumes["volume_mm3"].to_numpy()
    sums = {"brain": float(mm3[brain].sum())} if brain.any() else {}
    sums["all_structures"] = float(mm3.sum())
    return sums if intracranial_mm3 is None else sums | {"intracranial": intracranial_mm3}


def stats_text(
    name: str, volumes: pd.DataFrame, sums: Mapping[str, float], protocol: Protocol
) -> str:
    """Return the volumes in the format of FreeSurfer's ``aseg.stats``, which its scripts read.

    Totals are its measures. Classes that are several of FreeSurfer's structures have no row. In a
    label table without any of FreeSurfer's numbers, rows have its own indices and names.
    """
    known = freesurfer_structures(protocol)[1:]
    table = volumes.assign(label=known["freesurfer_name"].array)
    if protocol.table["freesurfer"][1:].eq("").all():
        names = table["name"].str.replace(" ", "-")
        table = table.assign(freesurfer_id=table["index"], label=names)
    table = table.dropna(subset="freesurfer_id")
    return filled(
        "aseg.stats.j2",
        version=quicknat.__version__,
        name=name,
        measures=[(*TOTALS[key], mm3) for key, mm3 in sums.items()],
        rows=list(table.sort_values("freesurfer_id").itertuples()),
    )


def read_totals(path: str | Path) -> dict[str, str]:
    """Return the totals of a stats file, mm³ as text, by their names in :data:`TOTALS`."""
    text = Path(path).read_text("utf-8")
    values = dict(re.findall(r"^# Measure \w+, (\w+), .*, (\S+), mm\^3$", text, re.M))
    return {key: values[short] for key, (short, _) in TOTALS.items() if short in values}


def column_name(structure: str) -> str:
    """Return a structure's column in the wide table, a valid name in R: ``left_thalamus_mm3``."""
    words = re.sub(r"[^a-z0-9]+", "_", structure.lower()).strip("_").split("_")
    return "_".join([ORDINALS.get(words[0], words[0]), *words[1:], "mm3"])


def _stats_file(volumes: Path) -> Path:
    return volumes.with_name(volumes.name.removesuffix(VOLUMES_END) + STATS_END)


def _read(path: Path) -> pd.DataFrame:
    """Read a table as text, so that numbers are written as they were."""
    try:
        return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(
            path, f"is not a table ({error})", "delete it and segment again"
        ) from error


def wide_row(name: str, volumes: pd.DataFrame, sums: Mapping[str, str]) -> pd.DataFrame:
    """Return the row of a scan in the wide table: its entities, totals, then structures, mm³."""
    found = entities(name)
    session = found.pop("ses", "")
    row = {"participant_id": f"sub-{found.pop('sub')}"}
    row |= {"session_id": f"ses-{session}" if session else "n/a", **found}
    row |= {f"{key}_mm3": sums.get(key, "n/a") for key in TOTALS}
    for number, structure in enumerate(volumes["name"]):
        column = column_name(structure)
        if column in row or column == "_mm3":  # alike but for what no name in R may have
            column = f"structure_{volumes['index'].iloc[number]}_mm3"
        row[column] = volumes["volume_mm3"].iloc[number]
    return pd.DataFrame([row])


def write_volume_tables(paths: Iterable[Path], folder: Path) -> None:
    """Write ``volumes.tsv`` and ``volumes_wide.tsv`` of many scans to a folder.

    The long table has a row per structure of each scan, with the scan's name (``subject``) first;
    the wide one a row per scan. Where a scan has no such structure or entity, the wide one has n/a.
    The paths are of tables of scans (``…_volumes.tsv``, with the stats file beside), or of long
    tables of earlier calls (``volumes.tsv``, with the wide one beside).

    Raises:
        InputError: a table is missing or damaged, or two are of one scan.
    """
    longs, wides, named = [], [], dict[str, Path]()
    for path in paths:
        table, name = _read(path), path.name.removesuffix(VOLUMES_END)
        if path.name == LONG:
            longs.append(table)
            wides.append(_read(path.with_name(WIDE)))
            continue
        if (other := named.setdefault(name, path)) is not path:
            raise InputError(path, f"has the same name as {other}, {name}", "remove one")
        longs.append(table.assign(subject=name)[["subject", *table]])
        wides.append(wide_row(name, table, read_totals(_stats_file(path))))
    long = pd.concat(longs) if longs else pd.DataFrame({"subject": []})
    wide = pd.concat(wides) if wides else pd.DataFrame({"participant_id": []})
    order = ["participant_id", "session_id", *ENTITIES.values()]
    own = [column for column in order if column in wide]
    wide = wide[[*own, *(column for column in wide if column not in own)]]
    with written_whole(folder / LONG, folder / WIDE) as temporaries:
        tables = long.sort_values("subject", kind="stable"), wide.sort_values(own)
        for table, temporary in zip(tables, temporaries, strict=True):
            table.to_csv(temporary, sep="\t", index=False, na_rep="n/a")


def find_volume_tables(output: Path) -> list[Path]:
    """Return the tables of all scans in a folder of segmentations, sorted.

    Those without a stats file are of versions that had totals in the tables: left out.
    """
    patterns = (f"*/anat/[!.]*{VOLUMES_END}", f"*/ses-*/anat/[!.]*{VOLUMES_END}")
    found = [path for pattern in patterns for path in output.glob(pattern)]
    # a scan may be there in BIDS's layout and, from a workflow, in `{name}/anat/`: the first counts
    found.sort(key=lambda path: (path.name, -len(path.parents[1].name)))
    named = {path.name: path for path in found if _stats_file(path).is_file()}
    return sorted(named.values())
