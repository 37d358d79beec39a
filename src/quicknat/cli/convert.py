"""The commands `convert` and `convert-labels`: resample scans and label maps to one grid."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

import quicknat
from quicknat.cli.app import (
    QUICKNAT28,
    STEPS,
    Convention,
    Orientation,
    Overwrite,
    ProtocolFile,
    Size,
    Spacing,
    app,
    nifti_name,
)

log = logging.getLogger(__name__)


@app.command(rich_help_panel=STEPS)
def convert(
    image: Annotated[Path, typer.Argument(help="T1w scan: NIfTI, MGZ or Analyze; may be a glob.")],
    output: Annotated[
        Path, typer.Option(callback=nifti_name, help="…_T1w.nii.gz to write, with .json sidecar.")
    ],
    spacing: Spacing = 1.0,
    size: Size = 256,
    orientation: Orientation = "",
    overwrite: Overwrite = False,
) -> None:
    """Conform a T1w scan to a cube of isotropic voxels: RAS+ axes, 8 bits.

    Example: `quicknat convert T1.mgz --output sub-01_space-conformed_T1w.nii.gz`
    """
    from quicknat.cohort.paths import find_one
    from quicknat.files import require_same_source, written_whole
    from quicknat.images.conform import conform_file
    from quicknat.images.volumes import save_nifti

    path = find_one(image)
    data, grid, record = conform_file(path, orientation, spacing, size)
    sidecar = output.with_name(output.name.removesuffix(".nii.gz") + ".json")
    if not overwrite:
        require_same_source(sidecar, path, record["source_sha256"])
    record["quicknat"] = quicknat.__version__
    if record["head_outside_fraction"] > 0.001:
        log.warning(
            "%s: %.1f %% of the head lies outside the %g mm cube",
            path, 100 * record["head_outside_fraction"], spacing * size,
        )  # fmt: skip
    with written_whole(output, sidecar) as (temporary, temporary_sidecar):
        save_nifti(temporary, data, grid)
        temporary_sidecar.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    log.info("%s: %s %s -> %s", path, record["source_orientation"], data.shape, output)


@app.command("convert-labels", rich_help_panel=STEPS)
def convert_labels(
    labels: Annotated[Path, typer.Argument(help="Label map on the scan's grid; may be a glob.")],
    scan: Annotated[Path, typer.Option(help="The conformed scan.")],
    label_convention: Convention,
    output: Annotated[
        Path, typer.Option(callback=nifti_name, help="…_dseg.nii.gz to write, conformed grid.")
    ],
    native: Annotated[
        Path, typer.Option(callback=nifti_name, help="…_dseg.nii.gz to write, native grid.")
    ],
    protocol: ProtocolFile = QUICKNAT28,
    orientation: Orientation = "",
    overwrite: Overwrite = False,
) -> None:
    """Map labels to the protocol's classes, on the conformed and on the native grid.

    Example: `quicknat convert-labels aseg.mgz --label-convention freesurfer --scan T1w.nii.gz
    --output dseg.nii.gz --native native.nii.gz`
    """
    import numpy as np

    from quicknat.cohort.paths import find_one
    from quicknat.files import require_absent, written_whole
    from quicknat.images.conform import conform_labels, load_conformed, record_grid
    from quicknat.images.labels import Protocol
    from quicknat.images.volumes import on_grid, read_volume, save_nifti

    path = find_one(labels)
    if not overwrite:
        require_absent((output, native))
    _, cube, record = load_conformed(scan)
    grid = record_grid(record)
    source = on_grid(read_volume(path, orientation), grid)
    classes, conformed = conform_labels(source, label_convention, Protocol.read(protocol), cube)
    with written_whole(output, native) as (temporary, temporary_native):
        save_nifti(temporary, conformed, cube)
        save_nifti(temporary_native, classes, grid)
    log.info("%s -> %s: %d classes", path, output, len(np.unique(conformed)))
