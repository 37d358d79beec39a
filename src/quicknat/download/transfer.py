"""Download one file over HTTP(S), with retries and resumption of broken transfers."""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import requests
from requests.utils import get_environ_proxies
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

import quicknat
from quicknat.errors import InputError
from quicknat.files import check_space
from quicknat.progress import ByteProgress

log = logging.getLogger(__name__)
logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)  # DEBUG would show secrets

# retries in a row without progress, after 0, 2, 4, 8 and 16 s, or as the server asks
RETRY = Retry(
    5, backoff_factor=1, status_forcelist=[408, 425, 429, *range(500, 600)], retry_after_max=120
)
TIMEOUTS = (20.0, 60.0)  # seconds to connect, and between bytes
REPORT_EVERY = 30.0  # seconds between two lines of progress in a log


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
