"""How a cohort's scans are to be bent into the shapes of label maps, as small files.

    python benchmarks/accuracy/gpu/shape_fields.py malc.tsv --maps label_maps --output fields

What ``quicknat reshape`` finds, without the copies: ``SUBJECT_MAP.npz`` holds the displacement on a
4 mm grid, so that the copies can be made where they are learnt from. What exists is kept.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import SimpleITK as sitk
import typer

from quicknat.files import written_whole
from quicknat.images.labels import Protocol
from quicknat.images.resampling import resample, resample_labels
from quicknat.images.volumes import Volume, read_volume
from quicknat.package_data import label_table
from quicknat.synthesis.warping import BOX_MM, grid_around, registered

PROTOCOL = label_table("quicknat28")
SPACING_MM, NODES_MM = 1.5, 4.0  # of the registration, of what is kept of it
UNIT_MM = 0.1  # displacements are integers of it


def classes(path: Path, convention: str) -> Volume:
    """A label map in classes of the protocol."""
    volume = read_volume(path)
    return Volume(Protocol.read(PROTOCOL).remap(volume.data, convention, path), volume.affine, path)


def field(image: Path, labels: Path, convention: str, like: Path, output: Path) -> str:
    """Register one scan to one map, and write the displacement.

    ``field`` int16 (48, 48, 48, 3): what to add to a point of the map's 192 mm cube to get the
    scan's, along the axes, in tenths of a millimetre. ``cube`` (3,): the scan's cube's centre,
    world mm.
    """
    own, other = classes(labels, convention), classes(like, "freesurfer")
    here, there = grid_around(own, SPACING_MM), grid_around(other, SPACING_MM)
    bent = registered(
        resample(read_volume(image), here), resample_labels(own, here),
        resample_labels(other, there), SPACING_MM,
    )  # fmt: skip
    nodes = round(BOX_MM / NODES_MM)
    first = (NODES_MM - SPACING_MM) / 2  # the cube begins half a voxel before the first one
    found = sitk.GetArrayFromImage(
        sitk.TransformToDisplacementField(
            bent, sitk.sitkVectorFloat32, [nodes] * 3, [first] * 3, [NODES_MM] * 3
        )
    )[..., ::-1]  # SimpleITK names the axes the other way round
    middle = here.affine[:3, 3] + SPACING_MM * (np.array(here.shape) - 1) / 2
    whole = np.rint(found / UNIT_MM).clip(-32000, 32000).astype(np.int16)
    with written_whole(output) as (temporary,):
        np.savez_compressed(temporary, field=whole, cube=middle)
    return output.name


def main(
    cohort: Annotated[Path, typer.Argument(help="Sheet of labelled scans, local files.")],
    maps: Annotated[Path, typer.Option(help="Folder of label maps (freesurfer).")],
    output: Annotated[Path, typer.Option(help="Folder of the fields.")],
    copies: Annotated[int, typer.Option(min=1, help="Of each scan.")] = 2,
    cores: Annotated[int, typer.Option()] = os.cpu_count() or 1,
) -> None:
    """Register each scan to `copies` of the maps, which are used in turn."""
    table = pd.read_csv(cohort, sep="\t", dtype=str, keep_default_na=False, comment="#")
    shapes = sorted(maps.glob("*.nii.gz"))
    if copies > len(shapes):
        raise SystemExit(f"{maps}: {len(shapes)} label maps do not give {copies} shapes each")
    output.mkdir(parents=True, exist_ok=True)
    step, jobs = max(1, len(shapes) // copies), []
    with ProcessPoolExecutor(cores) as pool:
        for number, scan in enumerate(table[table["split"] == "train"].to_dict("records")):
            for copy in range(copies):
                like = shapes[(number + copy * step) % len(shapes)]
                name = output / f"{scan['subject']}_{like.name.removesuffix('.nii.gz')}.npz"
                if not name.exists():
                    job = scan["image"], scan["labels"], scan["label_convention"], like, name
                    jobs.append(pool.submit(field, *(*map(Path, job[:2]), *job[2:])))
        for done in jobs:
            print(done.result(), flush=True)


if __name__ == "__main__":
    typer.run(main)
