"""Save reproducible figures; draw training curves, training slices and synthetic images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from quicknat.files import written_whole
from quicknat.images.labels import Protocol
from quicknat.images.slices import VIEWS
from quicknat.training.history import STAGES, overfitting

matplotlib.use("agg")
import matplotlib.pyplot as plt

INK, GREY, LINE = "#1c2430", "#5b6675", "#d9dee5"  # the page's
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "quicknat",  # otherwise every SVG file has different ids
    "svg.fonttype": "none",  # text stays text, in the page's type
    "font.size": 10, "axes.titlesize": 10, "axes.titlelocation": "left", "legend.fontsize": 9,
    "legend.frameon": False, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GREY,
    "xtick.color": GREY, "ytick.color": GREY, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "axes.spines.top": False, "axes.spines.right": False, "grid.color": LINE, "grid.alpha": 1,
    "axes.axisbelow": True,
}  # fmt: skip
matplotlib.rcParams.update(STYLE)
PAGE_FONTS = "system-ui, -apple-system, 'Segoe UI', "

VIEW_COLORS = dict(zip(VIEWS, ("#0072B2", "#D55E00", "#009E73"), strict=True))  # Okabe–Ito
WITHOUT_DATE = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}


def save(figure: plt.Figure, *paths: str | Path, dpi: int = 110) -> None:
    """Write a figure as PNG or SVG, by the suffix of each path, and close it.

    The same figure gives the same bytes.
    """
    with written_whole(*paths) as temporaries:
        for temporary in temporaries:
            metadata = WITHOUT_DATE[temporary.suffix]
            figure.savefig(temporary, dpi=dpi, bbox_inches="tight", metadata=metadata)
            if temporary.suffix == ".svg":
                text = temporary.read_text("utf-8")
                text = text.replace("'DejaVu Sans'", f"{PAGE_FONTS}'DejaVu Sans'")
                temporary.write_text(text, "utf-8")
    plt.close(figure)


def training_curves(histories: Mapping[tuple[str, str], pd.DataFrame]) -> plt.Figure:
    """Draw loss and validation Dice over epochs of the history of each (stage, view).

    Fine-tuning follows pre-training on the same axes.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    marker = "." if max(map(len, histories.values())) < 30 else ""
    before = 0  # epochs of earlier stages
    ticks: dict[int, int] = {}  # epochs to label, by position on the axis
    for stage, title in STAGES.items():
        tables = {view: histories[stage, view] for view in VIEWS if (stage, view) in histories}
        for view, table in tables.items():
            epochs, color = table["epoch"] + before, VIEW_COLORS[view]
            left.plot(epochs, table["train_loss"], color=color, marker=marker)
            if "val_loss" in table:
                best = table["val_dice"].idxmax()
                for axis, column, line in ((left, "val_loss", "--"), (right, "val_dice", "-")):
                    axis.plot(epochs, table[column], line, color=color, marker=marker)
                    axis.plot(epochs[best], table[column][best], "*", color=color, ms=13, mec="k")
        if tables:
            for axis in (left, right):
                if before:
                    axis.axvline(before + 0.5, color="grey", lw=1)
                axis.text(before + 0.5, 1.01, f" {title}", transform=axis.get_xaxis_transform())
            longest = max(table["epoch"].max() for table in tables.values())
            numbers = np.asarray(MaxNLocator(6, integer=True).tick_values(0, longest)).astype(int)
            ticks |= {before + number: number for number in numbers if 0 < number <= longest}
            before += longest
    for axis in (left, right):
        axis.set_xticks(list(ticks), list(map(str, ticks.values())))
        axis.set(xlabel="epoch of the stage", xlim=(0.5, before + 0.5))
        axis.grid()
    left.set_ylabel("loss")
    left.set_ylim(bottom=0)
    right.set(ylabel="validation Dice (mean)", ylim=(0, 1))
    lines = [
        Line2D([], [], label="training", color="grey"),
        Line2D([], [], label="validation", color="grey", ls="--"),
        Line2D([], [], label="epoch kept", color="white", marker="*", ms=13, mec="black"),
    ]
    left.legend(handles=lines)
    views = [Line2D([], [], color=color, label=view) for view, color in VIEW_COLORS.items()]
    right.legend(handles=views)
    if sentences := overfitting(histories):
        figure.supxlabel("\n".join(["Overfitting:", *sentences]), fontsize=8, x=0.01, ha="left")
    return figure


def slice_picture(pair: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Return a training slice beside its classes: uint8 (H, W, 3), superior or anterior up.

    `pair` is uint8 (2, H, W) of a view stack, `colors` uint8 (C, 3) by class of that view.
    """
    image, classes = (part.T[::-1] for part in pair)
    return np.hstack([np.repeat(image[..., None], 3, axis=-1), colors[classes]])


def contact_sheet(
    stacks: Sequence[np.ndarray], protocol: Protocol, view: str, samples: int, seed: int
) -> np.ndarray:
    """Return synthetic slices beside their classes, four per row: uint8 (H, W, 3).

    `stacks` are tissue and class slices of one shape, uint8 (n, 2, H, W), one stack per label map;
    samples are random slices, from each map in turn.
    """
    import torch  # which the other figures do without

    from quicknat.synthesis.synthesize import synthesize

    random = np.random.default_rng(seed)
    takes = (stacks[number % len(stacks)] for number in range(samples))
    chosen = torch.from_numpy(np.stack([stack[random.integers(len(stack))] for stack in takes]))
    image, classes = synthesize(chosen[:, :1], chosen[:, 1:], torch.Generator().manual_seed(seed))
    grey = (255 * image[:, 0]).round().byte()
    colors = protocol.view_colors(view)
    tiles = [slice_picture(pair, colors) for pair in torch.stack([grey, classes], dim=1).numpy()]
    tiles += [np.zeros_like(tiles[0])] * (-samples % min(4, samples))
    rows = [np.hstack(tiles[first : first + 4]) for first in range(0, len(tiles), 4)]
    return np.vstack(rows)
