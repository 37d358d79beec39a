"""The figures of each epoch: columns of the history, a line of the log, signs of overfitting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd

DICE = "dice/"  # prefix of the columns with one structure's validation Dice
WORST = 5
RISES = 3  # epochs of growing validation loss that are no accident
LASTING_RISE = 0.05  # fraction by which the last validation loss may exceed the lowest
STAGES = {"pretrain": "Pre-training", "finetune": "Fine-tuning"}

OVERFITTING = (
    "validation loss rises while training loss falls: the network overfits. More training scans "
    "help most; else 'augment: true', 'dropout: 0.2', fewer epochs, or 'patience' to end in time. "
    "The best epoch is kept in any case"
)


def training_row(epoch: int, rate: float, entropy: float, dice_loss: float) -> dict[str, float]:
    """Return the columns of an epoch that every training has; losses are means over its steps."""
    return {
        "epoch": epoch,
        "learning_rate": rate,
        "train_loss": entropy + dice_loss,
        "train_cross_entropy": entropy,
        "train_dice_loss": dice_loss,
    }


def validation_row(loss: float, dice: np.ndarray, classes: list[str]) -> dict[str, float]:
    """Return an epoch's columns of validation; Dice overall is the structures' mean."""
    structures = zip(classes[1:], dice[1:].tolist(), strict=True)
    return {
        "val_loss": loss,
        "val_dice": float(np.nanmean(dice[1:])),
        **{f"{DICE}{name}": value for name, value in structures},
    }


def describe_epoch(history: list[dict[str, float]], epochs: int) -> str:
    """Return the last epoch in a line: losses, validation Dice overall, the worst, rate, speed."""
    row = history[-1]
    text = f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.3f}"
    if "val_loss" in row:
        text += f", validation loss {row['val_loss']:.3f}, validation Dice {row['val_dice']:.3f}"
        structures = [
            (value, key.removeprefix(DICE))
            for key, value in row.items()
            if key.startswith(DICE) and not math.isnan(value)
        ]
        worst = [f"{name} {value:.2f}" for value, name in sorted(structures)[:WORST]]
        text += f" (worst: {', '.join(worst)})"
    text += (
        f", rate {row['learning_rate']:.2g}, {row['slices_per_second']:.1f} slices/s,"
        f" {row['waiting']:.0%} waiting for data"
    )
    left = (epochs - row["epoch"]) * sum(past["seconds"] for past in history) / len(history)
    return text + (f", {duration(left)} left" if left else "")


def overfits(history: list[dict[str, float]]) -> bool:
    """Return whether of late validation loss only grew, training loss fell, Dice was no better.

    Dice too, since towards the end of a good training validation loss wavers.
    """
    last = history[-RISES - 1 :]
    if len(last) <= RISES or "val_loss" not in last[0]:
        return False
    apart = all(
        after["val_loss"] > before["val_loss"] and after["train_loss"] < before["train_loss"]
        for before, after in pairwise(last)
    )
    earlier = max(row["val_dice"] for row in history[:-RISES])
    return apart and max(row["val_dice"] for row in last[1:]) < earlier


def overfitting(histories: Mapping[tuple[str, str], pd.DataFrame]) -> list[str]:
    """Return a sentence for each training that was overfitting when it ended.

    That is one whose last validation loss is 5 % above its lowest while training loss fell from
    there, or one that the log warns about (:func:`overfits`).

    Args:
        histories: table of each (stage, view).
    """
    sentences = []
    for (stage, view), table in histories.items():
        if "val_loss" not in table or table["val_loss"].isna().all():
            continue
        lowest, last = table.loc[table["val_loss"].idxmin()], table.iloc[-1]
        rise = last["val_loss"] / lowest["val_loss"] - 1
        fell = last["train_loss"] < lowest["train_loss"]
        if (rise > LASTING_RISE and fell) or overfits(table.to_dict("records")):
            kept = table["epoch"][table["val_dice"].idxmax()]
            sentences.append(
                f"{STAGES[stage]}, {view} view: validation loss was lowest in epoch "
                f"{lowest['epoch']:.0f} and rose by {rise:.0%} until epoch {last['epoch']:.0f}, "
                f"while training loss fell; epoch {kept:.0f} was kept."
            )
    return sentences


def duration(seconds: float) -> str:
    """Return seconds as a reader wants them: ``45 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
