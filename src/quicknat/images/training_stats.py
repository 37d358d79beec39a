"""Statistics of the training scans, and flags for out-of-distribution scans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from quicknat.flags import raised

BRIGHT = 25  # of 255: brighter than air
VOLUME_FACTOR = 1.5  # beyond the training volumes that still is plausible
ASYMMETRY_MARGIN = 0.1
OUTSIDE_MARGIN = 0.15
MIN_CORRELATION = 0.5
SHOWN = 5  # structures named in a reason


@dataclass(frozen=True)
class ScanStatistics:
    """Statistics of a scan's labelled slices on the conformed grid.

    ``voxels`` per class (C,); ``intensity`` mean 0 … 255 per class (C,), NaN where absent;
    ``outside`` fraction of what is brighter than air that belongs to no structure: about half
    without skull stripping, little after it.
    """

    voxels: np.ndarray
    intensity: np.ndarray
    outside: float


def describe_scan(
    slices: Iterable[tuple[np.ndarray, np.ndarray]], n_classes: int
) -> ScanStatistics:
    """Return the statistics of pairs of uint8 slices, image and class index."""
    voxels, sums = np.zeros(n_classes, dtype=np.int64), np.zeros(n_classes)
    bright = beyond = 0
    for image, labels in slices:
        flat = labels.ravel()
        voxels += np.bincount(flat, minlength=n_classes)
        sums += np.bincount(flat, weights=image.ravel(), minlength=n_classes)
        head = image > BRIGHT
        bright += int(np.count_nonzero(head))
        beyond += int(np.count_nonzero(head & (labels == 0)))
    intensity = np.divide(sums, voxels, out=np.full(n_classes, np.nan), where=voxels > 0)
    return ScanStatistics(voxels, intensity, beyond / max(bright, 1))


def asymmetry(voxels: np.ndarray, partner: np.ndarray) -> np.ndarray:
    """Return ``(own - partner) / (own + partner)`` per class, NaN for those without a partner."""
    other = voxels[partner].astype(float)
    both = voxels + other
    return np.divide(
        voxels - other, both, out=np.full(len(voxels), np.nan), where=(partner > 0) & (both > 0)
    )


def summarise(scans: Sequence[ScanStatistics], partner: np.ndarray) -> dict:
    """Return ranges over the training scans, as plain numbers for a JSON file.

    `partner` is the index of each class's other side, -1 for none.
    """
    voxels = np.array([scan.voxels for scan in scans])
    sides = np.array([asymmetry(scan.voxels, partner) for scan in scans])
    sides = np.where(np.isnan(sides), 0, sides)
    intensity = np.array([scan.intensity for scan in scans])
    present = ~np.isnan(intensity)
    mean = np.where(present, intensity, 0).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
    outside = [scan.outside for scan in scans]
    return {
        "scans": len(scans),
        "voxels": [voxels.min(axis=0).tolist(), voxels.max(axis=0).tolist()],
        "asymmetry": [sides.min(axis=0).round(4).tolist(), sides.max(axis=0).round(4).tolist()],
        "intensity": mean.round(1).tolist(),
        "outside": [round(min(outside), 4), round(max(outside), 4)],
    }


def ood_flags(
    scan: ScanStatistics, training: dict, names: Sequence[str], partner: np.ndarray, mm3: float
) -> list[dict[str, str]]:
    """Return flags, each with its reason, for what no training scan comes close to.

    The statistics of `training` are from :func:`summarise`; `mm3` is the volume of a voxel.
    """
    flags = []

    def flag(name: str, reasons: list[str], text: str) -> None:
        if reasons:
            more = f", and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
            flags.append(raised(name, text + "; ".join(reasons[:SHOWN]) + more))

    low, high = (np.array(side) for side in training["voxels"])
    beyond = (scan.voxels < low / VOLUME_FACTOR) | (scan.voxels > high * VOLUME_FACTOR)
    flag(
        "implausible_volume",
        [
            f"{names[k]} {scan.voxels[k] * mm3:.0f} mm³ ({low[k] * mm3:.0f} to {high[k] * mm3:.0f})"
            for k in np.flatnonzero(beyond).tolist()
            if k and scan.voxels[k]  # absent ones have a flag of their own
        ],
        "volumes on the model's grid are far from those in training: ",
    )
    least, most = (np.array(side) for side in training["asymmetry"])
    sides = asymmetry(scan.voxels, partner)
    with np.errstate(invalid="ignore"):
        lopsided = (sides < least - ASYMMETRY_MARGIN) | (sides > most + ASYMMETRY_MARGIN)
    flag(
        "asymmetry",
        [
            f"{names[k]} and its partner differ by {abs(sides[k]):.0%} of their sum"
            for k in np.flatnonzero(lopsided).tolist()
            if k < partner[k]
        ],
        "left and right differ more than in training: ",
    )
    nearest, farthest = training["outside"]
    if not nearest - OUTSIDE_MARGIN <= scan.outside <= farthest + OUTSIDE_MARGIN:
        kind = "not skull-stripped" if scan.outside > farthest else "skull-stripped"
        reason = (
            f"{scan.outside:.0%} of bright voxels lie outside all structures, in training "
            f"{nearest:.0%} to {farthest:.0%}: this scan looks {kind}, unlike those"
        )
        flag("other_field", [reason], "")
    both = (scan.voxels > 0) & (np.array(training["intensity"]) > 0)
    both[0] = False
    expected, found = np.array(training["intensity"])[both], scan.intensity[both]
    if both.sum() > 3 and expected.std() > 0 and found.std() > 0:
        correlation = np.corrcoef(expected, found)[0, 1]
        if correlation < MIN_CORRELATION:
            reason = (
                f"the structures' intensities correlate poorly with those in training, r = "
                f"{correlation:.2f}: is this a T1w scan?"
            )
            flag("other_contrast", [reason], "")
    return flags
