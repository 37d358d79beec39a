"""Cut volumes into stacks of 2-D slices in the three views, and read the stacks."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np

from quicknat.errors import InputError
from quicknat.files import written_whole
from quicknat.images.labels import Protocol

log = logging.getLogger(__name__)

VIEWS = ("coronal", "axial", "sagittal")
AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}  # the RAS+ axis perpendicular to each view
# fraction of labelled pixels below which slices are not used for training; the authors drop slices
# with 99 % background or more
MIN_FOREGROUND = 0.01
MIN_OF_LARGEST = 0.1  # for small structures: a tenth of the fullest slice


def to_slices(volume: np.ndarray, view: str) -> np.ndarray:
    """Return a RAS+ volume (X, Y, Z) as slices (n, H, W), without a copy.

    Sagittal slices are (Y, Z), coronal (X, Z), axial (X, Y).
    """
    return np.moveaxis(volume, AXIS[view], 0)


def crop(volume: np.ndarray, start: tuple[int, int, int], size: int) -> np.ndarray:
    """Return the cube of `size` voxels that begins at `start`."""
    return volume[tuple(slice(first, first + size) for first in start)]


def filled_enough(classes: np.ndarray) -> np.ndarray:
    """Return which slices of classes (n, H, W) have enough labelled pixels for training, bool."""
    fractions = (classes > 0).mean(axis=(1, 2))
    return fractions > min(MIN_FOREGROUND, MIN_OF_LARGEST * fractions.max(initial=0))


def view_stack(
    image: np.ndarray, labels: np.ndarray, view: str, protocol: Protocol
) -> tuple[np.ndarray, list[int]]:
    """Return the training slices of one view; sagittal ones have merged classes.

    Args:
        image: uint8 (S, S, S), RAS+, S a multiple of 16.
        labels: uint8 class indices of `protocol`, same shape.

    Returns:
        uint8 stack (n, 2, S, S) with image and class index as channels, and the numbers of the
        slices kept, counted in the cropped volume.
    """
    images, classes = to_slices(image, view), to_slices(labels, view)
    filled = np.flatnonzero(filled_enough(classes))
    # without gaps, so that a slice's neighbours are beside it
    kept = np.arange(filled[0], filled[-1] + 1) if len(filled) else filled
    classes = classes[kept]
    if view == "sagittal":
        classes = protocol.sagittal.astype(np.uint8)[classes]
    return np.stack([images[kept], classes], axis=1), kept.tolist()


def write_stacks(
    image: np.ndarray,
    labels: np.ndarray,
    start: tuple[int, int, int],
    size: int,
    protocol: Protocol,
    folder: Path,
    name: str,
) -> None:
    """Write ``folder/{view}/{name}.npy`` of a conformed scan, and ``folder/{name}.json``.

    The JSON holds the window (`start`, `size`), the number of labelled voxels outside it, and the
    slices kept. Image and labels are as for :func:`view_stack`, before cropping.
    """
    image, cropped = crop(image, start, size), crop(labels, start, size)
    lost = int((labels > 0).sum() - (cropped > 0).sum())
    files = [folder / view / f"{name}.npy" for view in VIEWS] + [folder / f"{name}.json"]
    kept: dict[str, list[int]] = {}
    with written_whole(*files) as temporaries:
        for view, temporary in zip(VIEWS, temporaries[:-1], strict=True):
            stack, kept[view] = view_stack(image, cropped, view, protocol)
            np.save(temporary, stack)
        numbers = {"window_start": start, "size": size, "labelled_voxels_outside": lost}
        temporaries[-1].write_text(json.dumps({**numbers, "kept": kept}) + "\n", "utf-8")
    if lost:
        log.warning("%s: %d labelled voxels lie outside the slices", name, lost)
    counts = ", ".join(f"{len(kept[view])} {view}" for view in VIEWS)
    log.info("%s: %s slices", name, counts)


def open_stack(path: str | Path) -> np.ndarray:
    """Memory-map a view stack.

    Raises:
        InputError: the file is not an ``(n, 2, H, W)`` uint8 array with sides divisible by 16.
    """
    if not Path(path).exists():
        raise InputError(path, "no such file", "check the path")
    try:
        stack = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises many kinds for damaged headers
        raise InputError(path, f"is not a view stack ({error})", "delete it and rerun") from error
    if stack.ndim != 4 or stack.shape[1] != 2 or stack.dtype != np.uint8:
        raise InputError(
            path, f"is not a view stack: {stack.shape} {stack.dtype}", "delete it and rerun"
        )
    if stack.shape[2] % 16 or stack.shape[3] % 16:
        raise InputError(path, f"slices are {stack.shape[2:]}", "sides must be multiples of 16")
    return stack
