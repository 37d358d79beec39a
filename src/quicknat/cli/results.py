"""Commands that apply a model and measure what it does."""

from __future__ import annotations

import json
import logging
import os
import warnings
from pathlib import Path
from typing import Annotated

import typer

from quicknat.cli.app import Orientation, ProtocolFile, Threads, app
from quicknat.errors import InputError

log = logging.getLogger(__name__)


@app.command()
def segment(
    images: Annotated[list[Path], typer.Argument(help="T1w scans: NIfTI, MGZ or Analyze.")],
    model: Annotated[Path, typer.Option(help="Model folder.")],
    output: Annotated[Path, typer.Option(help="Results go to OUTPUT/{name}/anat/.")],
    name: Annotated[str, typer.Option(help="Name of the result; default: the file's.")] = "",
    orientation: Orientation = "",
    conformed: Annotated[
        bool, typer.Option("--conformed", help="Inputs are outputs of 'quicknat convert'.")
    ] = False,
    threads: Threads = os.cpu_count() or 1,
) -> None:
    """Segment T1w scans; each result lies on its scan's own grid.

    Example: `quicknat segment T1w.nii.gz --model results/model --output out/`
    """
    import torch

    from quicknat.bundle import load_bundle
    from quicknat.errors import written_whole
    from quicknat.inference import dataset_description, segment_file

    if name and len(images) > 1:
        raise typer.BadParameter("--name is for a single image")
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load_bundle(model, device)
    log.info("model %s on %s, %d thread(s)", model, device, threads)
    names = [name or default_name(path) for path in images]
    if len(set(names)) < len(names):
        raise InputError(images[0], "two images would get the same name", "segment them apart")
    description = output / "dataset_description.json"
    if not description.exists():
        with written_whole(description) as (temporary,):
            temporary.write_text(json.dumps(dataset_description(), indent=2) + "\n")
    for path, one in zip(images, names, strict=True):
        volumes = segment_file(loaded, path, output, one, conformed, orientation)
        found = int((volumes["voxels"] > 0).sum())
        total = volumes["volume_mm3"].sum() / 1000
        log.info("%s: %d of %d structures, %.0f ml", one, found, len(volumes), total)


def default_name(path: Path) -> str:
    """``sub-…`` from a file name: its BIDS entities if it has them, else its letters and digits."""
    import re

    stem = re.sub(r"(\.nii)?(\.gz)?$|\.(mgz|mgh|img|hdr)$", "", path.name, flags=re.IGNORECASE)
    entities = re.match(r"(sub-[A-Za-z0-9]+(?:_ses-[A-Za-z0-9]+)?)", stem)
    return entities[1] if entities else "sub-" + re.sub(r"[^A-Za-z0-9]", "", stem)


@app.command()
def evaluate(
    prediction: Annotated[Path, typer.Argument(help="…_dseg.nii.gz of 'segment'.")],
    reference: Annotated[Path, typer.Argument(help="Reference classes on the same grid.")],
    protocol: ProtocolFile,
    name: Annotated[str, typer.Option(help="Subject, sub-X.")],
    output: Annotated[Path, typer.Option(help="Table to write.")],
    threads: Threads = 1,
) -> None:
    """Compare a segmentation with a reference: Dice, IoU, HD95, volumes.

    Example: `quicknat evaluate a_dseg.nii.gz b_dseg.nii.gz --name sub-01 --output sub-01.tsv
    --protocol workflow/labels/quicknat28.tsv`
    """
    import numpy as np
    import torch

    from quicknat.errors import written_whole
    from quicknat.labels import Protocol
    from quicknat.metrics import evaluate as compare
    from quicknat.volumes import read_volume

    # MONAI 1.6 warns at every call of a deprecated argument that it passes itself
    warnings.filterwarnings("ignore", category=FutureWarning, module="monai")
    torch.set_num_threads(threads)
    ours, theirs = read_volume(prediction), read_volume(reference)
    if not np.allclose(ours.affine, theirs.affine, atol=0.01):
        raise InputError(prediction, f"lies elsewhere in space than {reference}")
    table = compare(ours.data, theirs.data, ours.affine, Protocol.read(protocol), name)
    with written_whole(output) as (temporary,):
        table.to_csv(temporary, sep="\t", index=False, float_format="%.6g")


@app.command()
def gather(
    tables: Annotated[Path, typer.Argument(help="File that lists the tables, one a line.")],
    output: Annotated[Path, typer.Option(help="Table to write.")],
    subject_from_name: Annotated[
        bool, typer.Option(help="Add a first column with the sub-… of each file's name.")
    ] = False,
) -> None:
    """Stack per-subject tables into one.

    Example: `quicknat gather list.txt --output results/metrics.tsv`
    """
    import pandas as pd

    from quicknat.errors import written_whole

    parts = []
    for path in map(Path, filter(None, tables.read_text().split("\n"))):
        part = pd.read_csv(path, sep="\t")
        if subject_from_name:
            part.insert(0, "subject", default_name(path))
        parts.append(part)
    if not parts:
        raise InputError(tables, "lists no table")
    with written_whole(output) as (temporary,):
        pd.concat(parts).to_csv(temporary, sep="\t", index=False, na_rep="n/a")
