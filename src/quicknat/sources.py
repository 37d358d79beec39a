"""Take out of archives the members that a cohort needs."""

from __future__ import annotations

import fnmatch
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from quicknat.errors import InputError, written_whole


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
    except (FileNotFoundError, PermissionError):
        raise  # says enough by itself
    except (EOFError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise InputError(archive, f"the archive is damaged ({error})", "fetch it again") from error
    for pattern in patterns:
        if pattern.lower() not in matched:
            raise InputError(archive, f"has no member '{pattern}'", "check the path in the sheet")
    return sorted(written)
