"""The command of the stage demo: deformed copies of the demo cohort's heads."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from quicknat.cli.app import STEPS, Threads, app

log = logging.getLogger(__name__)


@app.command("demo-scan", rich_help_panel=STEPS)
def demo_scan(
    head: Annotated[str, typer.Argument(help="Demo head to deform, CSI1 or CSI2.")],
    image: Annotated[Path, typer.Argument(help="Its T1w scan.")],
    output: Annotated[Path, typer.Option(help=".img for an OASIS-style pair, else .nii.gz.")],
    seed: Annotated[int, typer.Option(help="Number of the copy.")],
    labels: Annotated[Path | None, typer.Option(help="Write the label map too.")] = None,
    threads: Threads = 1,
) -> None:
    """Make one scan of the embedded demo cohort: a seeded deformation of a real head.

    Example: `quicknat demo-scan CSI1 CSI1_T1w.nii.gz --seed 3 --output copy.nii.gz`
    """
    import SimpleITK as sitk
    import torch

    from quicknat.download.demo import make_scan

    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    make_scan(head, image, output, seed, labels or "")
    log.info("wrote %s", output)
