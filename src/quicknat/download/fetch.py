"""Download a source's archive from the first URL that provides it, and verify it."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from filelock import FileLock, Timeout

from quicknat.download.transfer import public, transfer
from quicknat.errors import InputError, one_line
from quicknat.files import UNWRITTEN, sha256

log = logging.getLogger(__name__)

SCHEMES = {"https": "https", "http": "http", "file": "file", "git+https": "git", "git+file": "git"}
PYPI = re.compile(r"[A-Za-z0-9][\w.-]*==[\w.+!]+")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", re.IGNORECASE)
COMMIT = re.compile(r"git:[0-9a-f]{40}")
UNPUBLISHED = "unpublished"  # in place of a checksum, if none is published


def kind_of(address: str) -> str:
    """Return the kind of a URL: https, http, file, git or pypi; "" if it is none of these."""
    scheme, found, _ = address.partition("://")
    pip = "pypi" if PYPI.fullmatch(address) else ""
    return SCHEMES.get(scheme.lower(), "") if found else pip


def file_name(address: str) -> str:
    """Return the name of a URL's file in a download folder; for a wheel, a pattern."""
    if kind_of(address) == "pypi":
        name, _, version = address.partition("==")
        return f"{re.sub(r'[-_.]+', '_', name)}-{version}-*.whl"  # spelling of wheel names
    name = unquote(urlsplit(address).path).rpartition("/")[2]
    return f"{name}.tar" if kind_of(address) == "git" else name


def _run(address: str, *command: str) -> None:
    """Run a program that fetches a URL; raise an InputError with its message on failure."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", env=environment
        )
    except FileNotFoundError as error:
        fix = f"install {command[0]}, or name a mirror"
        raise InputError(public(address), f"{command[0]} is not on PATH", fix) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        errors = [line for line in lines if re.search("ERROR|fatal", line)] or lines
        problem = f"cannot be fetched ({errors[-1].strip()})"
        raise InputError(public(address), problem, "check URL, version and network")


def _fetch_by_kind(address: str, part: Path, checksum: str) -> None:
    """Download a URL to `part`, or complete a partial download."""
    kind = kind_of(address)
    if kind in ("http", "https"):
        return transfer(address, part, verifiable=bool(DIGEST.fullmatch(checksum)))
    with tempfile.TemporaryDirectory(dir=part.parent, prefix=".tmp-") as folder:
        fetched = Path(folder, "archive")
        if kind == "file":
            shutil.copyfile(url2pathname(urlsplit(address).path), fetched)
        elif kind == "pypi":
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
            pip += ["--only-binary", ":all:", "--disable-pip-version-check", "--dest", folder]
            _run(address, *pip, address)
            fetched = next(Path(folder).iterdir())
        else:  # git itself verifies that the files are those of the commit
            git, commit = ["git", "-C", folder], checksum.removeprefix("git:")
            origin = address.removeprefix("git+")
            _run(address, *git, "init", "--quiet", "--bare")
            _run(address, *git, "fetch", "--quiet", "--no-tags", "--depth=1", origin, commit)
            _run(address, *git, "archive", "--format=tar", "--output=archive", commit)
        fetched.replace(part)


def _fault(path: Path, checksum: str) -> str:
    """Return what is wrong with a downloaded file; "" if nothing is."""
    with path.open("rb") as stream:
        start = stream.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
        if start.startswith(b"<") and re.search(rb"<!doctype html|<html", start):
            return "a web page was received instead of the archive, perhaps a login or error page"
        if not DIGEST.fullmatch(checksum):
            return ""
        stream.seek(0)
        algorithm, _, expected = checksum.lower().partition(":")
        # not for security: without this flag machines in FIPS mode refuse MD5
        digest = hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False))
    found = digest.hexdigest()
    return "" if found == expected else f"its {algorithm} is {found}, not {expected}"


def _urls(url: str, mirrors: Sequence[str], downloads: Path | None, offline: bool) -> list[str]:
    """Return the URLs to try in turn: files downloaded by hand, or else url and mirrors."""
    if downloads is not None:
        if not downloads.is_dir():
            raise InputError(downloads, "no such folder", "correct QUICKNAT_DOWNLOADS")
        # wheel names may differ in case
        pattern = re.compile(re.escape(file_name(url)).replace(r"\*", ".*"), re.IGNORECASE)
        if given := [file for file in sorted(downloads.iterdir()) if pattern.fullmatch(file.name)]:
            return [file.resolve().as_uri() for file in given]
    addresses = [a for a in (url, *mirrors) if not offline or kind_of(a) == "file"]
    if not addresses:
        fix = f"put {file_name(url)} into the folder QUICKNAT_DOWNLOADS"
        raise InputError(public(url), "cannot be fetched offline", fix)
    return addresses


def _fetch(address: str, part: Path, checksum: str) -> None:
    """Download the right file to `part`, or raise an InputError."""
    log.info("fetching %s", public(address))
    begun = part.exists()
    try:
        _fetch_by_kind(address, part, checksum)
        fault = _fault(part, checksum)
    except OSError as error:
        # a copy onto a full disk names the file that it reads
        full = error.errno in UNWRITTEN
        where, what = (part, "make room there") if full else (error.filename or part, "fix this")
        fix = f"{what} and fetch again: the partial download is kept"
        raise InputError(where, error.strerror or one_line(error), fix) from error
    if not fault:
        return
    part.unlink()
    if not begun:
        fix = "fetch again; if this persists, the file has changed at its source"
        raise InputError(public(address), f"{fault} (removed)", fix)
    # the part left by an earlier run may be damaged, e.g. zeros after a power cut
    log.warning("%s: %s; it was resumed, so it is now fetched from scratch", public(address), fault)
    _fetch(address, part, checksum)


def _first_of(addresses: Sequence[str], part: Path, checksum: str) -> None:
    """Download the right file to `part` from the first URL that provides it."""
    failures = []
    for address in addresses:
        try:
            return _fetch(address, part, checksum)
        except InputError as error:
            failures.append(error)
            if address != addresses[-1]:
                log.warning("%s: %s; trying the next URL", error.where, error.problem)
    first, *others = failures
    problems = [first.problem, *(f"{other.where}: {other.problem}" for other in others)]
    raise InputError(first.where, "; ".join(problems), first.fix)


def download(
    url: str,
    checksum: str,
    output: str | Path,
    mirrors: Sequence[str] = (),
    *,
    downloads: str | Path | None = None,
    offline: bool = False,
) -> None:
    """Download a source's archive to `output`, which appears only once its checksum is right.

    Broken transfers are resumed, also by a later call. Of several concurrent calls for one
    `output`, one downloads and the others wait. An existing correct file is kept.

    Args:
        url: ``https://…``, ``http://…``, ``file://…``, ``git+https://…``, or ``NAME==VERSION`` of a
            wheel that pip downloads.
        checksum: ``sha256:…`` or ``md5:…``; ``git:COMMIT`` of a git source; ``unpublished`` if
            none is known: then that of the download is logged, for the sources table.
        output: final path.
        mirrors: further URLs of the same file, of any kind, tried in turn.
        downloads: folder of manual downloads; an archive found there by name is copied.
        offline: use only `downloads` and ``file`` URLs.

    Raises:
        InputError: no URL provides the right file, or it cannot be written.
    """
    for address in (url, *mirrors):
        if not kind_of(address):
            fix = "must be https://, http://, file:// or git+https://, or NAME==VERSION for pip"
            raise InputError(public(address), "is not the URL of a file", fix)
    is_git, verifiable = kind_of(url) == "git", bool(DIGEST.fullmatch(checksum))
    if not (COMMIT.fullmatch(checksum) if is_git else verifiable or checksum == UNPUBLISHED):
        fix = "must be git:… with a commit" if is_git else "must be sha256:… or md5:…"
        raise InputError(public(url), f"its checksum is '{checksum}'", fix)
    addresses = _urls(url, mirrors, Path(downloads) if downloads else None, offline)
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    lock, waited = FileLock(output.with_name(f".{output.name}.lock")), False
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        log.info("%s: waiting for another job that fetches it", output)
        held, waited = lock.acquire(), True
    except OSError as error:  # a network's disk may have no locks
        fix = "choose a folder on another disk (MONAI_DATA_DIRECTORY)"
        raise InputError(output.parent, f"cannot be locked ({error.strerror})", fix) from error
    with held:
        if output.is_file() and (not _fault(output, checksum) if verifiable else waited):
            log.info("%s already exists", output)
        else:
            # the same name in every run that downloads this file here
            which = hashlib.sha256(f"{url} {checksum}".encode()).hexdigest()[:8]
            part = output.with_name(f".{output.name}.{which}.part")
            _first_of(addresses, part, checksum)
            if checksum == UNPUBLISHED:
                known = "%s: no checksum is known; from now on, expect sha256:%s"
                log.warning(known, public(url), sha256(part))
            part.replace(output)
            for left in output.parent.glob(f".{glob.escape(output.name)}.????????.part*"):
                left.unlink()  # of this file and of earlier URLs of its row
            log.info("%s: %.1f MB, as expected", output, output.stat().st_size / 1e6)
        # safe once the output exists: a process that still gets this lock finds it done
        Path(lock.lock_file).unlink(missing_ok=True)
