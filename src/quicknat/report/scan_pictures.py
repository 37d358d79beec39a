"""Draw pictures of one scan: an overlay of three slices, and mosaics with separate layers.

Each layer of a mosaic is a transparent picture over one common image, so that a page can show and
hide it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from nibabel.affines import voxel_sizes
from PIL import Image
from scipy import ndimage

from quicknat.images.labels import Protocol
from quicknat.images.slices import AXIS, VIEWS
from quicknat.report.figures import plt
from quicknat.report.layers import PERCENTILES, Layers

COLUMNS, ROWS = 7, 3
PIXELS_PER_MM = 1.5
AROUND_MM, OVERLAY_AROUND_MM = 6, 15  # margin around the labels
ENDS = (0.03, 0.97)  # position of first and last slice, as fractions of the labelled range
# positions of the overlay's slices; sagittal beside the midline, to show deep structures
CUTS = {"axial": 0.5, "coronal": 0.5, "sagittal": 0.43}
DISAGREEMENT = (216, 27, 96)
UNCERTAIN = 0.05  # lower entropies are not coloured
CROSS = ndimage.generate_binary_structure(2, 1)


def _box(layers: Layers, margin_mm: float) -> tuple[slice, ...]:
    """Return the box of the labels with a margin around it."""
    labelled = layers.prediction > 0
    if layers.reference is not None:
        labelled = labelled | (layers.reference > 0)
    inside = np.argwhere(labelled)
    if not len(inside):
        return tuple(slice(0, n) for n in labelled.shape)
    pad = np.ceil(margin_mm / voxel_sizes(layers.grid.affine)).astype(int)
    # a few stray voxels must not shrink the picture
    low, high = np.percentile(inside, (0.05, 99.95), axis=0).astype(int)
    low, high = np.maximum(low - pad, 0), np.minimum(high + pad + 1, labelled.shape)
    return tuple(slice(int(first), int(last)) for first, last in zip(low, high, strict=True))


def _grey(image: np.ndarray) -> np.ndarray:
    """Return intensities scaled to 0 … 255."""
    low, high = np.percentile(image, PERCENTILES)
    return np.clip((image - low) / max(high - low, 1e-6) * 255, 0, 255)


def overlay_panel(layers: Layers, protocol: Protocol, title: str) -> plt.Figure:
    """Draw slices of the three views: image, reference (if any), prediction.

    The patient's left is on the left of the picture (neurological convention).
    """
    box, zooms = _box(layers, OVERLAY_AROUND_MM), voxel_sizes(layers.grid.affine)
    grey, colors = _grey(layers.image[box]), ListedColormap(protocol.colors / 255)
    columns = {"image": None, "reference": layers.reference, "prediction": layers.prediction}
    if layers.reference is None:
        del columns["reference"]
    size = (3.1 * len(columns), 9.2)
    figure, axes = plt.subplots(3, len(columns), figsize=size, squeeze=False, facecolor="black")
    shown: set[int] = set()
    for (view, cut), row in zip(CUTS.items(), axes, strict=True):
        across, up = np.delete(zooms, AXIS[view])
        number = round(cut * (grey.shape[AXIS[view]] - 1))
        picture = {"origin": "lower", "aspect": up / across}
        for axis, (name, labels) in zip(row, columns.items(), strict=True):
            axis.imshow(grey.take(number, AXIS[view]).T, cmap="gray", vmin=0, vmax=255, **picture)
            if labels is not None:
                classes = labels[box].take(number, AXIS[view]).T
                shown |= set(np.unique(classes).tolist())
                axis.imshow(
                    np.ma.masked_equal(classes, 0), cmap=colors, vmin=-0.5, vmax=colors.N - 0.5,
                    alpha=0.55, interpolation="nearest", **picture,
                )  # fmt: skip
            axis.set_axis_off()
            text = {"color": "white", "transform": axis.transAxes}
            for x, end in zip((0.03, 0.93), "PA" if view == "sagittal" else "LR", strict=True):
                axis.text(x, 0.03, end, fontsize=10, **text,
                          bbox={"facecolor": "black", "pad": 1.5, "linewidth": 0})  # fmt: skip
            if view == "axial":
                axis.set_title(name, color="white", fontsize=11)
            if name == "image":
                axis.text(0.02, 0.95, view, fontsize=8, **text)
    figure.suptitle(title, color="white", y=0.995)
    figure.subplots_adjust(0.01, 0.16, 0.99, 0.95, wspace=0.02, hspace=0.02)
    handles = [Patch(color=colors(k), label=protocol.names[k]) for k in sorted(shown - {0})]
    figure.legend(
        handles=handles, loc="lower center", ncol=4, fontsize=6.5, frameon=False, labelcolor="white"
    )
    return figure


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
    numbers = np.linspace(*ENDS, COLUMNS * ROWS) * (volume.shape[axis] - 1)
    cuts = volume.take(np.rint(numbers).astype(int), axis)
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
    strip.thumbnail((380, 166))
    return strip


def write_mosaics(
    folder: Path, layers: Layers, colors: np.ndarray, safe_colors: np.ndarray
) -> None:
    """Write ``{view}.jpg`` and its layers ``{view}_{layer}.png`` into a folder.

    Layers: ``prediction`` and ``reference``, outlines in the protocol's colours, and ``…_safe`` the
    same in colour-blind-safe colours; ``disagreement`` of the two; ``uncertainty``. Also write
    ``thumbnail.jpg``.

    Args:
        folder: an existing folder.
        layers: data to show.
        colors, safe_colors: uint8 (C, 3).
    """
    box, zooms = _box(layers, AROUND_MM), voxel_sizes(layers.grid.affine)
    grey = _grey(layers.image[box])
    solid = [0] + [255] * (len(colors) - 1)
    steps = np.arange(256) / 255
    heat = matplotlib.colormaps["inferno"](0.3 + 0.7 * steps)[:, :3] * 255
    fade = [int(230 * min(1, 2 * step)) if step >= UNCERTAIN else 0 for step in steps]
    together = []
    for view in VIEWS:
        ground = Image.fromarray(mosaic(grey, view, zooms, False).astype(np.uint8))
        ground.save(folder / f"{view}.jpg", quality=88)
        pictures = {}
        for key in ("prediction", "reference"):
            if (labels := getattr(layers, key)) is not None:
                drawn = mosaic(labels[box], view, zooms, True)
                pictures[key] = _see_through(drawn, colors, solid)
                pictures[f"{key}_safe"] = _see_through(drawn, safe_colors, solid)
        if layers.reference is not None:
            apart = (layers.prediction != layers.reference)[box].astype(np.float32)
            palette = np.array([(0, 0, 0), DISAGREEMENT])
            drawn = mosaic(apart, view, zooms, False) > 0.5
            pictures["disagreement"] = _see_through(drawn, palette, [0, 200])
        if layers.uncertainty is not None:
            drawn = np.clip(mosaic(layers.uncertainty[box], view, zooms, False) * 255, 0, 255)
            pictures["uncertainty"] = _see_through(np.rint(drawn), heat, fade)
        for name, picture in pictures.items():
            picture.save(folder / f"{view}_{name}.png")
        over = pictures["prediction"].convert("RGBA")
        together.append(Image.alpha_composite(ground.convert("RGBA"), over).convert("RGB"))
    _thumbnail(together).save(folder / "thumbnail.jpg", quality=85)
