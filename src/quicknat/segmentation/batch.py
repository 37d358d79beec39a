"""Segment many scans with one model: find them, skip what is done, continue after a failure."""

from __future__ import annotations

import json
import logging
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

import quicknat
from quicknat.cohort.sheet import default_name
from quicknat.errors import InputError, explained, for_users, one_line
from quicknat.files import written_whole
from quicknat.images.conform import conform_file, load_conformed, record_grid, source_digest
from quicknat.images.slices import VIEWS
from quicknat.model.bundle import Bundle
from quicknat.progress import no_bar
from quicknat.segmentation.inference import segment
from quicknat.segmentation.outputs import (
    output_files,
    write_description,
    write_lookup_tables,
    write_segmentation,
)

log = logging.getLogger(__name__)

SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh", ".img")
BIDS_T1W = "sub-*/**/anat/sub-*_T1w.nii*"
TABLE = "scans.tsv"
MERGED = {"sagittal": "left and right merged: they have the index that stands first in the table"}


@dataclass(frozen=True)
class Task:
    """One scan to segment: its file, and the name that its results get."""

    path: Path
    name: str


@dataclass(frozen=True)
class Options:
    """How scans are segmented.

    ``conformed``: the files are outputs of the convert stage. ``orientation``: of the array axes,
    for headers that state none. ``samples``: of Monte-Carlo dropout, 0 for none. ``batch_size``:
    slices per forward pass. ``views``: write each view's own label map too.
    """

    conformed: bool = False
    orientation: str = ""
    samples: int = 0
    batch_size: int = 4
    views: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a scan: ``done``, ``skipped`` or ``failed``, and why."""

    name: str
    image: str
    status: str
    reason: str
    seconds: float


def find_scans(paths: Sequence[Path], name: str = "") -> list[Task]:
    """Return the scans of paths: files, all scans of a folder, the T1w scans of a BIDS data set.

    Args:
        paths: files and folders.
        name: for the results of a single file; else names come from the files'.

    Raises:
        InputError: a folder without scans, or two scans with one name.
    """
    files = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        if (path / "dataset_description.json").is_file():
            found, sought = sorted(path.glob(BIDS_T1W)), BIDS_T1W
        else:
            found = sorted(file for file in path.iterdir() if file.name.lower().endswith(SUFFIXES))
            sought = ", ".join(SUFFIXES)
        if not found:
            raise InputError(path, f"holds no scan ({sought})", "name the files themselves")
        files += found
    tasks: dict[str, Task] = {}
    for path in files:
        task = Task(path, name or default_name(path))
        if task.name in tasks:
            raise InputError(
                path, f"would get the name of {tasks[task.name].path}, {task.name}",
                "segment them one by one, each with a --name of its own",
            )  # fmt: skip
        tasks[task.name] = task
    return list(tasks.values())


def is_done(task: Task, bundle: Bundle, output: Path, options: Options) -> bool:
    """Return whether the results are there, of this file, model and version, made the same way."""
    files = output_files(output, task.name, options.views)
    if not all(path.is_file() for path in files.values()) or not task.path.is_file():
        return False
    try:
        made = json.loads(files["provenance"].read_text())
        conformed = load_conformed(task.path)[2] if options.conformed else None
    except (ValueError, InputError):
        return False
    scan = conformed["source_sha256"] if conformed else source_digest(task.path)
    wanted = scan, bundle.identity
    found = made.get("source", {}).get("sha256"), made.get("model", {}).get("sha256")
    # view maps may be there of an earlier model: then the last segmentation did not write them
    views = not options.views or "views" in made
    return views and found == wanted and made.get("how") == how(bundle, options)


def how(bundle: Bundle, options: Options) -> dict:
    """Return what else the labels depend on, for the provenance."""
    return {
        "quicknat": quicknat.__version__,
        "precision": str(bundle.networks["coronal"].bottleneck.convs[0].weight.dtype),
        "convolutions": "winograd" if bundle.winograd else "plain",
        "samples": options.samples,
        "orientation": options.orientation,
    }


def segment_file(
    bundle: Bundle, task: Task, output: Path, options: Options | None = None
) -> pd.DataFrame:
    """Segment one file and write its results under `output`.

    Args:
        bundle: the model.
        task: a T1w scan of any readable format, or a conformed scan with its sidecar.
        output: folder; see :func:`quicknat.segmentation.outputs.output_files`.
        options: how; by default as :class:`Options` says.

    Returns:
        The volume table.
    """
    options = options or Options()
    start = time.perf_counter()
    if options.conformed:
        image, affine, record = load_conformed(task.path)
        if (record["spacing_mm"], record["size"]) != (bundle.spacing_mm, bundle.conform_size):
            raise InputError(
                task.path, "was conformed to another grid than the model's", "convert it again"
            )
    else:
        image, grid, record = conform_file(
            task.path, options.orientation, bundle.spacing_mm, bundle.conform_size
        )
        affine = grid.affine
    read = round(time.perf_counter() - start, 2)
    native = record_grid(record)
    result = segment(
        bundle, image, affine, native, options.batch_size, options.samples, options.views
    )
    provenance = {
        "source": {"path": record["source"], "sha256": record["source_sha256"]},
        "model": {"protocol": bundle.protocol.name, "sha256": bundle.identity},
        "how": how(bundle, options),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": shlex.join(sys.argv),
        "device": str(next(bundle.networks["coronal"].parameters()).device),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {"read": read} | result.seconds,
    }
    if options.views:
        provenance["views"] = MERGED
    files = output_files(output, task.name, options.views)
    if not options.views:  # those of an earlier segmentation do not belong to this one
        for view in VIEWS:
            output_files(output, task.name, views=True)[view].unlink(missing_ok=True)
    return write_segmentation(result, bundle, record, provenance, files)


def segment_all(
    bundle: Bundle,
    tasks: Sequence[Task],
    output: Path,
    options: Options | None = None,
    overwrite: bool = False,
) -> list[Outcome]:
    """Segment one scan after the other; one that fails does not stop the rest.

    With several scans ``{output}/scans.tsv`` lists what became of each.
    """
    options = options or Options()
    write_description(output)
    write_lookup_tables(bundle.protocol, output / "labels")
    outcomes = []
    with logging_redirect_tqdm():
        for task in tqdm(tasks, unit="scan", disable=no_bar() if len(tasks) > 1 else True):
            start = time.perf_counter()
            status, reason = "done", ""
            if not overwrite and is_done(task, bundle, output, options):
                status, reason = "skipped", "done before with this model"
                log.info("%s: %s", task.name, reason)
            else:
                try:
                    volumes = segment_file(bundle, task, output, options)
                    log.info("%s: %s", task.name, summary(volumes, time.perf_counter() - start))
                except (InputError, OSError, MemoryError, RuntimeError) as error:
                    message = explained(error, task.path) or for_users(error)
                    status, reason = "failed", one_line(message)
                    log.error("error: %s", reason, exc_info="QUICKNAT_DEBUG" in os.environ)
            seconds = round(time.perf_counter() - start, 1)
            outcomes.append(Outcome(task.name, str(task.path), status, reason, seconds))
    if len(tasks) > 1:
        with written_whole(output / TABLE) as (temporary,):
            table = pd.DataFrame(map(asdict, outcomes))
            table.to_csv(temporary, sep="\t", index=False, na_rep="n/a")
    return outcomes


def summary(volumes: pd.DataFrame, seconds: float) -> str:
    """Return a line about a segmented scan."""
    structures = volumes[volumes["index"].notna()]
    found, brain = (structures["voxels"] > 0).sum(), volumes["volume_mm3"].iloc[-1] / 1000
    return f"{found} of {len(structures)} structures, brain {brain:.0f} ml, {seconds:.0f} s"
