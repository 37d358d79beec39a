"""Look into many files, several at a time, and remember what they hold.

What was read and is good is not read again while the file stays as it was, so that a second check
of a thousand scans takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

import quicknat
from quicknat.checking.examine import Finding, examine_image, examine_labels
from quicknat.files import sha256, written_whole
from quicknat.progress import no_bar
from quicknat.scans.labels import Protocol


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


def _read_cache(path: Path) -> dict[str, Finding]:
    try:
        return {key: Finding(**value) for key, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # none yet, or of another make: everything is read anew


def examine_files(
    files: Iterable[File], protocol: Path | None, cache: Path, threads: int
) -> dict[File, Finding]:
    """Look into files, except those that the cache knows as they are.

    Args:
        files: each once.
        protocol: label protocol (TSV); None if there is no label map among the files.
        cache: JSON of the good files that earlier calls found; then of those of this one.
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

    known, keys = _read_cache(cache), {file: key(file) for file in files}
    found = {name: known[name] for name in keys.values() if name in known}
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
        kept = {name: finding for name, finding in found.items() if not finding.problem}
        if kept != known:
            with written_whole(cache) as (temporary,):
                temporary.write_text(json.dumps({k: asdict(f) for k, f in kept.items()}))
    return {file: found[name] for file, name in keys.items()}
