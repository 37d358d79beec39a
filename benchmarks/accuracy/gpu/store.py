"""The volumes of a pack, laid out once for all processes that learn from them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from device_data import Slices, bent, halved
from torch import Tensor


@contextmanager
def working_folder() -> Iterator[Path]:
    """In memory where there is such a place."""
    shared = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


def _write(place: Path, pack: dict[str, np.ndarray], fine: list[Tensor], names: list[str]) -> None:
    np.save(place / "fine.npy", torch.stack(fine).numpy())
    (place / "names.json").write_text(json.dumps(names))
    np.savez(place / "tables.npz", sagittal=pack["sagittal"], swapped=pack["swapped"])


def _scans(pack: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name.removeprefix("scan "): torch.from_numpy(both) for name, both in pack.items()
            if name.startswith("scan ")}  # fmt: skip


def prepare_shapes(pack: dict[str, np.ndarray], place: Path, device: str) -> None:
    """Write the scans into `place`, and the copies in other shapes, made on the device."""
    scans = _scans(pack)
    names, fine = list(scans), list(scans.values())
    for name in pack:
        if name.startswith("field "):
            _, subject, shape = name.split()
            begin = pack[f"begin {subject} {shape}"]
            fine.append(bent(scans[subject].to(device), pack[name], begin).cpu())
            names.append(f"{subject} {shape[-2:]}")
    _write(place, pack, fine, names)


def prepare_folds(pack: dict[str, np.ndarray], place: Path, device: str) -> None:
    """Write the scans, the same at 2 mm, who is in which fold, and what to pre-train on."""
    scans = _scans(pack)
    _write(place, pack, list(scans.values()), list(scans))
    coarse = [halved(both.to(device)).cpu() for both in scans.values()]
    np.save(place / "coarse.npy", torch.stack(coarse).numpy())
    for kind in ("map", "atlas"):
        parts = {name: both for name, both in pack.items() if name.startswith(f"{kind} ")}
        if parts:
            np.save(place / f"{kind}.npy", np.stack(list(parts.values())))
        (place / f"{kind}.json").write_text(json.dumps([name.split()[1] for name in parts]))
    (place / "folds.json").write_text(json.dumps(dict(zip(
        pack["persons"].tolist(), pack["folds"].tolist(), strict=True
    ))))  # fmt: skip


class Store:
    """What ``prepare_…`` wrote, on a device."""

    def __init__(self, place: Path, device: str) -> None:
        self.place, self.device = place, device
        self.names: list[str] = json.loads((place / "names.json").read_text())
        with np.load(place / "tables.npz") as tables:
            self.sagittal, self.swapped = (
                torch.from_numpy(tables[key].astype(np.int64)).to(device)
                for key in ("sagittal", "swapped")
            )
        self.classes = len(self.sagittal)

    def volumes(self, name: str) -> Tensor:
        return torch.from_numpy(np.load(self.place / f"{name}.npy")).to(self.device)

    def listed(self, name: str) -> Any:
        return json.loads((self.place / f"{name}.json").read_text())

    def numbers(self, chosen: Callable[[str, str], bool]) -> list[int]:
        """Of the volumes whose subject and shape ('' for a scan as it is) are chosen."""
        parts = [name.partition(" ") for name in self.names]
        return [k for k, (subject, _, shape) in enumerate(parts) if chosen(subject, shape)]

    def slices(
        self, volumes: Tensor, groups: Sequence, view: str, synthetic: bool = False
    ) -> Slices:
        groups = [(numbers, share) for numbers, share in groups if numbers]
        return Slices(volumes, groups, view, self.sagittal, self.swapped, synthetic)
