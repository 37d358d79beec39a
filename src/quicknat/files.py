"""Write files completely or not at all, never over another scan's; tables, checksums."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from quicknat.errors import InputError

# a full disk, quota, file size limit, or read-only disk: as error numbers, and as messages of
# libraries that drop the number (numpy, torch, safetensors)
UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
UNWRITTEN_WORDS = re.compile(
    r"\d+ requested and \d+ written|problem writing element|PytorchStreamWriter failed|"
    rf"unexpected pos \d|\(os error ({'|'.join(map(str, UNWRITTEN))})\)"
)
TEMPORARY = r"\.tmp-[a-z0-9_]{8}"  # prefix of files and folders until they are complete
REPLACING = "choose another name or folder, or --overwrite it"

Record = TypeVar("Record", bound=Any)  # a dataclass


def _unwritten(path: Path, error: Exception) -> InputError:
    """Return the user's error for a file that could not be written."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    fix = "make room there, allow writing, or choose another folder"
    return InputError(path, f"cannot be written ({reason})", fix)


@contextmanager
def written_whole(*paths: str | Path) -> Iterator[list[Path]]:
    """Yield temporary paths beside `paths`; rename them only if the block succeeds.

    Temporary names keep the full suffix (``.nii.gz``), from which writers infer the format. If the
    block raises, no file is left, neither under a final nor under a temporary name.

    Raises:
        InputError: a file cannot be written, e.g. because the disk is full or read-only.
    """
    finals = [Path(path) for path in paths]
    modes: dict[Path, int] = {}  # of the temporary files
    try:
        for final in finals:
            temporary = final.with_name(f".tmp-{secrets.token_hex(4)}{final.name}")
            try:
                final.parent.mkdir(parents=True, exist_ok=True)
                temporary.touch(exist_ok=False)
            except OSError as error:
                raise _unwritten(final, error) from error
            modes[temporary] = temporary.stat().st_mode
        try:
            yield list(modes)
        except InputError:
            raise
        except Exception as error:
            numbered = isinstance(error, OSError) and error.errno in UNWRITTEN
            if numbered or UNWRITTEN_WORDS.search(str(error)):
                raise _unwritten(finals[0], error) from error
            raise
        for (temporary, mode), final in zip(modes.items(), finals, strict=True):
            temporary.chmod(mode)  # some writers make files private
            temporary.replace(final)
    finally:
        for temporary in modes:
            temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it only if the block succeeds."""
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=".tmp-") as name:
        folder = Path(name) / final.name
        folder.mkdir()
        yield folder
        if final.exists():
            final.replace(Path(name) / "before")
        folder.replace(final)


def remove_temporaries(folder: str | Path) -> int:
    """Remove temporary files and folders below `folder`, and return their number.

    Call it only while nothing writes there: files of running writers have such names too.
    """
    count = 0
    for parent, folders, files in os.walk(folder):
        for name in filter(re.compile(TEMPORARY).match, [*folders, *files]):
            path, count = Path(parent, name), count + 1
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        folders[:] = [name for name in folders if Path(parent, name).exists()]
    return count


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_temporary_folder() -> None:
    """Raise an :class:`InputError` if ``TMPDIR``, where programs write, has no room."""
    folder = os.environ.get("TMPDIR") or tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(bytes(1 << 20))
    except FileNotFoundError:  # then programs use another
        return
    except OSError as error:
        problem = f"holds no temporary files ({error.strerror})"
        raise InputError(folder, problem, "make room there, or set TMPDIR") from error


def check_space(folder: Path, n_bytes: int) -> None:
    """Raise an :class:`InputError` if the file system of `folder` lacks room for `n_bytes`."""
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        problem = f"{n_bytes / 1e6:.1f} MB more are needed, but only {free / 1e6:.1f} MB are free"
        raise InputError(folder, problem, "make room there")


def _recorded_source(record: Path) -> tuple[str, str]:
    """Return path and SHA-256 of the scan in a result's JSON; ("", "") if it states none."""
    try:
        found = json.loads(record.read_bytes())
        source = found["source"]
        if isinstance(source, dict):
            return str(source["path"]), str(source["sha256"])
        return str(source), str(found["source_sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "", ""


def require_same_source(record: Path, source: str | Path, digest: str) -> None:
    """Refuse to write results where those of another scan are.

    A scan that was moved (same content) or changed in place (same path) is not another scan.

    Args:
        record: JSON beside the results; it need not exist.
        source: path of the scan.
        digest: its SHA-256.

    Raises:
        InputError: the record names another scan.
    """
    path, recorded = _recorded_source(record)
    if path and recorded != digest and Path(path).absolute() != Path(source).absolute():
        raise InputError(
            source, f"has the same name as another scan, {path}: {record} exists", REPLACING
        )


def require_absent(paths: Iterable[Path]) -> None:
    """Refuse to replace results that do not record their scan.

    Raises:
        InputError: one of the files exists.
    """
    for path in paths:
        if path.exists():
            raise InputError(path, "already exists, maybe from another scan", REPLACING)


def columns(kind: type[Record]) -> list[str]:
    """Return the table's header: the names of the dataclass's fields."""
    return [field.name for field in fields(kind)]


def as_tsv(kind: type[Record], records: Iterable[Record]) -> str:
    """Return a TSV with a row per record; cells may contain line breaks."""
    import pandas as pd  # slow to import

    return str(pd.DataFrame(records, columns=columns(kind)).to_csv(sep="\t", index=False))


def write_records(path: str | Path, kind: type[Record], records: Iterable[Record]) -> None:
    """Write the table of :func:`as_tsv`."""
    with written_whole(path) as (temporary,):
        # names of files need not be UTF-8
        temporary.write_text(as_tsv(kind, records), "utf-8", "backslashreplace")


def read_records(path: str | Path, kind: type[Record]) -> list[Record]:
    """Read a table of :func:`write_records`.

    Raises:
        OSError, ValueError: the file is missing, or is not such a table.
    """
    import pandas as pd

    # unlike the C engine, this one tells short rows from empty cells
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, engine="python")
    fits = list(table) == columns(kind) and isinstance(table.index, pd.RangeIndex)
    if not fits or table.isna().any(axis=None):
        raise ValueError(f"its columns are not {', '.join(columns(kind))}")
    return [kind(*row) for row in table.itertuples(index=False, name=None)]
