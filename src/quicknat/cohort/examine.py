"""Look into one image or label map, and say what it is or why it cannot be used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from quicknat.errors import InputError, one_line
from quicknat.images.labels import Protocol
from quicknat.images.volumes import Volume, read_volume

THICK_MM = 2.5  # thinner scans are what the networks are trained on
ALIKE = 0.5  # share of neighbours that are equal: up to 0.1 in T1w scans, 0.9 in label maps
HEAD_MM = (100, 500)  # a field of view outside these limits holds no head, or has wrong units


@dataclass(frozen=True)
class Finding:
    """What a file holds. Plain values only, so that it can be kept as JSON.

    ``problem`` is why it cannot be used ("" if it can); ``shape`` and ``affine`` are its grid's;
    ``content`` is a hash of an image's voxels, the same for every file that holds them.
    """

    problem: str = ""
    warnings: list[str] = field(default_factory=list)
    shape: list[int] = field(default_factory=list)
    affine: list[list[float]] = field(default_factory=list)
    content: str = ""


def explain(error: Exception, path: str | Path) -> str:
    """The error in one line, without the name of the file that the line is about."""
    return one_line(error).removeprefix(f"{path}: ")


def _content(volume: Volume) -> str:
    """SHA-256 of the voxels in RAS+ order.

    Neither compression nor format nor the order of the axes changes it, nor an affine that was
    moved: another origin makes no other head.
    """
    ornt = nib.io_orientation(volume.affine)
    data = np.ascontiguousarray(nib.apply_orientation(volume.data, ornt), dtype=np.float32)
    return hashlib.sha256(f"{data.shape}".encode() + data.data).hexdigest()


def _piecewise_constant(data: np.ndarray) -> bool:
    """Whether most of what is bright equals its neighbour along the first axis."""
    here, there = data[:-1], data[1:]
    bright = np.minimum(here, there) > data.mean()
    return bool(np.count_nonzero(bright & (here == there)) > ALIKE * np.count_nonzero(bright))


def _oddities(volume: Volume) -> list[str]:
    """What is unusual about a scan, though it can be used."""
    sizes = voxel_sizes(volume.affine)
    extent, found = sizes * volume.shape, []
    if sizes.max() > THICK_MM:
        voxel = " × ".join(f"{size:.3g}" for size in sizes)
        found.append(f"voxels of {voxel} mm are thicker than {THICK_MM} mm")
    if extent.min() < HEAD_MM[0] or extent.max() > HEAD_MM[1]:
        found.append(f"the field of view is {' × '.join(f'{mm:.0f}' for mm in extent)} mm")
    if all(_piecewise_constant(np.moveaxis(volume.data, axis, 0)) for axis in range(3)):
        found.append("looks like a label map; those go into the column 'labels'")
    return found


def examine_image(path: Path, orientation: str) -> Finding:
    """Read a T1w scan whole and judge it by itself.

    Args:
        path: the file.
        orientation: direction of the array axes for headers that state none, such as ``LAS``.
    """
    try:
        volume = read_volume(path, orientation)
    except (InputError, OSError) as error:
        return Finding(explain(error, path))
    low = volume.data.min()
    if low == volume.data.max():
        return Finding(f"every voxel is {low:g}; this is not a scan of a head")
    return Finding(
        warnings=_oddities(volume),
        shape=list(volume.shape),
        affine=volume.affine.tolist(),
        content=_content(volume),
    )


def sides_swapped(classes: np.ndarray, affine: np.ndarray, protocol: Protocol) -> bool:
    """Whether most left structures lie to the right of their partners in world space.

    Args:
        classes: class indices of the protocol, (X, Y, Z).
        affine: voxel to world, RAS+ mm.
    """
    voxels = np.nonzero(classes)
    here, total = classes[voxels], len(protocol.names)
    x = sum(affine[0, axis] * index for axis, index in enumerate(voxels))
    counts = np.bincount(here, minlength=total)
    middle = np.bincount(here, weights=x, minlength=total) / np.maximum(counts, 1)
    verdicts = [
        middle[left] > middle[right]
        for left, right in enumerate(protocol.partners("coronal"))
        if right > 0 and protocol.names[left].startswith("Left ") and counts[[left, right]].all()
    ]
    return sum(verdicts) > len(verdicts) / 2


def examine_labels(path: Path, orientation: str, numbering: str, protocol: Protocol) -> Finding:
    """Read a label map whole and judge it by itself, its image left aside.

    Args:
        path: the file.
        orientation: as for :func:`examine_image`.
        numbering: what :meth:`Protocol.remap` takes.
        protocol: the classes that it is to become.
    """
    try:
        volume = read_volume(path, orientation)
        classes = protocol.remap(volume.data, numbering, path)
    except (InputError, OSError) as error:
        return Finding(explain(error, path))
    swapped = sides_swapped(classes, volume.affine, protocol)
    return Finding(
        problem="left and right are swapped; mirror the labels or repair the header"
        if swapped
        else "",
        shape=list(volume.shape),
        affine=volume.affine.tolist(),
    )
