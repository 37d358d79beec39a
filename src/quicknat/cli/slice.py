"""Training data: `slice`, `slice-tissues`, `slice-png`, `synthesize`, `warp`."""

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
    Threads,
    View,
    app,
    check_name,
    nifti_name,
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


@app.command()
def synthesize(
    labels: Annotated[list[Path], typer.Argument(help="Label maps.")],
    output: Annotated[Path, typer.Option(help="PNG to write.")],
    protocol: ProtocolFile = QUICKNAT28,
    label_convention: Convention = "freesurfer",
    view: Annotated[View, typer.Option(help="Plane of the slices.")] = "coronal",
    samples: Annotated[int, typer.Option(min=1, help="Images to synthesize.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    spacing: Spacing = 1.0,
    size: Size = 256,
    slice_size: SliceSize = 192,
    orientation: Orientation = "",
) -> None:
    """Draw images synthesized from label maps, as a network sees them, beside their classes.

    Example: `quicknat synthesize maps/*.nii.gz --output samples.png`
    """
    import matplotlib.image

    from quicknat.files import written_whole
    from quicknat.images.conform import head_window
    from quicknat.images.labels import Protocol
    from quicknat.images.slices import crop, view_stack
    from quicknat.images.volumes import read_volume
    from quicknat.report.figures import contact_sheet
    from quicknat.synthesis.tissues import conformed_tissues

    table, stacks = Protocol.read(protocol), []
    for path in labels[:samples]:
        volume = read_volume(path, orientation)
        tissues, classes, head = conformed_tissues(volume, label_convention, table, spacing, size)
        start = head_window(head, spacing, slice_size)
        tissues, classes = (crop(data, start, slice_size) for data in (tissues, classes))
        stacks.append(view_stack(tissues, classes, view, table)[0])
        if not len(stacks[-1]):
            problem = f"no {view} slice has enough labelled pixels"
            raise InputError(path, problem, "give a label map of a whole brain")
    with written_whole(output) as (temporary,):
        matplotlib.image.imsave(temporary, contact_sheet(stacks, table, view, samples, seed))
    log.info("%s: %d images synthesized from %d label map(s)", output, samples, len(stacks))


@app.command()
def warp(
    image: Annotated[Path, typer.Argument(help="T1w scan with labels.")],
    labels: Annotated[Path, typer.Option(help="Its label map.")],
    like: Annotated[Path, typer.Option(help="Label map of the target brain.")],
    output: Annotated[Path, typer.Option(callback=nifti_name, help="…_T1w.nii.gz to write.")],
    labels_output: Annotated[
        Path, typer.Option(callback=nifti_name, help="…_dseg.nii.gz to write.")
    ],
    protocol: ProtocolFile = QUICKNAT28,
    label_convention: Convention = "freesurfer",
    like_label_convention: Annotated[
        str, typer.Option(help="Convention of --like.")
    ] = "freesurfer",
    spacing: Spacing = 1.0,
    orientation: Orientation = "",
    threads: Threads = 1,
    overwrite: Overwrite = False,
) -> None:
    """Warp a labelled scan to the shape of another brain, to train on shapes that a cohort lacks.

    For example, the wide ventricles of older brains, of which only label maps are needed. Give the
    warped copy its own row in the sheet, with the scan's participant, and with the protocol given
    here as its label convention.

    Example: `quicknat warp young_T1w.nii.gz --labels young_aseg.mgz --like old_aseg.mgz
    --output copy_T1w.nii.gz --labels-output copy_dseg.nii.gz`
    """
    from quicknat.files import require_absent, written_whole
    from quicknat.images.labels import Protocol
    from quicknat.images.volumes import Volume, on_grid, read_scan, read_volume, save_nifti
    from quicknat.synthesis import warping

    if not overwrite:
        require_absent((output, labels_output))
    table = Protocol.read(protocol)

    def classes(path: Path, given: str, orientation: str = "") -> Volume:
        volume = read_volume(path, orientation)
        return Volume(table.remap(volume.data, given, path), volume.affine, path)

    scan = read_scan(image, orientation)
    own = on_grid(classes(labels, label_convention, orientation), scan)
    other = classes(like, like_label_convention)
    data, found, grid = warping.warp(scan, own, other, spacing, threads)
    with written_whole(output, labels_output) as (temporary, temporary_labels):
        save_nifti(temporary, data, grid)
        save_nifti(temporary_labels, found, grid)
    log.info("%s: %s warped to %s", output, image, like)
