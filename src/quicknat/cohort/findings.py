"""Look into many files, several at a time, and remember what they hold.

What was read and is good is not read again while the file stays as it was, so that a second check
of a thousand scans takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

import quicknat
from quicknat.cohort.examine import Finding, examine_image, examine_labels
from quicknat.files import sha256, written_whole
from quicknat.images.labels import Protocol
from quicknat.progress import no_bar


@dataclass(frozen=True)
class File:
    """A file to look into; an image has no numbering."""

    path: Path
    orientation: str
    numbering: str = ""


def _stamps(path: Path) -> list[tuple[int, int]]:
    """Size and time of change of a file, and of the header beside it if it is a pair."""
    headers = [path.with_suffix(end) for end in (".hdr", ".HDR")]
    pair = [path, *headers] if path.suffix.lower() == ".img" else [path]
    return [(s.st_size, s.st_mtime_ns) for s in (p.stat() for p in pair if p.exists())]


def _cache_file(table: Path) -> Path:
    return table.with_suffix(".cache.json")


def read_cache(table: Path) -> dict[str, Finding]:
    """Return the good files of earlier checks, from the cache beside their table of verdicts."""
    try:
        content = json.loads(_cache_file(table).read_text())
        return {key: Finding(**value) for key, value in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # none yet, or of another make: every file is read


def write_cache(table: Path, cache: Mapping[str, Finding]) -> None:
    """Write the cache beside a table of verdicts."""
    with written_whole(_cache_file(table)) as (temporary,):
        temporary.write_text(json.dumps({key: asdict(found) for key, found in cache.items()}))


@contextmanager
def open_cache(table: Path) -> Iterator[dict[str, Finding]]:
    """Yield the cache of a table; write it after the block, also after Ctrl-C, if it changed."""
    cache = read_cache(table)
    before = dict(cache)
    try:
        yield cache
    finally:
        if cache != before:
            write_cache(table, cache)


def examine_files(
    files: Iterable[File], protocol: Path | None, cache: dict[str, Finding], threads: int
) -> dict[File, Finding]:
    """Look into files, except those that the cache knows as they are.

    Args:
        files: each once.
        protocol: label protocol (TSV); None if there is no label map among the files.
        cache: the good files that earlier calls found; updated to those of this one.
        threads: files to read at a time (decompression runs in parallel).

    Raises:
        InputError: the protocol is none. What is wrong with a file is in its finding.
    """
    table = Protocol.read(protocol) if protocol else None
    numbers = (table.name, sha256(protocol)) if table and protocol else ()

    def key(file: File) -> str:
        ways = (file.orientation, file.numbering, *(numbers if file.numbering else ()))
        return json.dumps([quicknat.__version__, str(file.path), _stamps(file.path), *ways])

    def look(file: File) -> Finding:
        if file.numbering and table:
            return examine_labels(file.path, file.orientation, file.numbering, table)
        return examine_image(file.path, file.orientation)

    keys = {file: key(file) for file in files}
    found = {name: cache[name] for name in keys.values() if name in cache}
    fresh = [file for file, name in keys.items() if name not in found]
    pool = ThreadPoolExecutor(threads)
    try:
        findings = tqdm(
            pool.map(look, fresh), "checking", len(fresh), unit=" files",
            disable=no_bar() if fresh else True,
        )  # fmt: skip
        for file, finding in zip(fresh, findings, strict=True):
            found[keys[file]] = finding
    finally:  # also after Ctrl-C: what was read is kept
        pool.shutdown(cancel_futures=True)
        # not what is bad: the cause may lie elsewhere (permission, memory, the disk)
        cache.clear()
        cache.update({name: finding for name, finding in found.items() if not finding.problem})
    return {file: found[name] for file, name in keys.items()}
