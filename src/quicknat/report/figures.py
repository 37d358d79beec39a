"""Pictures of trainings and scans: curves, overlays, slices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from nibabel.affines import voxel_sizes

from quicknat.files import written_whole
from quicknat.images.conform import to_uint8
from quicknat.images.labels import Protocol
from quicknat.images.resampling import canonical
from quicknat.images.slices import AXIS, VIEWS
from quicknat.images.volumes import Volume
from quicknat.training.history import STAGES, overfitting

matplotlib.use("agg")
import matplotlib.pyplot as plt

matplotlib.rcParams["svg.hashsalt"] = "quicknat"  # or every SVG file would have other ids

VIEW_COLORS = dict(zip(VIEWS, ("#0072B2", "#D55E00", "#009E73"), strict=True))  # Okabe–Ito
WITHOUT_DATE = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}


def save(figure: plt.Figure, *paths: str | Path, dpi: int = 110) -> None:
    """Write a figure as PNG or SVG, by the ending of each path, and close it.

    The same figure gives the same bytes.
    """
    with written_whole(*paths) as temporaries:
        for temporary in temporaries:
            metadata = WITHOUT_DATE[temporary.suffix]
            figure.savefig(temporary, dpi=dpi, bbox_inches="tight", metadata=metadata)
    plt.close(figure)


def training_curves(histories: Mapping[tuple[str, str], pd.DataFrame]) -> plt.Figure:
    """Loss and validation Dice over epochs; fine-tuning follows pre-training on the same axes.

    Args:
        histories: table of each (stage, view).
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    before, ticks = 0, []
    marker = "." if max(map(len, histories.values())) < 30 else ""
    for stage, title in STAGES.items():
        tables = {view: histories[stage, view] for view in VIEWS if (stage, view) in histories}
        if not tables:
            continue
        longest = max(table["epoch"].max() for table in tables.values())
        for view, table in tables.items():
            epochs, color = table["epoch"] + before, VIEW_COLORS[view]
            left.plot(epochs, table["train_loss"], color=color, marker=marker)
            if "val_loss" not in table:
                continue
            left.plot(epochs, table["val_loss"], "--", color=color, marker=marker)
            right.plot(epochs, table["val_dice"], color=color, marker=marker)
            best = table["val_dice"].idxmax()
            for axis, column in ((left, "val_loss"), (right, "val_dice")):
                axis.plot(epochs[best], table[column][best], "*", color=color, ms=13, mec="black")
        for axis in (left, right):
            if before:
                axis.axvline(before + 0.5, color="grey", lw=1)
            axis.text(before + 0.5, 1.01, f" {title}", transform=axis.get_xaxis_transform())
        numbers = np.asarray(MaxNLocator(6, integer=True).tick_values(0, longest)).astype(int)
        ticks += [(before + number, number) for number in numbers if 0 < number <= longest]
        before += longest
    for axis in (left, right):
        axis.set_xticks(*map(list, zip(*ticks, strict=True)))
        axis.set(xlabel="epoch of the stage", xlim=(0.5, before + 0.5))
        axis.grid(alpha=0.3)
    left.set_ylabel("loss")
    left.set_ylim(bottom=0)
    right.set(ylabel="validation Dice (mean)", ylim=(0, 1))
    styles = {"training": "-", "validation": "--"}
    lines = [Line2D([], [], label=text, color="grey", ls=ls) for text, ls in styles.items()]
    star = Line2D([], [], label="epoch kept", color="white", marker="*", ms=13, mec="black")
    left.legend(handles=[*lines, star], fontsize=8)
    right.legend(
        handles=[Line2D([], [], color=VIEW_COLORS[view], label=view) for view in VIEWS], fontsize=8
    )
    sentences = overfitting(histories)
    if sentences:
        figure.supxlabel("\n".join(["Over-fitting:", *sentences]), fontsize=8, x=0.01, ha="left")
    return figure


def overlay_panel(
    image: Volume, prediction: Volume, reference: Volume | None, protocol: Protocol, title: str
) -> plt.Figure:
    """Three views through the middle of the brain: image, reference, prediction.

    All three are on the same grid; panels are drawn in world orientation, with the patient's left
    on the left side of the picture (neurological convention) and marked so.
    """
    image, prediction = canonical(image), canonical(prediction)
    reference = canonical(reference) if reference else None
    zooms = voxel_sizes(image.affine)
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
        cut = AXIS[view]
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
