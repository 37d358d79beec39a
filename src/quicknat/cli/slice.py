"""The commands `slice`, `slice-tissues` and `slice-png`: stacks of 2-D training slices."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from quicknat.cli.app import (
    QUICKNAT28,
    STEPS,
    Convention,
    Orientation,
    Overwrite,
    ProtocolFile,
    Size,
    SliceSize,
    Spacing,
    app,
    check_name,
)
from quicknat.errors import InputError

log = logging.getLogger(__name__)


@app.command("slice", rich_help_panel=STEPS)
def slice_(
    scan: Annotated[Path, typer.Argument(help="Conformed scan.")],
    labels: Annotated[Path, typer.Argument(help="Its label map.")],
    folder: Annotated[Path, typer.Option(help="Stacks go to FOLDER/{view}/{name}.npy.")],
    name: Annotated[str, typer.Option(help="Name of the stacks, e.g. sub-01.")],
    protocol: ProtocolFile = QUICKNAT28,
    size: SliceSize = 256,
    overwrite: Overwrite = False,
) -> None:
    """Cut a labelled scan into training slices in the three views.

    Example: `quicknat slice T1w.nii.gz dseg.nii.gz --folder slices --name sub-01`
    """
    from quicknat.files import require_absent
    from quicknat.images.conform import head_window, load_conformed
    from quicknat.images.labels import Protocol
    from quicknat.images.slices import write_stacks
    from quicknat.images.volumes import as_bytes, read_volume

    check_name(name)
    if not overwrite:
        require_absent([folder / f"{name}.json"])
    table = Protocol.read(protocol)
    image, _, record = load_conformed(scan)
    classes = as_bytes(read_volume(labels), len(table.names) - 1)
    start = head_window(image, record["spacing_mm"], size)
    write_stacks(image, classes, start, size, table, folder, name)


@app.command("slice-tissues", rich_help_panel=STEPS)
def slice_tissues(
    labels: Annotated[Path, typer.Argument(help="Label map; may be a glob.")],
    folder: Annotated[Path, typer.Option(help="Stacks go to FOLDER/{view}/{name}.npy.")],
    name: Annotated[str, typer.Option(help="Name of the stacks, e.g. sub-01_tissues.")],
    protocol: ProtocolFile = QUICKNAT28,
    label_convention: Convention = "freesurfer",
    scan: Annotated[
        Path | None, typer.Option(help="The conformed scan of this label map, if any.")
    ] = None,
    spacing: Spacing = 1.0,
    size: Size = 256,
    slice_size: SliceSize = 256,
    orientation: Orientation = "",
    overwrite: Overwrite = False,
) -> None:
    """Cut a label map into tissue slices, from which training synthesizes images.

    With `--scan`, bright voxels outside the labelled brain become tissues too.

    Example: `quicknat slice-tissues aseg.mgz --folder slices --name sub-01_tissues`
    """
    from quicknat.cohort.paths import find_one
    from quicknat.files import require_absent
    from quicknat.images.conform import head_window, load_conformed, record_grid
    from quicknat.images.labels import Protocol
    from quicknat.images.slices import write_stacks
    from quicknat.images.volumes import on_grid, read_volume
    from quicknat.synthesis.tissues import conformed_tissues

    if not overwrite:
        require_absent([folder / f"{name}.json"])
    path, table = find_one(labels), Protocol.read(protocol)
    volume = read_volume(path, orientation)
    if scan:
        record = load_conformed(scan)[2]
        volume = on_grid(volume, record_grid(record))
        spacing = record["spacing_mm"]
    tissues, classes, head = conformed_tissues(volume, label_convention, table, spacing, size, scan)
    start = head_window(head, spacing, slice_size)
    write_stacks(tissues, classes, start, slice_size, table, folder, name)


@app.command("slice-png")
def slice_png(
    stack: Annotated[Path, typer.Argument(help="Training stack, …/{view}/{scan}.npy.")],
    output: Annotated[Path, typer.Option(help="Folder for the PNG files.")],
    protocol: ProtocolFile = QUICKNAT28,
    stride: Annotated[int, typer.Option(min=1, help="Draw every n-th slice.")] = 10,
    overwrite: Overwrite = False,
) -> None:
    """Draw training slices beside their classes, as PNG files.

    Example: `quicknat slice-png results/slices/coronal/sub-01.npy --output slices`
    """
    import matplotlib.image

    from quicknat.files import require_absent
    from quicknat.images.labels import Protocol
    from quicknat.images.slices import VIEWS, open_stack
    from quicknat.report.figures import slice_picture

    view, table, pairs = stack.parent.name, Protocol.read(protocol), open_stack(stack)
    if view not in VIEWS:
        raise InputError(
            stack, f"is not in a folder named {', '.join(VIEWS)}", "give a stack that 'slice' wrote"
        )
    colors = table.view_colors(view)
    files = {
        number: output / f"{stack.stem}_{view}_{number:03d}.png"
        for number in range(0, len(pairs), stride)
    }
    if not overwrite:
        require_absent(files.values())
    output.mkdir(parents=True, exist_ok=True)
    for number, path in files.items():
        matplotlib.image.imsave(path, slice_picture(pairs[number], colors))
    log.info("%s: %d PNG files", output, len(files))
