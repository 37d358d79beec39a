"""One file over http(s): tried again when the connection breaks, and resumed where it broke."""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from dataclasses import dataclass
from http.client import IncompleteRead
from pathlib import Path

import requests
from requests import exceptions
from urllib3.exceptions import HTTPError, InvalidHeader, MaxRetryError
from urllib3.util import Retry

import quicknat
from quicknat.download.urls import public
from quicknat.errors import InputError
from quicknat.files import written_whole
from quicknat.progress import ByteProgress

log = logging.getLogger(__name__)

CHUNK = 1 << 16  # bytes; at most so many are lost when a connection breaks
PASSING = {408, 425, 429}  # the 4xx that end by themselves, as every 5xx may
NEVER_BETTER = (
    exceptions.InvalidURL,
    exceptions.InvalidSchema,
    exceptions.MissingSchema,
    exceptions.TooManyRedirects,
)


@dataclass(frozen=True)
class Patience:
    """How often a transfer is tried again, and how long it waits; times in seconds."""

    retries: int = 5  # in a row, without a byte gained
    pause: float = 1.0  # doubled with each retry; the first follows at once
    longest_pause: float = 300.0  # a server that asks for more is given up
    connect: float = 20.0
    stall: float = 60.0  # without a byte
    report: float = 30.0  # between two lines of progress in a log


class Unavailable(Exception):
    """An address does not give the file, though another may: why, and what to do."""

    def __init__(self, problem: str, fix: str = "check the address") -> None:
        self.problem, self.fix = problem, fix
        super().__init__(problem, fix)


class _Broken(Exception):
    """A transfer that may go better next time; `wait` seconds from now if the server says so."""

    def __init__(self, problem: str, wait: float | None = None) -> None:
        self.wait = wait
        super().__init__(problem)


def check_space(folder: Path, n_bytes: int) -> None:
    """Raise an :class:`InputError` if the file system of `folder` lacks room for `n_bytes`."""
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        problem = f"{n_bytes / 1e6:.1f} MB more are needed here and {free / 1e6:.1f} MB are free"
        raise InputError(folder, problem, "make room there")


class Partial:
    """A file that is still coming, and the note beside it of what it is a part of."""

    def __init__(self, path: Path) -> None:
        self.path, self.note = path, path.with_name(f"{path.name}.json")

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        """Remove both files."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def origin(self) -> dict:
        """What it is a part of: public address, validator, total bytes. Removed if unknown."""
        try:
            note = json.loads(self.note.read_text())
            if self.size and note.keys() == {"address", "validator", "total"}:
                return note
        except (OSError, ValueError, AttributeError):
            pass
        self.discard()
        return {}

    def set_origin(self, address: str, validator: str, total: int | None) -> None:
        """Note what it is a part of."""
        note = {"address": address, "validator": validator, "total": total}
        with written_whole(self.note) as (temporary,):
            temporary.write_text(json.dumps(note))


def _reason(error: BaseException) -> str:
    """The root of a network error; the texts above it hold whole addresses, secrets included."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, IncompleteRead):
        return "the connection broke"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _check_status(response: requests.Response) -> None:
    status = response.status_code
    if status < 400:
        return
    problem = f"the server answers {status} {response.reason}"
    if status in PASSING or status >= 500:
        try:
            wait = Retry().get_retry_after(response.raw)
        except InvalidHeader:
            wait = None
        raise _Broken(problem, wait)
    if status in (401, 403):
        raise Unavailable(problem, "it may ask for a login: fetch the file by hand")
    raise Unavailable(problem)


def _begin(response: requests.Response, part: Partial, origin: dict, address: str) -> int | None:
    """Make the partial file ready for what comes.

    Returns:
        Size of the whole file in bytes, None where the server does not tell.
    """
    if response.status_code == 206:
        span = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", span.strip())
        total = int(match[2]) if match and match[2] != "*" else origin["total"]
        if match is None or int(match[1]) != part.size or origin["total"] not in {None, total}:
            part.discard()
            raise _Broken("the file there is another than the one begun")
        log.info("%s: goes on after %.1f MB", address, part.size / 1e6)
    else:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        if part.size:
            log.info("%s: starts over, the server has another file or gives no parts", address)
        part.path.write_bytes(b"")
    etag = response.headers.get("ETag", "")
    strong = etag.startswith('"')  # others may stand for different bytes
    part.set_origin(address, etag if strong else response.headers.get("Last-Modified", ""), total)
    return total


def _receive(
    response: requests.Response, part: Partial, total: int | None, patience: Patience
) -> None:
    name = public(response.url).rpartition("/")[2]
    try:
        with (
            part.path.open("ab") as out,
            ByteProgress(name, part.size, total, patience.report) as progress,
        ):
            # undecoded: a range counts the bytes as they are sent
            for chunk in response.raw.stream(CHUNK, decode_content=False):
                out.write(chunk)
                progress.add(len(chunk))
    except OSError as error:  # of the disk; urllib3 has its own for the network
        fix = "what came is kept: put that right and fetch again"
        raise InputError(part.path, str(error.strerror), fix) from error
    if total is not None and part.size != total:
        raise _Broken("the connection ended too early")


def _attempt(session: requests.Session, address: str, part: Partial, patience: Patience) -> None:
    """Fetch what is missing, once; raises _Broken if another attempt makes sense."""
    origin = part.origin()
    headers = {}
    if origin:
        if part.size == origin["total"]:
            return
        headers["Range"] = f"bytes={part.size}-"
        # of another mirror's version this server knows nothing: size and checksum tell there
        if origin["address"] == public(address) and origin["validator"]:
            headers["If-Range"] = origin["validator"]
    times = (patience.connect, patience.stall)
    try:
        with session.get(address, headers=headers, stream=True, timeout=times) as response:
            if response.status_code == 416:
                part.discard()
                raise _Broken("the file there is shorter than the part that came")
            _check_status(response)
            total = _begin(response, part, origin, public(address))
            check_space(part.path.parent, (total or 0) - part.size)
            _receive(response, part, total, patience)
    except NEVER_BETTER as error:
        raise Unavailable(type(error).__name__) from error
    except (requests.RequestException, HTTPError) as error:
        if isinstance(error, exceptions.SSLError) and "CERTIFICATE" in _reason(error):
            raise Unavailable(_reason(error)) from error
        raise _Broken(_reason(error)) from error


def transfer(address: str, part: Partial, patience: Patience) -> None:
    """Bring a file, going on from the part of it that is there already.

    What came is kept for another call when this one fails.

    Raises:
        Unavailable: the address gives no file, or not within the patience.
        InputError: no room for it.
    """
    fresh = Retry(patience.retries, backoff_factor=patience.pause)
    retry, most = fresh, part.size
    with requests.Session() as session:
        session.headers["User-Agent"] = f"quicknat/{quicknat.__version__}"
        session.headers["Accept-Encoding"] = "identity"
        while True:
            try:
                return _attempt(session, address, part, patience)
            except _Broken as broken:
                if part.size > most:  # it gets there, if in pieces
                    retry, most = fresh, part.size
                try:
                    retry = retry.increment(error=broken)
                except MaxRetryError:
                    raise Unavailable(f"{broken}, {len(retry.history) + 1} times") from broken
                wait = broken.wait if broken.wait is not None else retry.get_backoff_time()
                if wait > patience.longest_pause:
                    raise Unavailable(f"{broken} and asks to wait {wait:.0f} s") from broken
                log.warning(
                    "%s: %s, with %.1f MB here; next try in %.0f s",
                    public(address), broken, part.size / 1e6, wait,
                )  # fmt: skip
            time.sleep(wait)
