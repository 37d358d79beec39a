"""Load the layers of one scan (image, labels, uncertainty), and pack them for the viewer."""

from __future__ import annotations

import base64
import gzip
import io
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from PIL import Image
from scipy import ndimage

from quicknat.files import written_whole
from quicknat.images.conform import darkest, load_conformed
from quicknat.images.labels import Protocol, freesurfer_structures
from quicknat.images.resampling import canonical, resample, resample_labels
from quicknat.images.volumes import Grid, Volume, as_bytes, on_grid, read_scan, read_volume
from quicknat.report.structures import GROUPS, colour_blind_colors, outline_colors

MARGIN_MM = 12  # of head around the brain
SPACING_MM = 1.0  # finer voxels make the page large, with no visible gain
AS_GOOD_AS_1_MM = 0.9  # larger voxels are kept: resampling would blur them and save little
PERCENTILES = (0.5, 99.5)  # of intensity, shown black and white
QUALITY = 75  # of WebP; noise makes the same voxels four times as large without loss
HEADER = 352  # bytes of a NIfTI file before its voxels


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


def surroundings(labelled: np.ndarray, margin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return first and last voxel of the box around what is labelled, or of all if nothing is.

    The margin is in voxels, by axis.
    """
    end = np.array(labelled.shape) - 1
    inside = np.argwhere(labelled)
    if not len(inside):
        return np.zeros_like(end), end
    pad = np.ceil(margin).astype(int)
    return np.maximum(inside.min(axis=0) - pad, 0), np.minimum(inside.max(axis=0) + pad, end)


def viewing_grid(labels: Volume) -> Grid:
    """Return the grid to show: around the labels, with voxels not much finer than 1 mm.

    The label map has axes near RAS+; if it is empty, its whole grid is shown.
    """
    zooms = voxel_sizes(labels.affine)
    low, high = surroundings(labels.data > 0, MARGIN_MM / zooms)
    step = np.where(zooms < AS_GOOD_AS_1_MM, SPACING_MM / zooms, 1.0)
    x, y, z = np.ceil((high - low + 1) / step - 1e-6).astype(int).tolist()
    # the outer faces of the first voxels coincide, not their centres
    first = low - 0.5 + step / 2
    return Grid((x, y, z), labels.affine @ nib.affines.from_matvec(np.diag(step), first))


def _classes(path: Path, image: Volume) -> Volume:
    labels = on_grid(read_volume(path), image)
    return replace(labels, data=as_bytes(labels, 255))


def load_layers(
    scan: Path, prediction: Path, reference: Path | None, uncertainty: Path | None
) -> Layers:
    """Read a scan and its layers, and resample them to the grid to show.

    Args:
        scan: the conformed scan; its sidecar says where the original image is.
        prediction, reference: label maps on the original's grid; the reference may be None.
        uncertainty: entropy 0 … 1 on the same grid, or None.

    Raises:
        InputError: a file is missing, damaged, or not on the image's grid.
    """
    _, _, record = load_conformed(scan)
    image = read_scan(record["source"], record["orientation"])
    labels = _classes(prediction, image)
    truth = _classes(reference, image) if reference else None
    entropy = on_grid(read_volume(uncertainty), image) if uncertainty else None
    grid = viewing_grid(canonical(labels))
    return Layers(
        grid,
        resample(image, grid, outside=darkest(image)).astype(np.float32),
        resample_labels(labels, grid),
        resample_labels(truth, grid) if truth else None,
        resample(entropy, grid).astype(np.float32) if entropy else None,
    )


def _nifti(data: np.ndarray, grid: Grid, low: float, high: float) -> bytes:
    """Return bytes 0 … 255, which mean `low` … `high`, as a NIfTI file."""
    image = nib.Nifti1Image(data, grid.affine)
    image.header.set_slope_inter((high - low) / 255, low)
    image.header["cal_min"], image.header["cal_max"] = low, high
    return image.to_bytes()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _packed(labels: np.ndarray, grid: Grid) -> str:
    """Return a label map as a gzipped NIfTI in base64."""
    # level 9 takes six times as long, and saves 2 %
    return _text(gzip.compress(_nifti(labels, grid, 0, 255), 6, mtime=0))


def _tiled(data: np.ndarray, grid: Grid, low: float, high: float) -> dict[str, str | int]:
    """Return an image as a NIfTI header and its axial slices, tiled in a WebP picture with loss."""
    scaled = np.clip((data.astype(np.float32) - low) * (255 / (high - low)), 0, 255)
    voxels = np.rint(scaled).astype(np.uint8)
    nx, ny, nz = voxels.shape
    columns = math.ceil(math.sqrt(nz * ny / nx))  # about a square
    rows = math.ceil(nz / columns)
    tiles = np.zeros((rows * columns, ny, nx), np.uint8)
    tiles[:nz] = voxels.T
    sheet = tiles.reshape(rows, columns, ny, nx).swapaxes(1, 2).reshape(rows * ny, columns * nx)
    picture = io.BytesIO()
    Image.fromarray(sheet).save(picture, "WEBP", quality=QUALITY)
    header = _nifti(voxels, grid, low, high)[:HEADER]
    return {"header": _text(header), "tiles": _text(picture.getvalue()), "columns": columns}


def _centres(labels: np.ndarray, affine: np.ndarray) -> dict[int, list[float]]:
    """Return the world position (mm) of the voxel nearest to each class's centroid."""
    centres: dict[int, list[float]] = {}
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            voxels = np.argwhere(labels[box] == index) + [part.start for part in box]
            positions = apply_affine(affine, voxels)
            away = ((positions - positions.mean(axis=0)) ** 2).sum(axis=1)
            centres[index] = positions[np.argmin(away)].round(2).tolist()
    return centres


def write_viewer_volumes(output: Path, name: str, layers: Layers, protocol: Protocol) -> None:
    """Write a script that calls ``quicknatVolumes({...})`` with a scan's layers for the viewer.

    A page opened from disk can run scripts beside it, but not fetch files. Image and uncertainty
    are compressed without visible loss; label maps are exact. The bytes depend only on the voxels
    of the inputs.
    """
    low, high = (float(value) for value in np.percentile(layers.image, PERCENTILES))
    high = high if high > low else low + 1
    packed: dict[str, object] = {"image": _tiled(layers.image, layers.grid, low, high)}
    centres: dict[int, list[float]] = {}
    for key in ("prediction", "reference"):
        labels = getattr(layers, key)
        if labels is not None:  # the reference locates structures that the prediction misses
            packed[key] = _packed(labels, layers.grid)
            centres = _centres(labels, layers.grid.affine) | centres
    if layers.uncertainty is not None:
        packed["uncertainty"] = _tiled(layers.uncertainty, layers.grid, 0, 1)
    outline, safe_outline = outline_colors(protocol)
    cerebrum, _ = GROUPS["Cerebrum"]  # it hides the rest in 3-D
    structures = protocol.table[["index", "name"]].assign(
        color=protocol.colors.tolist(),
        safeColor=colour_blind_colors(protocol).tolist(),
        outline=outline.tolist(),
        safeOutline=safe_outline.tolist(),
        outer=freesurfer_structures(protocol)["freesurfer_id"].isin(cerebrum).tolist(),
        centre=[centres.get(index) for index in range(len(protocol.table))],
    )
    content = {"name": name, **packed, "structures": structures[1:].to_dict("records")}
    with written_whole(output) as (temporary,):
        temporary.write_text(f"quicknatVolumes({json.dumps(content)});\n", encoding="ascii")
