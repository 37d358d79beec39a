"""Volumes of one scan for the report's interactive viewer, in one script that a page can load."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

from quicknat.conform import load_conformed, resample
from quicknat.errors import written_whole
from quicknat.labels import Protocol
from quicknat.volumes import Grid, Volume, read_volume, require_same_grid

MARGIN_MM = 25  # of head around the brain
SPACING_MM = 1.0  # finer voxels would make the page heavy, and the eye does not miss them here
AS_GOOD_AS_1_MM = 0.9  # such voxels stay: resampling would blur them and save little
PERCENTILES = (0.5, 99.5)  # of the image, black and white
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


def _canonical(volume: Volume) -> Volume:
    """The same voxels with axes as near to RAS+ as flips and swaps take them."""
    turn = nib.orientations.io_orientation(volume.affine)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(turn, volume.shape)
    return Volume(nib.orientations.apply_orientation(volume.data, turn), affine, volume.path)


def viewer_grid(labels: Volume) -> Grid:
    """Where the viewer shows a scan: around what is labelled, in voxels not much finer than 1 mm.

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
    return Grid(tuple(int(n) for n in shape), affine)


def _packed(data: np.ndarray, grid: Grid, low: float, high: float) -> str:
    """Base64 of a gzipped NIfTI whose bytes 0 … 255 stand for `low` … `high`."""
    scaled = np.clip((data.astype(np.float32) - low) * (255 / (high - low)), 0, 255)
    image = nib.Nifti1Image(np.rint(scaled).astype(np.uint8), grid.affine)
    image.header.set_slope_inter((high - low) / 255, low)
    image.header["cal_min"], image.header["cal_max"] = low, high
    return base64.b64encode(gzip.compress(image.to_bytes(), mtime=0)).decode("ascii")


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
    centres = {}
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        voxels = np.argwhere(labels[box] == index) + [part.start for part in box]
        away = apply_affine(affine, voxels) - apply_affine(affine, voxels.mean(axis=0))
        nearest = voxels[np.argmin((away**2).sum(axis=1))]
        centres[index] = apply_affine(affine, nearest).round(2).tolist()
    return centres


def write_viewer_volumes(
    output: Path,
    name: str,
    scan: Path,
    prediction: Path,
    reference: Path | None,
    uncertainty: Path | None,
    protocol: Protocol,
) -> None:
    """Write a script that calls ``quicknatVolumes({...})`` with what the viewer shows of a scan.

    A page opened from disk may run a script that lies beside it, where it may fetch no file. The
    bytes depend on nothing but the inputs' voxels.

    Args:
        output: the script.
        name: of the scan.
        scan: the conformed scan; its sidecar says where the original image is.
        prediction, reference: label maps (classes of `protocol`) on the original's grid.
        uncertainty: entropy 0 … 1 on the same grid; this and the reference may be None.
        protocol: names and colours of the classes.

    Raises:
        InputError: a file is missing or damaged, or lies on another grid than the image.
    """
    _, _, record = load_conformed(scan)
    image = read_volume(record["source"], record["source_orientation"])
    paths = {"prediction": prediction, "reference": reference, "uncertainty": uncertainty}
    layers = {key: read_volume(path) for key, path in paths.items() if path is not None}
    for layer in layers.values():
        require_same_grid(layer.path, layer, Grid(image.shape, image.affine))
    grid = viewer_grid(_canonical(layers["prediction"]))
    packed, centres = {}, {}
    shown = resample(_canonical(image), grid, order=1)
    low, high = (float(value) for value in np.percentile(shown, PERCENTILES))
    packed["image"] = _packed(shown, grid, low, high if high > low else low + 1)
    for key, layer in layers.items():
        order = 1 if key == "uncertainty" else 0
        shown = resample(_canonical(layer), grid, order)
        packed[key] = _packed(shown, grid, 0, 1 if order else 255)
        if not order:  # where the prediction misses a structure, the reference leads to it
            centres = _centres(shown.astype(np.uint8), grid.affine) | centres
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
