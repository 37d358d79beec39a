"""The command of the stage evaluate: compare a segmentation with a reference."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Annotated

import typer

from quicknat.cli.app import QUICKNAT28, STEPS, Overwrite, ProtocolFile, Threads, app

log = logging.getLogger(__name__)


ViewMap = Annotated[
    Path | None, typer.Option(help="This view's …_dseg.nii.gz from 'segment --views'.")
]


@app.command(rich_help_panel=STEPS)
def evaluate(
    prediction: Annotated[Path, typer.Argument(help="…_desc-quicknat_dseg.nii.gz of 'segment'.")],
    reference: Annotated[Path, typer.Argument(help="Reference label map on the same grid.")],
    name: Annotated[str, typer.Option(help="Subject, sub-X.")],
    output: Annotated[
        Path, typer.Option(help="Table to write; …_views.tsv and …_confusion.tsv go beside it.")
    ],
    protocol: ProtocolFile = QUICKNAT28,
    label_convention: Annotated[
        str,
        typer.Option(
            help="Numbers in the reference: freesurfer or neuromorphometrics; default: those of "
            "the label table. The prediction's sidecar states its own."
        ),
    ] = "",
    coronal: ViewMap = None,
    axial: ViewMap = None,
    sagittal: ViewMap = None,
    threads: Threads = 1,
    overwrite: Overwrite = False,
) -> None:
    """Compare a segmentation with a reference: Dice, IoU, HD95, volumes, confusion matrix.

    Example: `quicknat evaluate a_dseg.nii.gz b_dseg.nii.gz --name sub-01 --output sub-01.tsv`; for
    `aseg.mgz` as the reference: `--label-convention freesurfer`
    """
    import numpy as np
    import torch

    from quicknat.evaluation.metrics import confusion_table, count_pairs, view_table
    from quicknat.evaluation.metrics import evaluate as compare
    from quicknat.files import require_absent, written_whole
    from quicknat.images.labels import Protocol
    from quicknat.images.volumes import Volume, as_bytes, read_volume, require_same_grid
    from quicknat.segmentation.outputs import stated_convention

    if not overwrite:
        require_absent([output])
    # MONAI 1.6 warns at every call of a deprecated argument that it passes itself
    warnings.filterwarnings("ignore", category=FutureWarning, module="monai")
    torch.set_num_threads(threads)
    table, ours, theirs = Protocol.read(protocol), read_volume(prediction), read_volume(reference)
    given = {"coronal": coronal, "axial": axial, "sagittal": sagittal}
    views = {view: read_volume(path) for view, path in given.items() if path}
    for volume in (theirs, *views.values()):
        require_same_grid(volume.path, volume, ours)
    last = len(table.names) - 1
    numbered = stated_convention(prediction) == "freesurfer"

    def classes(volume: Volume) -> np.ndarray:
        if numbered and volume.data.any():
            return table.remap(volume.data, "freesurfer", volume.path)
        return as_bytes(volume, last)

    found, maps = classes(ours), {view: classes(volume) for view, volume in views.items()}
    if label_convention:
        truth = table.remap(theirs.data, label_convention, reference)
    else:
        truth = as_bytes(theirs, last)
    pairs = count_pairs(found, truth, len(table.names), name)
    tables = {
        "": compare(found, truth, ours.affine, table, name),
        "_views": view_table(pairs, maps, truth, table, name),
        "_confusion": confusion_table(pairs, table, name),
    }
    files = [output.with_stem(output.stem + end) for end in tables]
    with written_whole(*files) as temporaries:
        for temporary, scores in zip(temporaries, tables.values(), strict=True):
            scores.to_csv(temporary, sep="\t", index=False, float_format="%.6g")
