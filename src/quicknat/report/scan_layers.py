"""One scan as the report shows it: the original image and what was found, around the brain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from quicknat.images.conform import darkest, load_conformed
from quicknat.images.resampling import canonical, resample, resample_labels
from quicknat.images.volumes import Grid, Volume, read_volume, require_same_grid

MARGIN_MM = 25  # of head around the brain
SPACING_MM = 1.0  # finer voxels would make the page heavy, and the eye does not miss them here
AS_GOOD_AS_1_MM = 0.9  # such voxels stay: resampling would blur them and save little


@dataclass(frozen=True)
class Layers:
    """Arrays of the same shape on `grid`, whose axes are near RAS+.

    ``image`` float32 in the scan's own units; ``prediction`` and ``reference`` uint8 class indices;
    ``uncertainty`` float32 0 … 1. The last two may be None.
    """

    grid: Grid
    image: np.ndarray
    prediction: np.ndarray
    reference: np.ndarray | None
    uncertainty: np.ndarray | None


def viewing_grid(labels: Volume) -> Grid:
    """Where a scan is shown: around what is labelled, in voxels not much finer than 1 mm.

    Args:
        labels: label map with axes near RAS+; all of its grid is shown if it is empty.
    """
    zooms = voxel_sizes(labels.affine)
    low, high = np.zeros(3), np.array(labels.shape) - 1.0
    inside = np.argwhere(labels.data > 0)
    if len(inside):
        pad = np.ceil(MARGIN_MM / zooms)
        low = np.maximum(low, inside.min(axis=0) - pad)
        high = np.minimum(high, inside.max(axis=0) + pad)
    step = np.where(zooms < AS_GOOD_AS_1_MM, SPACING_MM / zooms, 1.0)
    shape = np.ceil((high - low + 1) / step - 1e-6).astype(int)
    # outer faces, not centres, of the first voxels coincide
    first = low - 0.5 + step / 2
    affine = labels.affine @ nib.affines.from_matvec(np.diag(step), first)
    x, y, z = (int(n) for n in shape)
    return Grid((x, y, z), affine)


def load_layers(
    scan: Path, prediction: Path, reference: Path | None, uncertainty: Path | None
) -> Layers:
    """Read a scan and what belongs to it, and bring all of it to the grid where it is shown.

    Args:
        scan: the conformed scan; its sidecar says where the original image is.
        prediction, reference: label maps on the original's grid; the reference may be None.
        uncertainty: entropy 0 … 1 on the same grid, or None.

    Raises:
        InputError: a file is missing or damaged, or lies on another grid than the image.
    """
    _, _, record = load_conformed(scan)
    image = read_volume(record["source"], record["orientation"])
    given = {"prediction": prediction, "reference": reference, "uncertainty": uncertainty}
    layers = {key: read_volume(path) for key, path in given.items() if path is not None}
    for layer in layers.values():
        require_same_grid(layer.path, layer, Grid(image.shape, image.affine))
    grid = viewing_grid(canonical(layers["prediction"]))

    def shown(key: str) -> np.ndarray:
        if key == "uncertainty":
            return resample(layers[key], grid).astype(np.float32)
        return resample_labels(layers[key], grid).astype(np.uint8)

    arrays = {key: shown(key) for key in layers}
    return Layers(
        grid, resample(image, grid, outside=darkest(image)).astype(np.float32),
        arrays["prediction"], arrays.get("reference"), arrays.get("uncertainty"),
    )  # fmt: skip
