"""Pictures of the report: curves, Dice, overlays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from quicknat.conform import load_conformed, to_uint8
from quicknat.errors import written_whole
from quicknat.labels import Protocol
from quicknat.slices import VIEWS
from quicknat.volumes import Volume, read_volume

matplotlib.use("agg")
import matplotlib.pyplot as plt

VIEW_COLORS = dict(zip(VIEWS, ("#0072B2", "#D55E00", "#009E73"), strict=True))  # Okabe–Ito
STAGE_STYLES = {"pretrain": "--", "finetune": "-"}


def save(figure: plt.Figure, path: str | Path) -> None:
    """Write a figure as PNG and close it."""
    with written_whole(path) as (temporary,):
        figure.savefig(temporary, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def training_curves(histories: Mapping[tuple[str, str], pd.DataFrame]) -> plt.Figure:
    """Loss and validation Dice over epochs.

    Args:
        histories: table of each (stage, view).
    """
    stages = [stage for stage in STAGE_STYLES if any(key[0] == stage for key in histories)]
    figure, axes = plt.subplots(
        2, len(stages), figsize=(5 * len(stages), 6), sharey="row", sharex="col", squeeze=False
    )
    for column, stage in enumerate(stages):
        top, bottom = axes[:, column]
        for view in VIEWS:
            table, color = histories[stage, view], VIEW_COLORS[view]
            top.plot(table["epoch"], table["train_loss"], color=color, label=f"{view}, training")
            if "val_loss" not in table:
                continue
            top.plot(
                table["epoch"], table["val_loss"], "--", color=color, label=f"{view}, validation"
            )
            bottom.plot(table["epoch"], table["val_dice"], color=color, marker=".", label=view)
            best = table["val_dice"].idxmax()
            bottom.plot(table["epoch"][best], table["val_dice"][best], "*", color=color, ms=14)
        top.set_title({"pretrain": "Pre-training", "finetune": "Fine-tuning"}[stage])
        bottom.set(xlabel="epoch", ylim=(0, 1))
        bottom.xaxis.get_major_locator().set_params(integer=True)
        for axis in (top, bottom):
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("loss")
    axes[1, 0].set_ylabel("validation Dice (mean)")
    axes[0, -1].legend(fontsize=8)
    axes[1, -1].legend(fontsize=8, title="star: epoch kept")
    figure.tight_layout()
    return figure


def dice_by_structure(metrics: pd.DataFrame, order: Sequence[str]) -> plt.Figure:
    """Dice of each structure: one point per subject, a box as well from five subjects on."""
    subjects = list(dict.fromkeys(metrics["subject"]))
    figure, axis = plt.subplots(figsize=(8, 0.27 * len(order) + 1.2))
    places = {name: row for row, name in enumerate(order)}
    if len(subjects) >= 5:
        values = [metrics["dice"][metrics["structure"] == name].dropna() for name in order]
        axis.boxplot(values, positions=range(len(order)), orientation="horizontal", widths=0.6,
                     showfliers=False, medianprops={"color": "black"})  # fmt: skip
    few = len(subjects) <= 8
    for number, (subject, rows) in enumerate(metrics.groupby("subject", sort=False)):
        axis.plot(rows["dice"], rows["structure"].map(places), "o", ms=6 if few else 3, alpha=0.8,
                  color=f"C{number}" if few else "C0", label=subject if few else None)  # fmt: skip
    axis.set(yticks=range(len(order)), xlabel="Dice", xlim=(0, 1))
    axis.set_yticklabels(order, fontsize=8)
    axis.invert_yaxis()
    axis.grid(alpha=0.3)
    if few:
        axis.legend(loc="lower left", fontsize=8)
    figure.tight_layout()
    return figure


def _canonical(volume: Volume) -> Volume:
    image = nib.as_closest_canonical(nib.Nifti1Image(volume.data, volume.affine))
    return Volume(np.asanyarray(image.dataobj), image.affine, volume.path)


def overlay_panel(
    image: Volume, prediction: Volume, reference: Volume | None, protocol: Protocol, title: str
) -> plt.Figure:
    """Three views through the middle of the brain: image, reference, prediction.

    All three are on the same grid; panels are drawn in world orientation, with the patient's left
    on the left side of the picture (neurological convention) and marked so.
    """
    image, prediction = _canonical(image), _canonical(prediction)
    reference = _canonical(reference) if reference else None
    zooms = np.sqrt((image.affine[:3, :3] ** 2).sum(axis=0))
    inside = np.argwhere((reference or prediction).data > 0)
    if not len(inside):  # nothing found: show the whole scan
        inside = np.array([[0, 0, 0], np.array(image.shape) - 1])
    low, high = inside.min(axis=0), inside.max(axis=0)
    pad = np.ceil(15 / zooms).astype(int)
    box = [
        slice(max(0, a - p), min(n, b + p + 1))
        for a, b, p, n in zip(low, high, pad, image.shape, strict=True)
    ]
    # beside the midline in sagittal, so that deep structures show; through the middle otherwise
    cuts = [int(low[0] + 0.42 * (high[0] - low[0])), *((low[1:] + high[1:]) // 2)]
    grey, _ = to_uint8(image.data, float(zooms.mean()), image.path)
    colors = ListedColormap(protocol.colors / 255)
    columns = [("image", None), ("reference", reference), ("prediction", prediction)]
    columns = [column for column in columns if column[0] == "image" or column[1] is not None]
    figure, axes = plt.subplots(
        3, len(columns), figsize=(3.1 * len(columns), 9.2), squeeze=False, facecolor="black"
    )
    shown = set()
    for row, view in enumerate(("axial", "coronal", "sagittal")):
        cut = {"sagittal": 0, "coronal": 1, "axial": 2}[view]
        where = tuple(cuts[axis] if axis == cut else box[axis] for axis in range(3))
        flat = [axis for axis in range(3) if axis != cut]
        aspect = zooms[flat[1]] / zooms[flat[0]]
        for column, (name, labels) in enumerate(columns):
            axis = axes[row, column]
            axis.imshow(grey[where].T, cmap="gray", vmin=0, vmax=230, origin="lower", aspect=aspect)
            if labels is not None:
                classes = labels.data[where].T
                shown |= set(np.unique(classes))
                axis.imshow(
                    np.ma.masked_equal(classes, 0), cmap=colors, vmin=-0.5, vmax=colors.N - 0.5,
                    alpha=0.55, origin="lower", aspect=aspect, interpolation="nearest",
                )  # fmt: skip
            axis.set_axis_off()
            ends = ("P", "A") if view == "sagittal" else ("L", "R")
            for x, text in zip((0.03, 0.93), ends, strict=True):
                axis.text(x, 0.03, text, color="white", fontsize=10, transform=axis.transAxes,
                          bbox={"facecolor": "black", "pad": 1.5, "linewidth": 0})  # fmt: skip
            if row == 0:
                axis.set_title(name, color="white", fontsize=11)
            if column == 0:
                axis.text(0.02, 0.95, view, color="white", fontsize=8, transform=axis.transAxes)
    handles = [
        Patch(color=colors(index), label=protocol.names[index]) for index in sorted(shown - {0})
    ]
    figure.suptitle(title, color="white", y=0.995)
    figure.subplots_adjust(0.01, 0.16, 0.99, 0.95, wspace=0.02, hspace=0.02)
    figure.legend(
        handles=handles, loc="lower center", ncol=4, fontsize=6.5, frameon=False, labelcolor="white"
    )
    return figure


def slice_picture(pair: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """A training slice beside its classes: uint8 (H, W, 3), superior or anterior upwards.

    Args:
        pair: uint8 (2, H, W) of a view stack.
        colors: uint8 (C, 3), by class of that view.
    """
    image, classes = (part.T[::-1] for part in pair)
    return np.hstack([np.repeat(image[..., None], 3, axis=-1), colors[classes]])


def overlay_files(
    scan: str | Path, prediction: str | Path, reference: str | Path | None, protocol: Protocol
) -> plt.Figure:
    """Overlay panel of a conformed scan's original image with its segmentation.

    Args:
        scan: the conformed scan; its sidecar says where the original image is.
        prediction, reference: label maps on the original's grid; the reference may be None.
    """
    _, _, record = load_conformed(scan)
    image = read_volume(record["source"], record["source_orientation"])
    labels = [read_volume(path) if path else None for path in (prediction, reference)]
    return overlay_panel(image, *labels, protocol, Path(scan).name.split("_space-")[0])
