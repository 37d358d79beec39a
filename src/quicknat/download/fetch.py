"""Fetch archives: from a folder of downloads, or from the first address that gives them."""

from __future__ import annotations

import glob
import hashlib
import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from quicknat.download.fetchers import bring
from quicknat.download.transfer import Partial, Patience, Unavailable, transfer
from quicknat.download.urls import KINDS, file_name, kind_of, public
from quicknat.errors import InputError
from quicknat.files import written_whole

log = logging.getLogger(__name__)

UNPUBLISHED = "unpublished"  # instead of a checksum, where nobody states one
CHECKSUM = re.compile(r"sha256:[0-9a-fA-F]{64}|md5:[0-9a-fA-F]{32}")
COMMIT = re.compile(r"git:[0-9a-f]{40}")


def _fault(path: Path, checksum: str) -> str:
    """What is wrong with a file that came; empty if nothing is."""
    with path.open("rb") as stream:
        start = stream.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
        if start.startswith(b"<") and re.search(rb"<!doctype html|<html", start):
            return "a web page came instead of the archive, perhaps a login or error page"
        if start.startswith(b"version https://git-lfs"):
            return "a Git LFS pointer came instead of the archive that it stands for"
        if not CHECKSUM.fullmatch(checksum):
            return ""
        stream.seek(0)
        algorithm, _, expected = checksum.partition(":")
        # said not to be for security, or machines in FIPS mode would refuse MD5
        digest = hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False))
    if digest.hexdigest() != expected.lower():
        return f"the {algorithm} of what came is {digest.hexdigest()}, not {expected}"
    return ""


def _bring(address: str, output: Path, part: Partial, checksum: str, patience: Patience) -> None:
    """Fetch one address to `output`; Unavailable if it gives no file, or one with a fault."""
    again = "fetch again; if it stays so, the file has changed at its source"
    if kind_of(address) not in ("http", "https"):
        with written_whole(output) as (temporary,):
            bring(address, checksum, temporary)
            if fault := _fault(temporary, checksum):
                raise Unavailable(fault, again)
        return
    resumed = part.size > 0
    transfer(address, part, patience)
    if fault := _fault(part.path, checksum):
        part.discard()
        if not resumed:
            raise Unavailable(f"{fault} (removed)", again)
        # what an earlier run left may be at fault, such as zeros after a power cut
        log.warning(
            "%s: %s; resumed from an earlier run, so all of it anew", public(address), fault
        )
        return _bring(address, output, part, checksum, patience)
    part.path.replace(output)


def _given(folder: Path, url: str) -> list[str]:
    """Addresses of the files in a folder of downloads that have the archive's name."""
    if not folder.is_dir():
        raise InputError(folder, "no such folder", "correct QUICKNAT_DOWNLOADS")
    # wheels differ in case from how people spell their names
    pattern = re.escape(file_name(url)).replace(r"\*", ".*")
    return [
        file.resolve().as_uri()
        for file in sorted(folder.iterdir())
        if re.fullmatch(pattern, file.name, re.IGNORECASE) and file.is_file()
    ]


@contextmanager
def _locked(output: Path) -> Iterator[bool]:
    """Keep others from fetching the same file; the lock of a process that died holds nobody.

    Yields:
        Whether another call fetched it meanwhile.
    """
    waited = False
    lock = FileLock(output.with_name(f".{output.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("%s: waiting for another job that fetches it", output)
        lock.acquire()
        waited = True
    try:
        yield waited
        # safe once the output is there: whoever still gets this lock finds it done
        Path(lock.lock_file).unlink(missing_ok=True)
    finally:
        lock.release()


def download(
    kind: str,
    url: str,
    checksum: str,
    output: str | Path,
    mirrors: Sequence[str] = (),
    *,
    downloads: str | Path | None = None,
    offline: bool = False,
    patience: Patience = Patience(),
) -> None:
    """Fetch a source's archive to `output`, under that name only once its checksum is right.

    Broken transfers are resumed, also by a later call. Of several calls at once for the same
    `output` one fetches, and the others wait. Nothing is fetched if the right file is there.

    Args:
        kind: ``pypi`` (url is ``NAME==VERSION``), ``npm`` (``NAME@VERSION/PATH``, one file of a
            package), ``git`` (``git+https://…``), ``https``, ``http`` or ``file``.
        url: address.
        checksum: ``sha256:…`` or ``md5:…``; of ``git`` the commit, ``git:…``; ``unpublished`` where
            there is none, upon which the log says what came, to be noted down.
        output: final path.
        mirrors: further addresses of the same file, of any kind, tried in turn.
        downloads: folder whose file of the archive's name, if it has one, is copied instead.
        offline: use `downloads`, ``file`` addresses and nothing else.
        patience: how long to wait, and how often to try again.

    Raises:
        InputError: no address gives the right file, or there is no room for it.
    """
    if kind not in KINDS or kind != kind_of(url):
        fix = f"kind must be that of its url, one of {', '.join(KINDS)}"
        raise InputError(public(url), f"kind '{kind}' cannot be downloaded", fix)
    for mirror in mirrors:
        if not kind_of(mirror):
            fix = (
                "must begin with https://, http:// or file://, or be NAME==VERSION or "
                "NAME@VERSION/PATH"
            )
            raise InputError(public(mirror), "is no address of a mirror", fix)
    known = COMMIT.fullmatch(checksum) if kind == "git" else CHECKSUM.fullmatch(checksum)
    if not known and (kind == "git" or checksum != UNPUBLISHED):
        fix = "must be git:… with a commit" if kind == "git" else "must be sha256:… or md5:…"
        raise InputError(public(url), f"its checksum is '{checksum}'", fix)
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with _locked(output) as waited:
        for left in output.parent.glob(f".tmp-????????{glob.escape(output.name)}*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()  # of a run that was killed
        if output.is_file() and CHECKSUM.fullmatch(checksum) and not _fault(output, checksum):
            log.info("%s is there already, with the right checksum", output)
            return
        if waited and output.is_file() and not CHECKSUM.fullmatch(checksum):
            log.info("%s: another job has fetched it", output)
            return
        addresses = [url, *mirrors]
        if downloads is not None and (given := _given(Path(downloads), url)):
            addresses = given
        elif offline:
            addresses = [address for address in addresses if kind_of(address) == "file"]
            if not addresses:
                put = f"put {file_name(url)} into the folder that QUICKNAT_DOWNLOADS names"
                raise InputError(public(url), "cannot be fetched offline", put)
        # the same name in every run that wants this file here
        which = hashlib.sha256(f"{url} {checksum}".encode()).hexdigest()[:8]
        part = Partial(output.with_name(f".{output.name}.{which}.part"))
        _first_of(addresses, output, part, checksum, patience)
        for left in output.parent.glob(f".{glob.escape(output.name)}.????????.part*"):
            left.unlink()  # of this file and of what its row named before
        log.info("%s: %.1f MB, as expected", output, output.stat().st_size / 1e6)
        if checksum == UNPUBLISHED:
            with output.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            log.warning(
                "%s: no checksum is known, so nothing says that this is the right file; from now "
                "on, expect sha256:%s", public(url), found,
            )  # fmt: skip


def _first_of(
    addresses: Sequence[str], output: Path, part: Partial, checksum: str, patience: Patience
) -> None:
    """Fetch from the first address that gives the right file."""
    failures = []
    for address in addresses:
        log.info("fetching %s", public(address))
        try:
            return _bring(address, output, part, checksum, patience)
        except Unavailable as error:
            failures.append((public(address), error))
            if address != addresses[-1]:
                log.warning("%s: %s; next address", public(address), error.problem)
    where, first = failures[0]
    others = "".join(f"; {address}: {error.problem}" for address, error in failures[1:])
    raise InputError(where, first.problem + others, first.fix)
