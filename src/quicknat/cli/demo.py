"""The command `demo`: make deformed copies of the demo cohort's heads."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from quicknat.cli.app import STEPS, Threads, app

log = logging.getLogger(__name__)


@app.command(rich_help_panel=STEPS)
def demo(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Copies to make, as paths in FOLDER: …CSI1x03….nii.gz is the third copy of CSI1; "
            ".img makes an OASIS-1 style pair with its label map."
        ),
    ],
    heads: Annotated[Path, typer.Option(help="Folder of the original T1w scans.")],
    folder: Annotated[Path, typer.Option(help="Folder to write to.")],
    manifest: Annotated[Path, typer.Option(help="List of written files, to write.")],
    threads: Threads = 1,
) -> None:
    """Make the scans of the demo cohort: seeded deformations of two real heads.

    Example: `quicknat demo CSI1x11-Demo-T1.nii.gz --heads heads --folder demo --manifest list.txt`
    """
    import SimpleITK as sitk
    import torch

    from quicknat.download.demo import make_copy
    from quicknat.files import written_whole

    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    written = []
    for number, image in enumerate(images, start=1):
        written += make_copy(image, heads, folder)
        log.info("%d of %d: %s", number, len(images), folder / image)
    with written_whole(manifest) as (temporary,):
        temporary.write_text("\n".join(sorted(written)) + "\n", "utf-8")
