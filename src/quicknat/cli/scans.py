"""Commands that turn one raw scan into training slices."""

from __future__ import annotations

import json
import logging
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import quicknat
from quicknat.cli.app import (
    QUICKNAT28,
    STEPS,
    Orientation,
    ProtocolFile,
    Size,
    SliceSize,
    Spacing,
    Threads,
    app,
    check_name,
    nifti_name,
)

log = logging.getLogger(__name__)


class LabelMethod(StrEnum):
    """How a scan without labels gets them."""

    atlas = "atlas"
    recon_all = "recon-all"
    synthseg = "synthseg"
    samseg = "samseg"


@app.command(rich_help_panel=STEPS)
def convert(
    image: Annotated[Path, typer.Argument(help="T1w scan: NIfTI, MGZ, Analyze; may be a glob.")],
    output: Annotated[
        Path, typer.Option(callback=nifti_name, help="…_T1w.nii.gz; the .json goes beside it.")
    ],
    spacing: Spacing = 1.0,
    size: Size = 256,
    orientation: Orientation = "",
) -> None:
    """Conform a T1w scan: RAS+ axes, isotropic voxels, a cube, 8 bits.

    Example: `quicknat convert T1.mgz --output sub-01_space-conformed_T1w.nii.gz`
    """
    from quicknat.cohort.sheet import find_one
    from quicknat.files import written_whole
    from quicknat.scans.conform import conform_file
    from quicknat.scans.volumes import save_nifti

    path = find_one(image)
    data, grid, record = conform_file(path, orientation, spacing, size)
    sidecar = output.with_name(output.name.removesuffix(".nii.gz") + ".json")
    record["quicknat"] = quicknat.__version__
    if record["head_outside_fraction"] > 0.001:
        log.warning(
            "%s: %.1f %% of the head lies outside the %g mm cube",
            path, 100 * record["head_outside_fraction"], spacing * size,
        )  # fmt: skip
    with written_whole(output, sidecar) as (temporary, temporary_sidecar):
        save_nifti(temporary, data, grid)
        temporary_sidecar.write_text(json.dumps(record, indent=2) + "\n")
    log.info("%s: %s %s -> %s", path, record["source_orientation"], data.shape, output)


@app.command("convert-labels", rich_help_panel=STEPS)
def convert_labels(
    labels: Annotated[Path, typer.Argument(help="Label map on the scan's grid; may be a glob.")],
    scan: Annotated[Path, typer.Option(help="The conformed scan.")],
    numbering: Annotated[
        str, typer.Option(help="freesurfer, neuromorphometrics, or the protocol.")
    ],
    output: Annotated[
        Path, typer.Option(callback=nifti_name, help="…_dseg.nii.gz on the conformed grid.")
    ],
    native: Annotated[
        Path, typer.Option(callback=nifti_name, help="…_dseg.nii.gz on the scan's own grid.")
    ],
    protocol: ProtocolFile = QUICKNAT28,
    orientation: Orientation = "",
) -> None:
    """Turn a label map into the protocol's classes, on the conformed and on the native grid.

    Example: `quicknat convert-labels aseg.mgz --numbering freesurfer --scan T1w.nii.gz
    --output dseg.nii.gz --native native.nii.gz`
    """
    import numpy as np

    from quicknat.cohort.sheet import find_one
    from quicknat.files import written_whole
    from quicknat.scans.conform import conform_labels, load_conformed, record_grid
    from quicknat.scans.labels import Protocol
    from quicknat.scans.volumes import Grid, read_volume, require_same_grid, save_nifti

    path = find_one(labels)
    image, affine, record = load_conformed(scan)
    source, grid = read_volume(path, orientation), record_grid(record)
    require_same_grid(path, source, grid)
    cube = Grid(image.shape, affine)
    classes, conformed = conform_labels(source, numbering, Protocol.read(protocol), cube)
    with written_whole(output, native) as (temporary, temporary_native):
        save_nifti(temporary, conformed, cube)
        save_nifti(temporary_native, classes, grid)
    log.info("%s -> %s: %d classes", path, output, len(np.unique(conformed)))


@app.command("auto-label", rich_help_panel=STEPS)
def auto_label(
    scan: Annotated[Path, typer.Argument(help="Conformed scan without labels.")],
    output: Annotated[
        Path,
        typer.Option(callback=nifti_name, help="…_dseg.nii.gz to write, on the conformed grid."),
    ],
    method: Annotated[LabelMethod, typer.Option(help="Who makes the labels.")] = LabelMethod.atlas,
    atlas: Annotated[
        list[Path] | None, typer.Option(help="atlas: conformed labelled scan; repeatable.")
    ] = None,
    atlas_labels: Annotated[
        list[Path] | None, typer.Option(help="atlas: its label map, in the same order.")
    ] = None,
    seed: Annotated[int, typer.Option(help="atlas: seed of the registration's sampling.")] = 0,
    image: Annotated[
        Path | None, typer.Option(help="Other methods: the raw scan; may be a glob.")
    ] = None,
    orientation: Orientation = "",
    protocol: ProtocolFile = QUICKNAT28,
    subjects_dir: Annotated[
        Path, typer.Option(help="recon-all: its subjects, named as the scan; finished ones serve.")
    ] = Path("freesurfer"),
    license_file: Annotated[
        str, typer.Option("--license", help="FreeSurfer's license.txt, if not in its own places.")
    ] = "",
    gpus: Annotated[int, typer.Option(min=0, help="synthseg: 0 keeps it on the processor.")] = 0,
    threads: Threads = 1,
) -> None:
    """Label a scan by registered atlases, or with recon-all, SynthSeg or SAMSEG.

    Example: `quicknat auto-label T1w.nii.gz --atlas a_T1w.nii.gz --atlas-labels a_dseg.nii.gz
    --output dseg.nii.gz`
    """
    import numpy as np

    from quicknat.files import written_whole
    from quicknat.scans.conform import load_conformed
    from quicknat.scans.volumes import Grid, save_nifti

    if method is LabelMethod.atlas:
        from quicknat.autolabel.atlas import label_scan

        if not atlas or not atlas_labels or len(atlas) != len(atlas_labels):
            raise typer.BadParameter("give one --atlas-labels for each --atlas, at least one")
        pairs = list(zip(atlas, atlas_labels, strict=True))
        classes = label_scan(scan, pairs, seed, threads)
    else:
        from quicknat.autolabel import external as external
        from quicknat.scans.labels import Protocol

        if image is None:
            raise typer.BadParameter(f"method {method.value} needs --image")
        settings = external.Settings(subjects_dir.resolve(), license_file, threads, gpus > 0)
        table = Protocol.read(protocol)
        classes = external.label_scan(scan, image, orientation, table, method.value, settings)
    with written_whole(output) as (temporary,):
        save_nifti(temporary, classes, Grid(classes.shape, load_conformed(scan)[1]))
    log.info("%s: %d classes by %s", output, len(np.unique(classes)), method.value)


@app.command("slice", rich_help_panel=STEPS)
def slice_(
    scan: Annotated[Path, typer.Argument(help="Conformed scan.")],
    labels: Annotated[Path, typer.Argument(help="Its label map.")],
    folder: Annotated[Path, typer.Option(help="Stacks go to FOLDER/{view}/{name}.npy.")],
    name: Annotated[str, typer.Option(help="Name of the stacks, such as sub-01.")],
    protocol: ProtocolFile = QUICKNAT28,
    size: SliceSize = 256,
) -> None:
    """Cut a scan into training slices in the three views.

    Example: `quicknat slice T1w.nii.gz dseg.nii.gz --folder slices --name sub-01`
    """
    from quicknat.scans.conform import head_window, load_conformed
    from quicknat.scans.labels import Protocol
    from quicknat.scans.slices import write_stacks
    from quicknat.scans.volumes import as_bytes, read_volume

    check_name(name)
    table = Protocol.read(protocol)
    image, _, record = load_conformed(scan)
    classes = as_bytes(read_volume(labels), len(table.names) - 1)
    start = head_window(image, record["spacing_mm"], size)
    write_stacks(image, classes, start, size, table, folder, name)
