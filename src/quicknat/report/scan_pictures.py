"""Draw pictures of one scan: mosaics of slices with separate layers, and a thumbnail.

Each layer of a mosaic is a transparent picture over one common image, so that a page can show and
hide it. A page shows the tiles of a mosaic one by one, and may mirror them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from PIL import Image
from scipy import ndimage

from quicknat.images.labels import Protocol
from quicknat.images.slices import AXIS, VIEWS
from quicknat.report.layers import PERCENTILES, QUALITY, Layers, surroundings
from quicknat.report.structures import outline_colors

COLUMNS, ROWS = 4, 3
PIXELS_PER_MM = 2.0
AROUND_MM = 14  # margin around the labels
ENDS = (0.08, 0.92)  # position of first and last slice, as fractions of the labelled range
DISAGREEMENT, REFERENCE = (216, 27, 96), (230, 159, 0)
UNCERTAIN = 0.05  # lower entropies are not coloured
UNCERTAINTY_STEPS = 16  # finer ones are invisible, and make the picture large
CROSS = ndimage.generate_binary_structure(2, 1)


def _box(layers: Layers) -> tuple[slice, ...]:
    """Return the box of the labels with a margin around it."""
    labelled = layers.prediction > 0
    if layers.reference is not None:
        labelled = labelled | (layers.reference > 0)
    first, last = surroundings(labelled, AROUND_MM / voxel_sizes(layers.grid.affine))
    return tuple(map(slice, first.tolist(), (last + 1).tolist()))


def _grey(image: np.ndarray) -> np.ndarray:
    """Return intensities scaled to 0 … 255."""
    low, high = np.percentile(image, PERCENTILES)
    return np.clip((image - low) / max(high - low, 1e-6) * 255, 0, 255)


def _outlines(labels: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return the outlines of the structures of an enlarged slice, one pixel wide; 0 elsewhere.

    Outlines are smooth: each class's indicator is interpolated, and the largest wins.
    """
    present = np.unique(labels)
    indicators = [ndimage.zoom((labels == k).astype(np.float32), factors, order=1) for k in present]
    large = present[np.argmax(indicators, axis=0)]
    low, high = (
        extreme(large, footprint=CROSS, mode="nearest")
        for extreme in (ndimage.minimum_filter, ndimage.maximum_filter)
    )
    return np.where(low != high, large, 0)


def _cuts(n: int) -> np.ndarray:
    """Return the indices of the slices to show, of `n`."""
    return np.rint(np.linspace(*ENDS, COLUMNS * ROWS) * (n - 1)).astype(int)


def _positions(affine: np.ndarray, box: tuple[slice, ...], view: str) -> list[int]:
    """Return the world coordinates (mm) of a mosaic's slices, at the middle of each."""
    axis = AXIS[view]
    middle = np.array([(part.start + part.stop - 1) / 2 for part in box])
    voxels = np.tile(middle, (COLUMNS * ROWS, 1))
    voxels[:, axis] = box[axis].start + _cuts(box[axis].stop - box[axis].start)
    return [round(float(mm)) for mm in apply_affine(affine, voxels)[:, axis]]


def mosaic(volume: np.ndarray, view: str, zooms: np.ndarray, classes: bool) -> np.ndarray:
    """Tile evenly spaced slices of one view, superior (axial: anterior) up.

    Args:
        volume: RAS+ axes, cropped to the box to show.
        view: coronal, axial or sagittal.
        zooms: voxel sizes in mm.
        classes: whether `volume` holds class indices, to draw as outlines.
    """
    axis = AXIS[view]
    factors = np.delete(zooms, axis) * PIXELS_PER_MM
    cuts = volume.take(_cuts(volume.shape[axis]), axis)
    drawn = [
        (_outlines(cut, factors) if classes else ndimage.zoom(cut, factors, order=1)).T[::-1]
        for cut in np.moveaxis(cuts, axis, 0)
    ]
    return np.block([drawn[first : first + COLUMNS] for first in range(0, len(drawn), COLUMNS)])


def _see_through(indices: np.ndarray, colors: np.ndarray, alpha: Sequence[int]) -> Image.Image:
    """Return a picture of `indices` (uint8) in these colours, each with an opacity 0 … 255."""
    picture = Image.fromarray(indices.astype(np.uint8), mode="P")
    picture.putpalette(colors.astype(np.uint8).tobytes())
    picture.info["transparency"] = bytes(alpha)
    return picture


def _thumbnail(mosaics: Sequence[Image.Image]) -> Image.Image:
    """Return the middle slices of the mosaics, side by side."""
    sizes = [(one.width // COLUMNS, one.height // ROWS) for one in mosaics]
    strip = Image.new("RGB", (sum(w for w, _ in sizes), max(h for _, h in sizes)))
    at = 0
    for one, (width, height) in zip(mosaics, sizes, strict=True):
        left, top = width * (COLUMNS // 2), height * (ROWS // 2)
        cell = one.crop((left, top, left + width, top + height))
        strip.paste(cell, (at, (strip.height - height) // 2))
        at += width
    strip.thumbnail((760, 332))
    return strip


def write_mosaics(folder: Path, layers: Layers, protocol: Protocol) -> None:
    """Write ``{view}.webp`` and its layers ``{view}_{layer}.png`` into an existing folder.

    Layers: ``prediction``, outlines in the protocol's colours, and ``prediction_safe``, the same in
    colour-blind-safe colours; ``reference``, outlines in one colour; ``disagreement`` of the two;
    ``uncertainty``. Also write ``thumbnail.jpg``, and ``tiles.json``: columns, width and height
    (px) and the slices' positions (mm) of each view's tiles.
    """
    colors, safe_colors = outline_colors(protocol)
    box, zooms = _box(layers), voxel_sizes(layers.grid.affine)
    grey = _grey(layers.image[box])
    solid = [0] + [255] * (len(colors) - 1)
    steps = np.arange(UNCERTAINTY_STEPS + 1) / UNCERTAINTY_STEPS
    heat = matplotlib.colormaps["inferno"](0.3 + 0.7 * steps)[:, :3] * 255
    fade = [int(min(230, 255 * step)) if step >= UNCERTAIN else 0 for step in steps]
    together, tiles = [], {}
    for view in VIEWS:
        ground = Image.fromarray(mosaic(grey, view, zooms, False).astype(np.uint8))
        ground.save(folder / f"{view}.webp", quality=QUALITY)
        tiles[view] = {
            "columns": COLUMNS,
            "rows": ROWS,
            "width": ground.width // COLUMNS,
            "height": ground.height // ROWS,
            "positions_mm": _positions(layers.grid.affine, box, view),
        }
        pictures = {}
        drawn = mosaic(layers.prediction[box], view, zooms, True)
        pictures["prediction"] = _see_through(drawn, colors, solid)
        pictures["prediction_safe"] = _see_through(drawn, safe_colors, solid)
        if layers.reference is not None:
            drawn = mosaic(layers.reference[box], view, zooms, True) > 0
            pictures["reference"] = _see_through(drawn, np.array([(0, 0, 0), REFERENCE]), [0, 255])
            apart = (layers.prediction != layers.reference)[box].astype(np.float32)
            palette = np.array([(0, 0, 0), DISAGREEMENT])
            drawn = mosaic(apart, view, zooms, False) > 0.5
            pictures["disagreement"] = _see_through(drawn, palette, [0, 200])
        if layers.uncertainty is not None:
            drawn = np.clip(mosaic(layers.uncertainty[box], view, zooms, False), 0, 1)
            pictures["uncertainty"] = _see_through(np.rint(drawn * UNCERTAINTY_STEPS), heat, fade)
        for name, picture in pictures.items():
            picture.save(folder / f"{view}_{name}.png", optimize=True)
        over = pictures["prediction"].convert("RGBA")
        together.append(Image.alpha_composite(ground.convert("RGBA"), over).convert("RGB"))
    _thumbnail(together).save(folder / "thumbnail.jpg", quality=85)
    (folder / "tiles.json").write_text(json.dumps(tiles) + "\n", "utf-8")
