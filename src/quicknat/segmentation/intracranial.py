"""Mask the contents of the cranial cavity, and estimate the intracranial volume.

Small networks of their own, at 3 mm, segment the cavity: brain, ventricles, and the
cerebrospinal fluid and vessels up to the inner table of the skull, down to the foramen magnum. They
were trained on images synthesized from SynthSeg's label maps (``benchmarks/intracranial``), so they
depend on no label protocol and no other model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage

from quicknat.images.conform import head_window
from quicknat.images.resampling import moved, resample
from quicknat.images.training_stats import BRIGHT
from quicknat.images.volumes import Grid, Volume
from quicknat.model.bundle import Bundle, load_bundle
from quicknat.model.views import aggregate
from quicknat.package_data import DATA
from quicknat.segmentation.native import Part, map_to_native

MODEL = DATA / "intracranial"
AROUND_MM = (4, 16)  # from the cavity: skull and scalp
MIN_BRIGHT = 0.25  # fraction of that shell that is brighter than air in a head with its skull
MAX_CUT_MM2 = 500  # of the cavity in the outermost slice on a side of the field of view
# of the cavity's own outermost slice: 9 to 1640 in 13 scans, 11,358 where half is missing
MAX_FLAT_MM2 = 4000
MIN_HELD = 0.9  # fraction of the labelled voxels inside the cavity; the cortex may reach beyond
FAR_MM = 5  # from the centre of the nearest voxel inside: of 19 labelled scans 0 to 0.1 % lie there
MOST_STRAY = 0.03  # of all labelled voxels
LEAST_MM3 = 500_000  # of a cavity
COARSEST_MM = 3  # voxels of the segmenting model, in which a cavity can be found
HALF = 0.5  # probability
MARGIN_MM = 14  # around the cavity, for networks to see; with 8 small structures come out larger
BATCH = 16  # slices per forward pass: they are small


Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Cavity:
    """The cranial cavity in a window of coarse voxels, RAS+ axes.

    ``probability``: float32 (X, Y, Z) of a box of it, on the networks' device, with the ``affine``
    of that box; 0 beyond the largest connected part, 1 in holes. ``inside``: bool (S, S, S).
    ``window``: the image there, uint8, on ``grid``.
    """

    probability: torch.Tensor
    affine: np.ndarray
    inside: np.ndarray
    window: np.ndarray
    grid: Grid

    @cached_property
    def outwards_mm(self) -> np.ndarray:
        """Distance of each voxel from the nearest one inside, (S, S, S)."""
        return ndimage.distance_transform_edt(~self.inside) * self.grid.affine[0, 0]

    @property
    def middle(self) -> int:
        """Axial slice in the middle of the cavity; face and neck are below."""
        return int(np.flatnonzero(self.inside.any(axis=(0, 1))).mean()) if self.inside.any() else 0


@dataclass(frozen=True)
class Intracranial:
    """The brain mask of a scan and, if it can be estimated, its intracranial volume.

    ``mask``: uint8 0 or 1 on the native grid: the cranial cavity, and all labelled voxels; of a
    skull-stripped scan, what is left of the cavity. ``volume_mm3``: of the cavity alone; None if
    the scan does not show it whole. ``reason``: why there is no volume.
    """

    mask: np.ndarray
    volume_mm3: float | None
    reason: str = ""


@cache
def _model(device: torch.device) -> Bundle:
    return load_bundle(MODEL, device)


@torch.inference_mode()
def find_cavity(
    image: np.ndarray, affine: np.ndarray, spacing_mm: float, device: torch.device
) -> Cavity | None:
    """Find the cranial cavity in a conformed scan.

    Args:
        image: uint8 conformed scan.
        affine: its voxel-to-world.
        spacing_mm: size of its voxels.
        device: where the networks are to run.

    Returns:
        None if the voxels are too coarse.
    """
    if spacing_mm > COARSEST_MM:
        return None
    model = _model(device)
    window, grid = _coarse(image, affine, spacing_mm, model)
    voxels = torch.from_numpy(window).to(device)
    found = aggregate(model.networks, voxels, **model.aggregation, batch=BATCH)
    cavity = _largest_part(found.probabilities[1])
    box = tuple(slice(k, k + n) for k, n in zip(found.start, cavity.shape, strict=True))
    inside = np.zeros(window.shape, dtype=bool)
    inside[box] = cavity.cpu().numpy() > HALF
    return Cavity(cavity, moved(grid.affine, np.array(found.start)), inside, window, grid)


def brain_box(cavity: Cavity, affine: np.ndarray, size: int, largest: int) -> Box | None:
    """Return a box of a conformed scan that holds the brain, for networks to see.

    Args:
        cavity: in that scan.
        affine: the scan's voxel-to-world.
        size: voxels a side of the scan.
        largest: voxels a side of the box, at most; a multiple of 16.

    Returns:
        Its sides are multiples of 16. None if what was found is too small to be the cavity.
    """
    where = np.argwhere(cavity.inside)
    if len(where) * cavity.grid.affine[0, 0] ** 3 < LEAST_MM3:
        return None
    to_scan = np.linalg.inv(affine) @ cavity.grid.affine
    low, high = apply_affine(to_scan, [where.min(axis=0) - HALF, where.max(axis=0) + HALF])
    margin = MARGIN_MM / np.diagonal(affine)[:3]
    shape = np.ceil((high - low + 2 * margin) / 16).astype(int) * 16
    shape = np.minimum(shape, largest)
    start = np.rint((low + high + 1 - shape) / 2).clip(0, size - shape)
    x, y, z = (
        slice(first, first + side)
        for first, side in zip(start.astype(int).tolist(), shape.tolist(), strict=True)
    )
    return x, y, z


@torch.inference_mode()
def near_brain(cavity: Cavity, affine: np.ndarray, box: Box) -> torch.Tensor:
    """Return which voxels of a :func:`brain_box` lie in the cavity or 14 mm around it, bool."""
    x, y, z = (part.stop - part.start for part in box)
    grid = Grid((x, y, z), moved(affine, np.array([part.start for part in box])))
    closeness = torch.from_numpy((MARGIN_MM - cavity.outwards_mm).astype(np.float32))
    return torch.from_numpy(map_to_native(closeness, cavity.grid.affine, grid) > 0)


@torch.inference_mode()
def remove_strays(
    parts: Sequence[Part], views: Mapping[str, torch.Tensor], cavity: Cavity
) -> float:
    """Turn labelled scalp and air, far outside the cavity's upper half, into background.

    Below, the brain stem leaves the cavity. Nothing changes if they are a large part of the
    labelled voxels: then it is the cavity that is wrong.

    Args:
        parts: probabilities (C, X, Y, Z), changed in place, each with the voxel-to-world of its
            grid; the first tells how much is labelled.
        views: labels of each view on the first grid, changed in place.
        cavity: of the same scan.

    Returns:
        Fraction of the labelled voxels that was removed.
    """
    outwards = cavity.outwards_mm.astype(np.float32)
    outwards[:, :, : cavity.middle] = 0
    far = []
    for found, affine in parts:
        _, x, y, z = found.shape
        away = map_to_native(
            torch.from_numpy(outwards), cavity.grid.affine, Grid((x, y, z), affine)
        )
        far.append(torch.from_numpy(away > FAR_MM).to(found.device))
    labelled = parts[0][0].argmax(dim=0) > 0
    removed = float((labelled & far[0]).sum() / labelled.sum().clamp(min=1))
    if removed > MOST_STRAY:
        return 0.0
    for (found, _), there in zip(parts, far, strict=True):
        found.masked_fill_(there, 0)
        found[0].masked_fill_(there, 1)
    for own in views.values():
        own.masked_fill_(far[0], 0)
    return removed


@torch.inference_mode()
def brain_mask(cavity: Cavity | None, labels: np.ndarray, native: Grid) -> Intracranial:
    """Return brain mask and intracranial volume of a segmented scan.

    The cavity is in the conformed scan, `labels` are class indices on the native grid.
    """
    brain = labels > 0
    if cavity is None:
        reason = f"the model's voxels are larger than {COARSEST_MM} mm"
        return Intracranial(ndimage.binary_fill_holes(brain).astype(np.uint8), None, reason)
    mask = map_to_native(cavity.probability, cavity.affine, native) > HALF
    voxel_mm3 = abs(np.linalg.det(native.affine[:3, :3]))
    reason = _why_not(mask, cavity, brain, voxel_mm3)
    volume = None if reason else round(float(mask.sum() * voxel_mm3), 1)
    return Intracranial((mask | brain).astype(np.uint8), volume, reason)


def _coarse(
    image: np.ndarray, affine: np.ndarray, spacing_mm: float, model: Bundle
) -> tuple[np.ndarray, Grid]:
    """Return the window around the brain in the model's voxels, uint8, and its grid."""
    step = model.spacing_mm / spacing_mm
    first = head_window(image, spacing_mm, min(round(model.slice_size * step), image.shape[0]))
    start = np.array(first) + (step - 1) / 2
    matrix = from_matvec(affine[:3, :3] * step, apply_affine(affine, start))
    grid = Grid((model.slice_size,) * 3, matrix)
    window = resample(Volume(image, affine, MODEL), grid)
    return np.rint(window).astype(np.uint8), grid


def _largest_part(probability: torch.Tensor) -> torch.Tensor:
    """Return the probability of the largest connected part, without holes, 0 elsewhere."""
    likely = probability.cpu().numpy() > HALF
    parts, count = ndimage.label(likely)
    if count > 1:
        likely = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    filled = ndimage.binary_fill_holes(likely)
    holes, others = (
        torch.from_numpy(where).to(probability.device)
        for where in (filled & ~likely, (parts > 0) & ~filled)
    )
    return probability.masked_fill(holes, 1).masked_fill(others, 0)


def _why_not(mask: np.ndarray, cavity: Cavity, brain: np.ndarray, voxel_mm3: float) -> str:
    """Return why a scan does not show its whole cranial cavity, or '' if it does.

    `mask` is the cavity and `brain` what is labelled, in native voxels of this volume.
    """
    if not mask.any():
        return "no cranial cavity was found"
    window, outwards = cavity.window, cavity.outwards_mm
    near, far = AROUND_MM
    shell = (near < outwards) & (outwards < far)
    shell[:, :, : cavity.middle] = False  # face and neck
    if (bright := np.mean(window[shell] > BRIGHT)) < MIN_BRIGHT:
        return f"the scan is skull-stripped: {bright:.0%} of the brain's surroundings is bright"
    faces = [mask.take(end, axis).sum() for axis in range(3) for end in (0, -1)]
    if max(faces) * voxel_mm3 ** (2 / 3) > MAX_CUT_MM2:
        return "the field of view ends inside the cranial cavity"
    where, voxel_mm2 = np.argwhere(cavity.inside), cavity.grid.affine[0, 0] ** 2
    ends = [(0, where[:, 0].min()), *enumerate(where.max(axis=0)), (1, where[:, 1].min())]
    if max(cavity.inside.take(end, axis).sum() for axis, end in ends) * voxel_mm2 > MAX_FLAT_MM2:
        return "the cranial cavity ends in a plane: a part of the head is missing"
    if brain.any() and (held := mask[brain].mean()) < MIN_HELD:
        return f"only {held:.0%} of the labelled voxels lie in the cranial cavity that was found"
    return ""
