"""From a conformed scan to a label map on its native grid."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from nibabel.affines import apply_affine
from torch.nn import functional as F

import quicknat
from quicknat.bundle import Bundle
from quicknat.conform import conform_file, head_window, load_conformed, record_grid
from quicknat.errors import InputError, written_whole
from quicknat.labels import Protocol
from quicknat.slices import AXIS, VIEWS, crop
from quicknat.volumes import Grid, save_nifti

THICK_SLICE_MM = 2.5  # thinner scans are what the networks are trained on


@dataclass(frozen=True)
class Segmentation:
    """Result on the native grid.

    ``labels`` uint8 class indices; ``uncertainty`` one value per class, mean normalised entropy of
    the aggregated probabilities over the structure's voxels, 0 (sure) … 1; NaN when absent.
    """

    labels: np.ndarray
    grid: Grid
    uncertainty: np.ndarray


@torch.inference_mode()
def view_probabilities(bundle: Bundle, view: str, image: np.ndarray, batch: int) -> torch.Tensor:
    """Softmax of one view, float32 (X, Y, Z, classes of that view).

    Args:
        image: uint8 (S, S, S), RAS+, the window that the networks see.
        batch: slices per forward pass.
    """
    network = bundle.networks[view]
    device = next(network.parameters()).device
    slices = torch.from_numpy(np.moveaxis(image, AXIS[view], 0).astype(np.float32) / 255)[:, None]
    # slices without head are background: the networks never saw one
    filled = ((slices > 0.1).float().mean(dim=(1, 2, 3)) > 0.005).nonzero().flatten()
    result = torch.zeros(len(slices), *slices.shape[2:], network.n_classes)
    result[..., 0] = 1
    for some in filled.split(batch):
        logits = network(slices[some].to(device, memory_format=torch.channels_last))
        result[some] = logits.softmax(dim=1).movedim(1, -1).float().cpu()
    return result.movedim(0, AXIS[view])


def aggregate(bundle: Bundle, image: np.ndarray, batch: int = 16) -> torch.Tensor:
    """Weighted mean of the three views' probabilities, float32 (C, X, Y, Z) (section 2.4).

    The sagittal network's merged classes count for both sides in full.
    """
    classes = len(bundle.protocol.names)
    total = torch.zeros(*image.shape, classes)
    merged = torch.tensor(bundle.protocol.sagittal)
    for view in VIEWS:
        probabilities = view_probabilities(bundle, view, image, batch)
        if view == "sagittal":
            probabilities = probabilities[..., merged]
        total.add_(probabilities, alpha=bundle.weights[view])
    return total.movedim(-1, 0)


def normalised_entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy over the first axis, as a share of the largest possible (0 … 1)."""
    shares = probabilities / probabilities.sum(dim=0, keepdim=True).clamp(min=1e-6)
    return torch.special.entr(shares).sum(dim=0) / np.log(len(shares))


@torch.inference_mode()
def to_native(probabilities: torch.Tensor, affine: np.ndarray, native: Grid) -> np.ndarray:
    """Most probable class at each voxel of the native grid.

    Probabilities are interpolated linearly and compared there, which keeps boundaries smooth where
    the native voxels are finer. Only the box around the structures is computed.

    Args:
        probabilities: (C, X, Y, Z).
        affine: voxel-to-world of that grid.
        native: grid to fill.

    Returns:
        uint8 class indices; 0 outside the window.
    """
    labels = np.zeros(native.shape, dtype=np.uint8)
    inside = probabilities.argmax(dim=0).nonzero().numpy()
    if not len(inside):
        return labels
    low, high = inside.min(axis=0) - 2, inside.max(axis=0) + 2
    corners = np.array(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, -1).T
    box = apply_affine(np.linalg.inv(native.affine) @ affine, corners)
    first = np.clip(np.floor(box.min(axis=0)), 0, native.shape).astype(int)
    last = np.clip(np.ceil(box.max(axis=0)) + 1, 0, native.shape).astype(int)
    to_window = np.linalg.inv(affine) @ native.affine
    extent = np.array(probabilities.shape[1:]) - 1
    j, k = (np.arange(first[axis], last[axis]) for axis in (1, 2))
    for i in range(first[0], last[0]):
        voxels = np.stack(np.broadcast_arrays(i, j[:, None], k[None, :]), axis=-1)
        points = apply_affine(to_window, voxels) / extent * 2 - 1
        # grid_sample wants the last axis first
        where = torch.from_numpy(points[None, None, ..., ::-1].astype(np.float32).copy())
        sampled = F.grid_sample(probabilities[None], where, align_corners=True)[0, :, 0]
        labels[i, first[1] : last[1], first[2] : last[2]] = sampled.argmax(dim=0).numpy()
    return labels


def segment(bundle: Bundle, image: np.ndarray, affine: np.ndarray, native: Grid) -> Segmentation:
    """Segment a conformed scan and return to the native grid.

    Args:
        image: uint8 conformed scan.
        affine: its voxel-to-world.
        native: the grid that the scan came on.
    """
    start = head_window(image, bundle.spacing_mm, bundle.slice_size)
    probabilities = aggregate(bundle, crop(image, start, bundle.slice_size))
    window_affine = affine.copy()
    window_affine[:3, 3] = apply_affine(affine, start)
    labels = to_native(probabilities, window_affine, native)
    entropy, classes = normalised_entropy(probabilities), probabilities.argmax(dim=0)
    uncertainty = [
        entropy[classes == index].mean().item() for index in range(len(bundle.protocol.names))
    ]
    return Segmentation(labels, native, np.array(uncertainty))


def volume_table(result: Segmentation, protocol: Protocol) -> pd.DataFrame:
    """Voxels, mm³ and uncertainty of each structure, background left out."""
    counts = np.bincount(result.labels.ravel(), minlength=len(protocol.names))[1:]
    voxel_mm3 = abs(np.linalg.det(result.grid.affine[:3, :3]))
    return pd.DataFrame(
        {
            "index": protocol.table["index"][1:],
            "name": protocol.names[1:],
            "voxels": counts,
            "volume_mm3": (counts * voxel_mm3).round(1),
            "uncertainty": result.uncertainty[1:].round(4),
        }
    )


def quality_flags(volumes: pd.DataFrame, record: dict) -> list[dict[str, str]]:
    """Reasons to look at a segmentation before using it."""
    flags = []
    missing = list(volumes["name"][volumes["voxels"] == 0])
    if missing:
        flags.append({"flag": "structure_missing", "reason": f"not found: {', '.join(missing)}"})
    thickest = max(record["source_voxel_mm"])
    if thickest > THICK_SLICE_MM:
        flags.append(
            {"flag": "thick_slices", "reason": f"voxels are {thickest:g} mm along an axis"}
        )
    outside = record["head_outside_fraction"]
    if outside > 0.001:
        flags.append(
            {"flag": "head_cut_off", "reason": f"{outside:.1%} of the head is outside the grid"}
        )
    return flags


def label_table(protocol: Protocol) -> pd.DataFrame:
    """BIDS label table: index, name, abbreviation, color, freesurfer_id."""
    table = protocol.table[["index", "name", "abbreviation", "color"]].copy()
    table["freesurfer_id"] = [str(i) if i >= 0 else "n/a" for i in protocol.to_freesurfer()]
    return table


def segment_file(
    bundle: Bundle,
    path: str | Path,
    output: str | Path,
    name: str,
    conformed: bool,
    orientation: str,
) -> pd.DataFrame:
    """Segment one file and write dseg, label table, volumes and QC under `output`.

    Args:
        path: a T1w scan of any readable format, or a conformed scan with its sidecar.
        output: folder; files go to ``{output}/{name}/anat/``.
        name: ``sub-X``.
        conformed: `path` is an output of the convert stage.
        orientation: for headers that state none.

    Returns:
        The volume table.
    """
    if conformed:
        image, affine, record = load_conformed(path)
        if (record["spacing_mm"], record["size"]) != (bundle.spacing_mm, bundle.conform_size):
            raise InputError(
                path, "was conformed to another grid than the model's", "convert again"
            )
    else:
        image, grid, record = conform_file(
            Path(path), orientation, bundle.spacing_mm, bundle.conform_size
        )
        affine = grid.affine
    result = segment(bundle, image, affine, record_grid(record))
    volumes = volume_table(result, bundle.protocol)
    quality = {
        "flags": quality_flags(volumes, record),
        "source": record["source"],
        "source_sha256": record["source_sha256"],
        "model_sha256": bundle.identity,
        "quicknat": quicknat.__version__,
    }
    stem = Path(output) / name / "anat" / f"{name}_desc-quicknat"
    finals = [f"{stem}_dseg.tsv", f"{stem}_volumes.tsv", f"{stem}_qc.json", f"{stem}_dseg.nii.gz"]
    with written_whole(*finals) as (table, volumes_file, qc, dseg):
        label_table(bundle.protocol).to_csv(table, sep="\t", index=False)
        volumes.to_csv(volumes_file, sep="\t", index=False, na_rep="n/a")
        qc.write_text(json.dumps(quality, indent=2) + "\n")
        save_nifti(dseg, result.labels, result.grid.affine)
    return volumes


def dataset_description() -> dict:
    """BIDS derivative description of the segmentations folder."""
    return {
        "Name": "QuickNAT segmentations",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "quicknat", "Version": quicknat.__version__}],
    }
