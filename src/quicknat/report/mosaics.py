"""Mosaics of a scan in its three views: the image, and see-through pictures to lay over it.

A layer is a picture of its own, so that a page can show and hide it, and so that one image serves
them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from nibabel.affines import voxel_sizes
from PIL import Image
from scipy import ndimage

from quicknat.images.slices import AXIS, VIEWS
from quicknat.report.scan_layers import Layers

COLUMNS, ROWS = 7, 3
PIXELS_PER_MM = 1.5
AROUND_MM = 6  # of head around what is labelled
ENDS = (0.03, 0.97)  # of the labelled range along the cut axis, where the first and last slices lie
DISAGREEMENT = (216, 27, 96)
UNCERTAIN = 0.05  # entropy below is not coloured


def _enlarged(labels: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """A slice of classes with smooth outlines: each class's share is interpolated, most wins."""
    present = np.unique(labels)
    shares = [ndimage.zoom((labels == k).astype(np.float32), factors, order=1) for k in present]
    return present[np.argmax(shares, axis=0)]


def _outlines(labels: np.ndarray) -> np.ndarray:
    """Classes at the rim of each structure, one pixel wide; 0 elsewhere."""
    padded = np.pad(labels, 1, mode="edge")
    inner = padded[1:-1, 1:-1]
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.where(np.any([inner != other for other in neighbours], axis=0), inner, 0)


def _box(layers: Layers) -> list[slice]:
    labelled = layers.prediction > 0
    if layers.reference is not None:
        labelled = labelled | (layers.reference > 0)
    inside = np.argwhere(labelled)
    if not len(inside):
        return [slice(0, n) for n in labelled.shape]
    pad = np.ceil(AROUND_MM / voxel_sizes(layers.grid.affine)).astype(int)
    # a few voxels astray must not make all else small
    low, high = np.percentile(inside, (0.05, 99.95), axis=0).astype(int)
    low, high = np.maximum(low - pad, 0), np.minimum(high + pad + 1, labelled.shape)
    return [slice(int(first), int(last)) for first, last in zip(low, high, strict=True)]


def mosaic(volume: np.ndarray, view: str, zooms: np.ndarray, classes: bool) -> np.ndarray:
    """Evenly spread slices of one view, side by side: rows from superior (axial: anterior) down.

    Args:
        volume: RAS+ axes, cut to what is to be shown.
        view: coronal, axial or sagittal.
        zooms: voxel sides in mm.
        classes: whether `volume` holds class indices (outlines are drawn then).
    """
    axis = AXIS[view]
    factors = np.delete(zooms, axis) * PIXELS_PER_MM
    last = volume.shape[axis] - 1
    numbers = np.rint(np.linspace(ENDS[0] * last, ENDS[1] * last, COLUMNS * ROWS)).astype(int)
    cells = []
    for number in numbers:
        cut = np.take(volume, number, axis=axis)
        cut = _outlines(_enlarged(cut, factors)) if classes else ndimage.zoom(cut, factors, order=1)
        cells.append(cut.T[::-1])
    return np.vstack([np.hstack(cells[row * COLUMNS :][:COLUMNS]) for row in range(ROWS)])


def _see_through(indices: np.ndarray, colors: np.ndarray, alpha: Sequence[int]) -> Image.Image:
    """Picture of `indices` (uint8) in these colours, each with its opacity 0 … 255."""
    picture = Image.fromarray(indices.astype(np.uint8), mode="P")
    picture.putpalette(colors.astype(np.uint8).tobytes())
    picture.info["transparency"] = bytes(alpha)
    return picture


def _thumbnail(cells: Sequence[Image.Image]) -> Image.Image:
    """The middle slice of each mosaic, side by side."""
    middle = []
    for cell in cells:
        width, height = cell.width // COLUMNS, cell.height // ROWS
        left, top = width * (COLUMNS // 2), height * (ROWS // 2)
        middle.append(cell.crop((left, top, left + width, top + height)))
    strip = Image.new("RGB", (sum(c.width for c in middle), max(c.height for c in middle)))
    left = 0
    for cell in middle:
        strip.paste(cell, (left, (strip.height - cell.height) // 2))
        left += cell.width
    strip.thumbnail((380, 166))
    return strip


def write_mosaics(
    folder: Path, layers: Layers, colors: np.ndarray, safe_colors: np.ndarray
) -> None:
    """Write ``{view}.jpg`` and its layers ``{view}_{layer}.png`` into a folder.

    Layers: ``prediction`` and ``reference``, outlines in the protocol's colours, and ``…_safe`` the
    same in colours for every eye; ``disagreement`` of the two; ``uncertainty``. Beside them, a
    ``thumbnail.jpg``.

    Args:
        folder: exists.
        layers: what to show.
        colors, safe_colors: uint8 (C, 3).
    """
    box, zooms = tuple(_box(layers)), voxel_sizes(layers.grid.affine)
    image = layers.image[box]
    low, high = np.percentile(image, (0.5, 99.5))
    grey = np.clip((image - low) / max(high - low, 1e-6) * 255, 0, 255)
    solid = [0] + [255] * (len(colors) - 1)
    steps = np.arange(256) / 255
    heat = matplotlib.colormaps["inferno"](0.3 + 0.7 * steps)[:, :3] * 255
    fade = [int(230 * min(1, 2 * step)) if step >= UNCERTAIN else 0 for step in steps]
    together = []
    for view in VIEWS:
        ground = Image.fromarray(mosaic(grey, view, zooms, False).astype(np.uint8))
        ground.save(folder / f"{view}.jpg", quality=88)
        for key in ("prediction", "reference"):
            labels = getattr(layers, key)
            if labels is None:
                continue
            drawn = mosaic(labels[box], view, zooms, True)
            for ending, palette in (("", colors), ("_safe", safe_colors)):
                path = folder / f"{view}_{key}{ending}.png"
                _see_through(drawn, palette, solid).save(path)
            if key == "prediction":
                over = _see_through(drawn, colors, solid).convert("RGBA")
                together.append(Image.alpha_composite(ground.convert("RGBA"), over).convert("RGB"))
        if layers.reference is not None:
            apart = (layers.prediction != layers.reference)[box].astype(np.float32)
            drawn = mosaic(apart, view, zooms, False) > 0.5
            palette = np.array([(0, 0, 0), DISAGREEMENT])
            _see_through(drawn, palette, [0, 200]).save(folder / f"{view}_disagreement.png")
        if layers.uncertainty is not None:
            drawn = np.clip(mosaic(layers.uncertainty[box], view, zooms, False) * 255, 0, 255)
            _see_through(np.rint(drawn), heat, fade).save(folder / f"{view}_uncertainty.png")
    _thumbnail(together).save(folder / "thumbnail.jpg", quality=85)
