"""Save and load resumable training states: atomic, checksummed, bound to their training.

A state is two files, ``{name}.pt`` and ``{name}.json``; names sort by progress. The JSON file holds
the fingerprint of the training and the SHA-256 of the state, and is written last.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from quicknat.config import current_settings
from quicknat.errors import InputError, one_line
from quicknat.files import sha256, written_whole
from quicknat.reruns import compared_settings

log = logging.getLogger(__name__)

STATES = "[0-9]*.json"  # not hidden copies, which macOS leaves on foreign disks
END = "end.txt"  # why the last attempt ended, beside its states
KEPT = 2  # if the latest state is damaged, the previous one is used


@contextmanager
def only_process(folder: str | Path) -> Iterator[None]:
    """Lock a folder of states for this process; two would remove each other's files.

    Raises:
        InputError: another process holds it, e.g. the job of a Snakemake that was killed.
    """
    # beside the folder, which cannot be removed on NFS while it holds an open file; and no marker
    # file instead of a lock, which a killed process would leave
    lock = FileLock(Path(folder).with_suffix(".lock"), fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        fix = "wait for it, or stop it; then run the same command again"
        raise InputError(folder, "another process trains there", fix) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS):  # of a network's disk
            raise
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


@contextmanager
def end_recorded(folder: str | Path) -> Iterator[None]:
    """Record beside the states, if there are any, why an attempt ends early.

    The log of the next attempt replaces that of this one.
    """
    path = Path(folder, END)
    path.unlink(missing_ok=True)  # of the attempt before
    try:
        yield
    except Exception as error:
        text = f"ended at {time.strftime('%Y-%m-%d %H:%M')}: {one_line(error)}\n"
        if any(path.parent.glob(STATES)):
            with suppress(OSError):  # the disk is full
                path.write_text(text, "utf-8")
        raise


def last_end(folder: str | Path) -> str:
    """Return why the last attempt ended."""
    path = Path(folder, END)
    if not path.exists():
        return "left no reason, as if killed"
    return path.read_text("utf-8").strip()


def save_state(folder: str | Path, name: str, fingerprint: dict, state: dict) -> None:
    """Save `state` (tensors, numbers, strings, and dicts and lists of these) as `name`."""
    folder = Path(folder)
    with written_whole(folder / f"{name}.pt", folder / f"{name}.json") as (weights, record):
        torch.save(state, weights)
        saved = {"sha256": sha256(weights), "fingerprint": fingerprint}
        record.write_text(json.dumps(saved, indent=1) + "\n", "utf-8")
    for old in sorted(folder.glob(STATES))[:-KEPT]:
        old.unlink()  # first, so that every record has its state
        old.with_suffix(".pt").unlink(missing_ok=True)


def load_state(folder: str | Path, fingerprint: dict) -> dict | None:
    """Return the latest undamaged state in `folder`, on the CPU; None if there is none.

    Raises:
        InputError: the state is from a training with another fingerprint, or all are damaged.
    """
    for stray in Path(folder).glob(".tmp-*"):  # of a process killed while writing
        stray.unlink(missing_ok=True)  # another process may be faster
    records = sorted(Path(folder).glob(STATES), reverse=True)
    for record in records:
        path = record.with_suffix(".pt")
        try:
            saved = json.loads(record.read_bytes())
            if sha256(path) != saved["sha256"]:
                raise ValueError("its checksum is wrong")
            before = compared_settings(current_settings(saved["fingerprint"], record))
            changes = differences(before, fingerprint)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s: ignored, because it is damaged (%s)", path, error)
            continue
        if changes:
            raise InputError(
                folder,
                f"holds the state of another training: {'; '.join(changes)}",
                "undo these changes, or delete this folder to start from scratch",
            )
        return torch.load(path, weights_only=True, map_location="cpu")
    if records:  # starting over would discard days of work that may be recoverable
        raise InputError(
            folder,
            f"holds {len(records)} saved state(s), all damaged",
            "restore one, or delete this folder to start from scratch",
        )
    return None


def remove_states(folder: str | Path) -> None:
    """Remove the folder of a finished training; if killed meanwhile, the rest can be resumed."""
    for record in sorted(Path(folder).glob(STATES)):  # latest last
        record.unlink()
    shutil.rmtree(folder)


def differences(old: dict, new: dict, shown: int = 5) -> list[str]:
    """Describe the differences of two fingerprints, which map parts to dicts of values."""
    changes = []
    for part in sorted(old.keys() | new.keys()):
        before, after = old.get(part, {}), new.get(part, {})
        for key in sorted(before.keys() | after.keys()):
            if key not in before or key not in after:
                changes.append(f"{part} {key} is {'new' if key in after else 'gone'}")
            elif before[key] != after[key]:
                was, now = f"{before[key]}", f"{after[key]}"
                short = max(len(was), len(now)) < 40  # unlike lists and checksums
                how = f"was {was}, is {now}" if short else "changed"
                changes.append(f"{part} {key} {how}")
    rest = len(changes) - shown
    return [*changes[:shown], f"and {rest} more"] if rest > 0 else changes
