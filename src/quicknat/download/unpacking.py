"""Take out of archives the members that a cohort needs."""

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

# what Python's readers raise over damaged archives, and over kinds that they cannot read
# (RuntimeError: an encrypted member, an unknown compression)
UNREADABLE = (
    EOFError, OSError, ValueError, OverflowError, RuntimeError, zlib.error, lzma.LZMAError,
    tarfile.TarError, zipfile.BadZipFile,
)  # fmt: skip


def _safe(name: str, archive: Path) -> PurePosixPath:
    """A member's path, if it stays inside the folder it is unpacked to."""
    path = PurePosixPath(name.replace("\\", "/"))
    if not name.isprintable():  # a line break would forge a line of the list of members
        raise InputError(archive, f"member {name!r} has no printable name", "do not use it")
    if not path.parts:
        raise InputError(archive, f"member '{name}' names no file", "do not use it")
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise InputError(archive, f"member '{name}' points outside its folder", "do not use it")
    return path


def _members(archive: Path) -> Iterable[tuple[str, int, Callable[[], IO[bytes] | None]]]:
    """Names and sizes of all members, with ways to open them (None for all but plain files).

    No reader gives more bytes of a member than the size that is stated here.
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
            while tar.fileobj.read(1 << 20):  # the checksum of compressed data comes at its end
                pass
    else:
        raise InputError(archive, "is neither a zip nor a tar archive", "check the source's url")


def unpack(archive: str | Path, patterns: Sequence[str], folder: str | Path) -> list[str]:
    """Take the members that match any of `patterns` (case ignored) out of a zip or tar archive.

    Analyze headers come along with their images. Files that are there already are replaced, all
    once the archive has been read whole, or none.

    Returns:
        The members written, sorted.

    Raises:
        InputError: damaged archive, a wanted member that is a link, lies outside the folder or is
            larger than any image (:data:`quicknat.images.volumes.MAX_BYTES`) or than the room on
            the disk, or a pattern that matches nothing.
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
    except (FileNotFoundError, PermissionError):
        raise  # says enough by itself
    except UNREADABLE as error:
        if getattr(error, "errno", None) in UNWRITTEN:
            raise  # the folder's fault, which it names
        raise InputError(archive, f"the archive is damaged ({error})", "fetch it again") from error
    return sorted(written)
