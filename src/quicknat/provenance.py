"""Refuse to replace the results of one scan by those of another of the same name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from quicknat.errors import InputError

FIX = "choose another name or folder, or --overwrite it"


def recorded_source(record: Path) -> tuple[str, str]:
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

    A scan that was moved (same content) or changed in place (same path) is no other scan.

    Args:
        record: JSON beside the results; it need not exist.
        source: path of the scan.
        digest: its SHA-256.

    Raises:
        InputError: the record names another scan.
    """
    path, recorded = recorded_source(record)
    if path and recorded != digest and Path(path).absolute() != Path(source).absolute():
        raise InputError(source, f"has the name of another scan, {path}: {record} exists", FIX)


def require_absent(paths: Iterable[Path]) -> None:
    """Refuse to replace results that do not record their scan.

    Raises:
        InputError: one of the files exists.
    """
    for path in paths:
        if path.exists():
            raise InputError(path, "already exists, maybe of another scan", FIX)
