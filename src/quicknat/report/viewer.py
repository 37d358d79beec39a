"""Volumes of one scan for the report's interactive viewer, in one script that a page can load."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from quicknat.files import written_whole
from quicknat.images.labels import Protocol
from quicknat.images.volumes import Grid
from quicknat.report.scan_layers import Layers

PERCENTILES = (0.5, 99.5)  # of the image, black and white
# steps between black and white: noise packs badly, and finer steps than these cannot be seen
IMAGE_STEPS, UNCERTAINTY_STEPS, LABEL_STEPS = 64, 32, 255
# Okabe and Ito's colours, told apart with every kind of colour vision
HUES = np.array(
    [
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
    ]
)
PALER = (0.0, 0.4, 0.65)  # share of white in the first, second and third round of the colours
DARKER = 0.68  # a right-hand structure's share of its left twin's colour


def _packed(data: np.ndarray, grid: Grid, low: float, high: float, steps: int) -> str:
    """Base64 of a gzipped NIfTI whose bytes 0 … `steps` stand for `low` … `high`."""
    scaled = np.clip((data.astype(np.float32) - low) * (steps / (high - low)), 0, steps)
    image = nib.Nifti1Image(np.rint(scaled).astype(np.uint8), grid.affine)
    image.header.set_slope_inter((high - low) / steps, low)
    image.header["cal_min"], image.header["cal_max"] = low, high
    # level 9 takes six times as long, for 2 % less
    return base64.b64encode(gzip.compress(image.to_bytes(), 6, mtime=0)).decode("ascii")


def colour_blind_colors(protocol: Protocol) -> np.ndarray:
    """A second set of colours, uint8 (C, 3): neighbours in the table differ, twins share a hue."""
    colors = np.zeros((len(protocol.table), 3))
    used = 0
    for index, partner in enumerate(protocol.partners("coronal")):
        if index == 0:
            continue
        if 0 <= partner < index:
            colors[index] = DARKER * colors[partner]
            continue
        white = PALER[used // len(HUES) % len(PALER)]
        colors[index] = HUES[used % len(HUES)] * (1 - white) + 255 * white
        used += 1
    return np.rint(colors).astype(np.uint8)


def _centres(labels: np.ndarray, affine: np.ndarray) -> dict[int, list[float]]:
    """World position (mm) of the voxel of each class that is nearest to the class's centroid."""
    centres: dict[int, list[float]] = {}
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        voxels = np.argwhere(labels[box] == index) + [part.start for part in box]
        away = apply_affine(affine, voxels) - apply_affine(affine, voxels.mean(axis=0))
        nearest = voxels[np.argmin((away**2).sum(axis=1))]
        centres[index] = apply_affine(affine, nearest).round(2).tolist()
    return centres


def write_viewer_volumes(output: Path, name: str, layers: Layers, protocol: Protocol) -> None:
    """Write a script that calls ``quicknatVolumes({...})`` with what the viewer shows of a scan.

    A page opened from disk may run a script that lies beside it, where it may fetch no file. The
    bytes depend on nothing but the inputs' voxels.

    Args:
        output: the script.
        name: of the scan.
        layers: what to show.
        protocol: names and colours of the classes.
    """
    low, high = (float(value) for value in np.percentile(layers.image, PERCENTILES))
    high = high if high > low else low + 1
    packed = {"image": _packed(layers.image, layers.grid, low, high, IMAGE_STEPS)}
    centres: dict[int, list[float]] = {}
    for key in ("prediction", "reference"):
        labels = getattr(layers, key)
        if labels is not None:  # where the prediction misses a structure, the reference leads there
            packed[key] = _packed(labels, layers.grid, 0, 255, LABEL_STEPS)
            centres = _centres(labels, layers.grid.affine) | centres
    if layers.uncertainty is not None:
        packed["uncertainty"] = _packed(layers.uncertainty, layers.grid, 0, 1, UNCERTAINTY_STEPS)
    structures = [
        {
            "index": index,
            "name": row.name,
            "abbreviation": row.abbreviation,
            "color": color.tolist(),
            "safeColor": safe.tolist(),
            "centre": centres.get(index),
        }
        for index, (row, color, safe) in enumerate(
            zip(
                protocol.table.itertuples(index=False),
                protocol.colors,
                colour_blind_colors(protocol),
                strict=True,
            )
        )
        if index > 0
    ]
    content = {"name": name, **packed, "structures": structures}
    with written_whole(output) as (temporary,):
        temporary.write_text(f"quicknatVolumes({json.dumps(content)});\n", encoding="ascii")
