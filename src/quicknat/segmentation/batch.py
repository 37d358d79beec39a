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
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

import quicknat
from quicknat.errors import InputError, explained, for_users, one_line
from quicknat.files import require_same_source
from quicknat.images.conform import conform_file, load_conformed, record_grid, source_digest
from quicknat.model.bundle import Bundle
from quicknat.model.views import Progress
from quicknat.progress import no_bar
from quicknat.reruns import SEGMENTATION_FORMAT
from quicknat.segmentation.inference import Segmentation, device_of, segment, warm_up
from quicknat.segmentation.outputs import (
    output_files,
    write_description,
    write_lookup_tables,
    write_segmentation,
)
from quicknat.segmentation.tasks import FAILED, Options, Outcome, Task, write_outcomes
from quicknat.segmentation.volumes import find_volume_tables, write_volume_tables

log = logging.getLogger(__name__)

BAR = "{desc} {percentage:3.0f}%|{bar}| {n:.1f} of {total} scans [{elapsed}<{remaining}]"
# how versions segmented that did not record it
EARLIER = {"convolutions": "plain", "label_convention": "", "format": 1}
WORKERS = 4  # beside a GPU: one waits for it, the others read and write
DONE_BEFORE = "done before with this model"
MERGED = {"sagittal": "left and right are merged, under the index that comes first in the table"}


def is_done(task: Task, bundle: Bundle, output: Path, options: Options) -> bool:
    """Return whether results of this file, model and version exist, made in the same way.

    ``options.orientation`` is that of this scan, see :meth:`Options.of`.
    """
    files = output_files(output, task.name, options)
    if not all(path.is_file() for path in files.values()) or not task.path.is_file():
        return False
    try:
        made, quality = (json.loads(files[key].read_bytes()) for key in ("provenance", "qc"))
        found = made["source"]["sha256"], made["model"]["sha256"]
        wanted = _source(task, options)[1], bundle.identity
        whole = "flags" in quality
    except (OSError, ValueError, RecursionError, KeyError, TypeError, InputError):
        return False  # damaged, or another program's
    # view maps may be there of an earlier model: then the last segmentation did not write them
    views = not options.views or "views" in made
    before, now = EARLIER | made.get("how", {}), how(bundle, options)
    if options.any_precision:
        now |= {key: before.get(key) for key in ("precision", "convolutions")}
    return whole and views and found == wanted and before == now


def require_unused(task: Task, output: Path, options: Options) -> None:
    """Raise an :class:`InputError` if results of another scan have the name of this one."""
    record = output_files(output, task.name, options)["provenance"]
    if record.exists() and task.path.is_file():
        require_same_source(record, *_source(task, options))


def _source(task: Task, options: Options) -> tuple[str, str]:
    """Return path and SHA-256 of the scan; of the original one if it is conformed."""
    if not options.conformed:
        return str(task.path), source_digest(task.path)
    record = load_conformed(task.path)[2]
    return record["source"], record["source_sha256"]


def how(bundle: Bundle, options: Options) -> dict:
    """Return what else labels and uncertainty depend on, for the provenance."""
    return {
        "quicknat": quicknat.__version__,
        "precision": str(bundle.networks["coronal"].bottleneck.convs[0].weight.dtype),
        "convolutions": "winograd" if bundle.winograd else "plain",
        "samples": options.samples,
        "orientation": options.orientation,
        "label_convention": options.label_convention,
        "format": SEGMENTATION_FORMAT,
    }


@dataclass(frozen=True)
class Scan:
    """A conformed scan: uint8 image, voxel-to-world, record; and the seconds that it took."""

    image: np.ndarray
    affine: np.ndarray
    record: dict
    seconds: float


def read_scan(bundle: Bundle, task: Task, options: Options) -> Scan:
    """Read and conform a T1w scan of any readable format, or read a conformed one.

    Raises:
        InputError: it cannot be used, or was conformed for another model.
    """
    start = time.perf_counter()
    if options.conformed:
        image, grid, record = load_conformed(task.path)
        if (record["spacing_mm"], record["size"]) != (bundle.spacing_mm, bundle.conform_size):
            raise InputError(
                task.path, "was conformed to another grid than the model's", "convert it again"
            )
    else:
        image, grid, record = conform_file(
            task.path, options.orientation, bundle.spacing_mm, bundle.conform_size
        )
    return Scan(image, grid.affine, record, round(time.perf_counter() - start, 2))


def segment_scan(
    bundle: Bundle, scan: Scan, options: Options, progress: Progress | None = None
) -> Segmentation:
    """Segment a conformed scan, see :func:`quicknat.segmentation.inference.segment`."""
    ways = options.batch_size, options.samples, options.views
    return segment(bundle, scan.image, scan.affine, record_grid(scan.record), *ways, progress)


def write_scan(
    bundle: Bundle, task: Task, scan: Scan, result: Segmentation, output: Path, options: Options
) -> str:
    """Write the results of a scan under `output`, and return a line about them."""
    provenance = {
        "source": {"path": scan.record["source"], "sha256": scan.record["source_sha256"]},
        "model": {
            "name": bundle.card.name if bundle.card else "",
            "licence": bundle.card.licence if bundle.card else "",
            "protocol": bundle.protocol.name,
            "sha256": bundle.identity,
        },
        "how": how(bundle, options),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": shlex.join(sys.argv),
        "device": str(device_of(bundle)),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {"read": scan.seconds} | result.seconds,
    }
    if options.views:
        provenance["views"] = MERGED
    volumes, sums, flags = write_segmentation(
        result, bundle, task.name, scan.record, provenance, output, options
    )
    found = int((volumes["voxels"] > 0).sum())
    brain = f", brain {sums['brain'] / 1000:.0f} ml" if "brain" in sums else ""
    if flags:
        log.warning("%s: quality flags: %s", task.name, ", ".join(flags))
    return f"{found} of {len(volumes)} structures{brain}"


def segment_file(bundle: Bundle, task: Task, output: Path, options: Options | None = None) -> str:
    """Segment one scan, write its results under `output`, and return a line about them."""
    options = (options or Options()).of(task)
    scan = read_scan(bundle, task, options)
    result = segment_scan(bundle, scan, options)
    return write_scan(bundle, task, scan, result, output, options)


def segment_all(
    bundle: Bundle,
    tasks: Sequence[Task],
    output: Path,
    options: Options | None = None,
    overwrite: bool = False,
    tables: Path | None = None,
    sources: Sequence[Path] = (),
) -> list[Outcome]:
    """Segment scans; one that fails does not stop the rest.

    While a GPU segments a scan, others are read and written. On a CPU, where neither time nor
    memory is left for that, scans come one after the other.

    Args:
        bundle, tasks, output, options: as of :func:`segment_file`.
        overwrite: segment again what is done, replace results of other scans.
        tables: folder of ``scans.tsv``, the outcome for each scan, and of the tables of volumes of
            these scans; None: they go to `output`, with the volumes of all scans there.
        sources: BIDS data sets that the scans are from.
    """
    chosen = options or Options()
    convention = chosen.label_convention
    write_lookup_tables(bundle.protocol, output / "labels", convention)  # refuses a wrong one
    write_description(output, sources)
    total, in_turn = len(tasks), device_of(bundle).type == "cpu"
    ended: dict[str, Outcome] = {}

    def attempt(task: Task) -> Outcome:
        nonlocal total
        own, status, reason = chosen.of(task), "done", ""
        start, shown = time.perf_counter(), 0.0

        def show(stage: str) -> None:
            if in_turn or stage == "segmenting":
                bar.set_description(f"{task.name}: {stage}")

        def progress(done: int, count: int) -> None:
            nonlocal shown
            bar.update(done / count - shown)
            shown = done / count

        try:
            if not overwrite and is_done(task, bundle, output, own):
                total -= 1  # which took no time, and says nothing about the time left
                bar.total = total
                log.info("%s: %s", task.name, DONE_BEFORE)
                seconds = round(time.perf_counter() - start, 1)
                return Outcome(task.name, str(task.path), "skipped", DONE_BEFORE, seconds)
            # in a chunk, Snakemake knows the scan by its row of the sheet
            if not overwrite and not (tables and own.folder_per_scan):
                require_unused(task, output, own)
            show("reading")
            scan = read_scan(bundle, task, own)
            ready = time.perf_counter()

            def compute() -> Segmentation:
                nonlocal start
                start += time.perf_counter() - ready  # until the GPU was free
                show("segmenting")
                return segment_scan(bundle, scan, own, progress)

            result = gpu.submit(compute).result() if gpu else compute()
            show("writing")
            line = write_scan(bundle, task, scan, result, output, own)
        except Exception as error:  # whatever it is, the other scans go on
            status, reason = FAILED, failure(task, error)
        seconds = time.perf_counter() - start
        if status == "done":
            log.info("%s: %s, %.0f s", task.name, line, seconds)
        bar.update(1 - shown)
        return Outcome(task.name, str(task.path), status, reason, round(seconds, 1))

    def keep(task: Task) -> None:
        ended[task.name] = attempt(task)

    def write_tables() -> None:
        outcomes = [ended[task.name] for task in tasks if task.name in ended]
        files = {name: output_files(output, name, chosen) for name in ended}
        write_outcomes(outcomes, files, tables or output, keep_others=not tables)
        done = [files[outcome.name]["volumes"] for outcome in outcomes if outcome.status != FAILED]
        write_volume_tables(done if tables else find_volume_tables(output), tables or output)

    try:
        with (
            logging_redirect_tqdm(),
            tqdm(total=total, leave=False, smoothing=0, bar_format=BAR, disable=no_bar()) as bar,
            # one thread, since what cuDNN and cuBLAS prepare belongs to a thread
            nullcontext() if in_turn else ThreadPoolExecutor(1) as gpu,
            nullcontext() if in_turn else ThreadPoolExecutor(WORKERS) as pool,
        ):
            if gpu:
                gpu.submit(warm_up, bundle, chosen.batch_size)
            for _ in pool.map(keep, tasks) if pool else map(keep, tasks):
                pass
    except BaseException:
        log.warning("stopped: %d of %d scans ended; the same command (without --overwrite) resumes",
                    len(ended), len(tasks))  # fmt: skip
        if not tables and not chosen.folder_per_scan:  # of what ended before Ctrl-C
            try:
                write_tables()
            except Exception as error:
                log.warning("no tables: %s", for_users(error))
        raise
    if tables or not chosen.folder_per_scan:  # else a rule gathers them
        write_tables()
    return [ended[task.name] for task in tasks]


def failure(task: Task, error: Exception) -> str:
    """Log why a scan failed, and return it as one line."""
    reason = one_line(explained(error, task.path) or for_users(error))
    usual = isinstance(error, InputError | OSError | MemoryError | RuntimeError)
    traced = not usual or "QUICKNAT_DEBUG" in os.environ
    log.error("error: %s", reason, exc_info=error if traced else None)
    return reason
