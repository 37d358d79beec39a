"""Extract the members of archives that a cohort needs."""

from __future__ import annotations

import fnmatch
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from quicknat.errors import InputError
from quicknat.files import UNWRITTEN, check_space, written_whole
from quicknat.images.volumes import MAX_BYTES

# what Python raises for damaged or unsupported archives (RuntimeError: an encrypted member, an
# unknown compression)
UNREADABLE = (
    EOFError, OSError, ValueError, OverflowError, RuntimeError, zlib.error, lzma.LZMAError,
    tarfile.TarError, zipfile.BadZipFile,
)  # fmt: skip


def _safe(name: str, archive: Path) -> PurePosixPath:
    """Return a member's path; reject paths outside the target folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if not name.isprintable():  # a line break would forge an entry in the list of members
        raise InputError(archive, f"member {name!r} has an unprintable name", "do not use it")
    if not path.parts:
        raise InputError(archive, f"member '{name}' has no file name", "do not use it")
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise InputError(archive, f"member '{name}' points outside its folder", "do not use it")
    return path


def _members(archive: Path) -> Iterable[tuple[str, int, Callable[[], IO[bytes] | None]]]:
    """Yield name, size and opener of all members; openers return None for links and devices.

    No opener yields more bytes than the stated size.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if not info.filename.endswith("/"):
                    link = stat.S_ISLNK(info.external_attr >> 16)
                    yield (
                        info.filename,
                        info.file_size,
                        partial(zipped.open, info) if not link else lambda: None,
                    )
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            for member in tar:
                if not member.isdir():
                    yield (
                        member.name,
                        member.size,
                        partial(tar.extractfile, member) if member.isreg() else lambda: None,
                    )
            while tar.fileobj.read(1 << 20):  # reach the checksum at the end of compressed data
                pass
    else:
        raise InputError(archive, "is neither a zip nor a tar archive", "check the source's url")


def unpack(archive: str | Path, patterns: Sequence[str], folder: str | Path) -> list[str]:
    """Extract the members that match any of `patterns` (case ignored) from a zip or tar archive.

    Analyze headers are extracted with their images. Existing files are replaced, but only once the
    whole archive has been read.

    Returns:
        The members written, sorted.

    Raises:
        InputError: the archive is damaged; a matching member is a link, points outside the folder,
            or is larger than any image (:data:`quicknat.images.volumes.MAX_BYTES`) or than the
            free disk space; or a pattern matches nothing.
    """
    archive, folder = Path(archive), Path(folder)
    wanted = {pattern.lower() for pattern in patterns}
    wanted |= {pattern[:-4] + ".hdr" for pattern in wanted if pattern.endswith(".img")}
    written, matched = [], set()
    try:
        with ExitStack() as stack:
            for name, size, opener in _members(archive):
                plain = name.removeprefix("./")
                hits = {pattern for pattern in wanted if fnmatch.fnmatch(plain.lower(), pattern)}
                if not hits:
                    continue
                path = _safe(plain, archive)
                if str(path) in written:
                    raise InputError(archive, f"has two members '{path}'", "do not use it")
                stream = opener()
                if stream is None:
                    problem = f"member '{name}' is a link or device"
                    raise InputError(archive, problem, "do not use it")
                if size > MAX_BYTES:
                    problem = f"member '{name}' unpacks to {size / 1e9:.0f} GB, more than any image"
                    raise InputError(archive, problem, "do not use it")
                folder.mkdir(parents=True, exist_ok=True)
                check_space(folder, size)
                (temporary,) = stack.enter_context(written_whole(folder / path))
                with stream, temporary.open("wb") as out:
                    shutil.copyfileobj(stream, out, 1 << 20)
                matched |= hits
                written.append(str(path))
            for pattern in patterns:
                if pattern.lower() not in matched:
                    problem = f"has no member '{pattern}'"
                    raise InputError(archive, problem, "check the path in the sheet")
    except UNREADABLE as error:
        if getattr(error, "errno", None) in UNWRITTEN or getattr(error, "filename", None):
            raise  # a problem with the folder, or a missing archive, which the error names
        raise InputError(archive, f"the archive is damaged ({error})", "fetch it again") from error
    return sorted(written)
