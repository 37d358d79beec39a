"""Convert label maps to tissues, from which images are synthesized.

Each tissue has one intensity per image. Left and right of a structure are one tissue, so that
images cannot distinguish them. Columns of ``tissues.tsv``: ``index`` (0 is air), ``name``,
``region`` (air, brain, csf, outside), ``t1w`` (usual intensity in a conformed T1w scan, 0 … 255:
medians over four public heads and four of MALC, rounded estimates for tissues without labels there,
empty if it varies), and label values in ``freesurfer`` (with the values from 500 that SynthSeg uses
outside the brain) and ``neuromorphometrics``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.cluster.vq import kmeans2

from quicknat.errors import InputError
from quicknat.images.conform import conformed_grid, load_conformed
from quicknat.images.labels import CONVENTIONS, Protocol, parse_ids
from quicknat.images.resampling import resample_labels
from quicknat.images.training_stats import BRIGHT
from quicknat.images.volumes import Volume, whole_numbers
from quicknat.package_data import DATA

SPLIT = ("Outside, dark", "Outside, middle", "Outside, bright")


@cache
def tissue_table() -> pd.DataFrame:
    """Return the table of tissues, one row each, in the order of their indices."""
    table = pd.read_csv(DATA / "tissues.tsv", sep="\t", dtype=str, keep_default_na=False)
    return table.assign(t1w=pd.to_numeric(table["t1w"], errors="coerce"))


def _known(convention: str, protocol: Protocol) -> dict[int, int]:
    """Return the tissue of each label value of a convention."""
    column = convention if convention in CONVENTIONS else "freesurfer"
    lists = map(parse_ids, tissue_table()[column])
    known = {number: tissue for tissue, numbers in enumerate(lists) for number in numbers}
    if convention in CONVENTIONS:
        return known
    # the file holds class indices
    numbers = [[0], *map(parse_ids, protocol.table["freesurfer"][1:])]
    return {index: known[ids[0]] for index, ids in enumerate(numbers) if ids and ids[0] in known}


def to_tissues(
    labels: np.ndarray, convention: str, protocol: Protocol, where: str | Path
) -> np.ndarray:
    """Map label values to tissue indices, uint8, same shape.

    Args:
        labels: label values, see :func:`quicknat.images.volumes.whole_numbers`.
        convention: ``freesurfer``, ``neuromorphometrics``, or the protocol's own name.
        protocol: used for its own convention only.
        where: file named in error messages.

    Raises:
        InputError: a value belongs to no tissue.
    """
    known = _known(convention, protocol)
    values, inverse = np.unique(whole_numbers(labels, where), return_inverse=True)
    strange = [int(value) for value in values if int(value) not in known]
    if strange:
        problem = f"label value {strange[0]} ({convention}) belongs to no tissue"
        raise InputError(where, problem, "leave the map out of synthetic pre-training")
    lookup = np.array([known[int(value)] for value in values], dtype=np.uint8)
    return lookup[inverse].reshape(labels.shape)


def split_outside(tissues: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Assign bright unlabelled voxels to one of three tissues, by intensity.

    Thus heads have skull, fat and muscle even if only the brain is labelled. The image is a uint8
    conformed scan on the grid of the tissue indices (X, Y, Z); the result has their shape.
    """
    smooth = ndimage.median_filter(image, size=3)  # to obtain patches rather than noise
    outside = (tissues == 0) & (smooth > BRIGHT)
    values = smooth[outside].astype(float)
    first = tissue_table()["name"].tolist().index(SPLIT[0])
    result = tissues.copy()
    if len(np.unique(values)) > len(SPLIT):
        starts = np.percentile(values, (15, 50, 85))
        centres, _ = kmeans2(values[:: max(1, len(values) // 20_000)], starts, minit="matrix")
        borders = (np.sort(centres)[1:] + np.sort(centres)[:-1]) / 2
        result[outside] = first + np.searchsorted(borders, values)
    return result


def conformed_tissues(
    labels: Volume,
    convention: str,
    protocol: Protocol,
    spacing_mm: float,
    size: int,
    scan: Path | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tissues and classes of a label map on the conformed grid.

    Args:
        labels: label values on any grid.
        convention: their label convention, see :meth:`Protocol.remap`.
        protocol: the classes.
        spacing_mm, size: of the grid, if there is no scan.
        scan: the conformed scan of these labels, if any: defines the grid, and shows the tissues
            outside the brain.

    Returns:
        Tissue indices, class indices, and the image used to locate the head (the scan, else a
        mask of the map), all uint8 (size, size, size).

    Raises:
        InputError: see :meth:`Protocol.remap` and :func:`to_tissues`.
    """
    classes = protocol.remap(labels.data, convention, labels.path)
    tissues = to_tissues(labels.data, convention, protocol, labels.path)
    if scan:
        image, grid, _ = load_conformed(scan)
    else:
        grid = conformed_grid(Volume(tissues, labels.affine, labels.path), spacing_mm, size)
    # resampled jointly: separately, tissues and classes would not match
    both = tissues.astype(np.uint16) << 8 | classes
    both = resample_labels(Volume(both, labels.affine, labels.path), grid)
    tissues, classes = (both >> 8).astype(np.uint8), (both & 255).astype(np.uint8)
    if not classes.any():
        raise InputError(labels.path, "does not overlap its scan", "give labels on the scan's grid")
    if scan:
        return split_outside(tissues, image), classes, image
    return tissues, classes, np.where(tissues > 0, np.uint8(255), np.uint8(0))
