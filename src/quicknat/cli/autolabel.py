"""The command `auto-label`, for scans that have no labels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from quicknat.cli.app import (
    QUICKNAT28,
    STEPS,
    Overwrite,
    ProtocolFile,
    Threads,
    app,
    nifti_name,
)

log = logging.getLogger(__name__)


Method = Literal["atlas", "recon-all", "synthseg", "samseg"]


@app.command("auto-label", rich_help_panel=STEPS)
def auto_label(
    scan: Annotated[Path, typer.Argument(help="Conformed scan; its sidecar names the original.")],
    output: Annotated[
        Path,
        typer.Option(callback=nifti_name, help="…_dseg.nii.gz to write, on the conformed grid."),
    ],
    method: Annotated[Method, typer.Option(help="Labelling method.")] = "atlas",
    atlas: Annotated[
        list[Path] | None, typer.Option(help="atlas: labelled, conformed scan; repeatable.")
    ] = None,
    atlas_labels: Annotated[
        list[Path] | None, typer.Option(help="atlas: label map of each --atlas, in order.")
    ] = None,
    seed: Annotated[int, typer.Option(help="atlas: random seed of the registration.")] = 0,
    protocol: ProtocolFile = QUICKNAT28,
    subjects_dir: Annotated[
        Path, typer.Option(help="recon-all: its SUBJECTS_DIR; finished subjects are reused.")
    ] = Path("freesurfer"),
    license_file: Annotated[
        str, typer.Option("--license", help="FreeSurfer's license.txt; default: FreeSurfer's own.")
    ] = "",
    gpus: Annotated[int, typer.Option(min=0, help="synthseg: GPUs to use; 0: CPU.")] = 0,
    threads: Threads = 1,
    overwrite: Overwrite = False,
) -> None:
    """Label a scan by multi-atlas registration, recon-all, SynthSeg or SAMSEG.

    Example: `quicknat auto-label T1w.nii.gz --atlas a_T1w.nii.gz --atlas-labels a_dseg.nii.gz
    --output dseg.nii.gz`
    """
    import numpy as np

    from quicknat.files import require_absent, written_whole
    from quicknat.images.conform import load_conformed
    from quicknat.images.volumes import save_nifti

    if not overwrite:
        require_absent([output])
    if method == "atlas":
        from quicknat.autolabel.atlas import label_scan

        if not atlas or not atlas_labels or len(atlas) != len(atlas_labels):
            raise typer.BadParameter("give at least one --atlas, each with its --atlas-labels")
        pairs = list(zip(atlas, atlas_labels, strict=True))
        classes = label_scan(scan, pairs, seed, threads)
    else:
        from quicknat.autolabel import external
        from quicknat.images.labels import Protocol

        settings = external.Settings(subjects_dir.resolve(), license_file, threads, gpus > 0)
        table = Protocol.read(protocol)
        classes = external.label_scan(scan, table, method, settings)
    with written_whole(output) as (temporary,):
        save_nifti(temporary, classes, load_conformed(scan)[1])
    log.info("%s: %d classes by %s", output, len(np.unique(classes)), method)
