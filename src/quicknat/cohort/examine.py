"""Examine images and label maps in parallel, and cache the findings.

Valid files are not read again unless they change, so a second check of a thousand scans takes
seconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from tqdm import tqdm

import quicknat
from quicknat.cohort.paths import with_header
from quicknat.errors import InputError, one_line
from quicknat.files import sha256, written_whole
from quicknat.images.intensities import (
    DENOISE,
    NOISY_BACKGROUND,
    has_noisy_background,
    looks_like_labels,
)
from quicknat.images.labels import Protocol, freesurfer_structures, side
from quicknat.images.placement import forms_apart_mm
from quicknat.images.volumes import Volume, read_scan, read_volume
from quicknat.progress import no_bar

CHECKS = 4  # version of what is checked: an earlier verdict may have missed something
THICK_MM = 2.5  # the networks are trained on scans with thinner slices
HEAD_MM = (100, 500)  # a field of view outside these limits holds no head, or has wrong units


@dataclass(frozen=True)
class Finding:
    """What was found in a file, as plain values that JSON can hold.

    ``problem`` is why it cannot be used ("" if it can); ``shape`` and ``affine`` describe its grid;
    ``content`` is a hash of an image's voxels, equal for files with equal voxels.
    """

    problem: str = ""
    warnings: list[str] = field(default_factory=list)
    shape: list[int] = field(default_factory=list)
    affine: list[list[float]] = field(default_factory=list)
    content: str = ""


def explain(error: Exception, path: str | Path) -> str:
    """Return the error in one line, without the name of the file that the line is about."""
    return one_line(error).removeprefix(f"{path}: ")


def _content(volume: Volume) -> str:
    """Return the SHA-256 of the voxels in RAS+ order.

    It does not depend on compression, file format, axis order or the affine's origin.
    """
    ornt = nib.io_orientation(volume.affine)
    data = np.ascontiguousarray(nib.apply_orientation(volume.data, ornt), dtype=np.float32)
    return hashlib.sha256(f"{data.shape}".encode() + data.data).hexdigest()


def _oddities(volume: Volume) -> list[str]:
    """Return warnings about a usable scan."""
    sizes = voxel_sizes(volume.affine)
    extent, found = sizes * volume.shape, []
    if sizes.max() > THICK_MM:
        voxel = " × ".join(f"{size:.3g}" for size in sizes)
        found.append(f"voxels of {voxel} mm are thicker than {THICK_MM} mm")
    if extent.min() < HEAD_MM[0] or extent.max() > HEAD_MM[1]:
        found.append(f"the field of view is {' × '.join(f'{mm:.0f}' for mm in extent)} mm")
    if looks_like_labels(volume.data):
        found.append("looks like a label map, which belongs in the column 'labels'")
    apart = forms_apart_mm(volume.shape, volume.transforms)
    if apart >= sizes.min() / 2:
        found.append(f"sform and qform put voxels up to {apart:.1f} mm apart; sform is used")
    if volume.filled:
        values = ", ".join(f"{value:g}" for value in volume.filled)
        found.append(f"padded with {values} around the field of view, which is treated as air")
    if has_noisy_background(volume.data):
        found.append(f"{NOISY_BACKGROUND}; {DENOISE}")
    return found


def examine_image(path: Path, orientation: str) -> Finding:
    """Read a T1w scan and check it; `orientation` is of its axes if the header has none (LAS)."""
    try:
        volume = read_scan(path, orientation)
    except (InputError, OSError) as error:
        return Finding(explain(error, path))
    low = volume.data.min()
    if low == volume.data.max():
        return Finding(f"every voxel is {low:g}; this is not a head scan")
    return Finding(
        warnings=_oddities(volume),
        shape=list(volume.shape),
        affine=volume.affine.tolist(),
        content=_content(volume),
    )


def sides_swapped(classes: np.ndarray, affine: np.ndarray, protocol: Protocol) -> bool:
    """Return whether most left structures lie to the right of their right-hand partners.

    `classes` are indices of the protocol, (X, Y, Z); `affine` leads from voxels to RAS+ mm.
    """
    voxels = np.nonzero(classes)
    here, total = classes[voxels], len(protocol.names)
    x = sum(affine[0, axis] * index for axis, index in enumerate(voxels))
    counts = np.bincount(here, minlength=total)
    middle = np.bincount(here, weights=x, minlength=total) / np.maximum(counts, 1)
    numbers = freesurfer_structures(protocol)["freesurfer_id"].fillna(-1).astype(int)
    is_left = [side(*pair) < 0 for pair in zip(protocol.names, numbers, strict=True)]
    verdicts = [
        middle[left] > middle[right]
        for left, right in enumerate(protocol.partners("coronal"))
        if right > 0 and is_left[left] and counts[[left, right]].all()
    ]
    return sum(verdicts) > len(verdicts) / 2


def examine_labels(path: Path, orientation: str, convention: str, protocol: Protocol) -> Finding:
    """Read a label map, and check it without its image by the classes of a protocol."""
    try:
        volume = read_volume(path, orientation)
    except (InputError, OSError) as error:
        return Finding(explain(error, path))
    problem, swapped = "", "left and right are swapped; flip the labels or repair the header"
    try:
        classes = protocol.remap(volume.data, convention, path)
        problem = swapped if sides_swapped(classes, volume.affine, protocol) else ""
    except InputError as error:
        problem = explain(error, path)
    return Finding(problem, shape=list(volume.shape), affine=volume.affine.tolist())


@dataclass(frozen=True)
class File:
    """A file to examine; an image has no label convention."""

    path: Path
    orientation: str
    convention: str = ""


def read_cache(table: Path) -> dict[str, Finding]:
    """Return the findings on valid files of earlier checks, from the cache beside the table."""
    try:
        content = json.loads(table.with_suffix(".cache.json").read_bytes())
        return {key: Finding(**value) for key, value in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # no cache yet, or one of another version: read every file


def write_cache(table: Path, cache: Mapping[str, Finding]) -> None:
    """Write the cache beside a table of verdicts."""
    with written_whole(table.with_suffix(".cache.json")) as (temporary,):
        content = {key: asdict(found) for key, found in cache.items()}
        temporary.write_text(json.dumps(content), "utf-8")


@contextmanager
def open_cache(table: Path) -> Iterator[dict[str, Finding]]:
    """Yield the cache of a table; write changes after the block, even after Ctrl-C."""
    cache = read_cache(table)
    before = dict(cache)
    try:
        yield cache
    finally:
        if cache != before:
            with suppress(InputError):  # in a folder that cannot be written to; only time is lost
                write_cache(table, cache)


def examine_files(
    files: Iterable[File],
    protocol: Path | None,
    cache: dict[str, Finding],
    threads: int,
    unread: Collection[File] = (),
) -> dict[File, Finding]:
    """Return a finding for each file but those of `unread` that the cache lacks.

    Args:
        files: to read, in `threads` at a time, unless they are in the cache and unchanged.
        protocol: label protocol (TSV); None if no file is a label map.
        cache: findings on valid files, updated in place.

    Raises:
        InputError: the protocol cannot be read.
    """
    table = Protocol.read(protocol) if protocol else None
    numbers = (table.name, sha256(protocol)) if table and protocol else ()

    def key(file: File) -> str:
        stats = [part.stat() for part in with_header(file.path) if part.exists()]
        stamps = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
        ways = (file.orientation, file.convention, *(numbers if file.convention else ()))
        return json.dumps([quicknat.__version__, CHECKS, str(file.path), stamps, *ways])

    def look(file: File) -> Finding:
        if file.convention and table:
            return examine_labels(file.path, file.orientation, file.convention, table)
        return examine_image(file.path, file.orientation)

    keys = {file: key(file) for file in files}
    found = {name: cache[name] for name in keys.values() if name in cache}
    fresh = [file for file, name in keys.items() if name not in found and file not in unread]
    pool = ThreadPoolExecutor(threads)
    try:
        findings = tqdm(
            pool.map(look, fresh), "checking", len(fresh), unit=" files",
            disable=no_bar() if fresh else True,
        )  # fmt: skip
        for file, finding in zip(fresh, findings, strict=True):
            found[keys[file]] = finding
    finally:  # keep what was read, even after Ctrl-C
        pool.shutdown(cancel_futures=True)
        # not bad files: the cause may be temporary (permissions, memory, the disk)
        cache.clear()
        cache.update({name: finding for name, finding in found.items() if not finding.problem})
    return {file: found[name] for file, name in keys.items() if name in found}
