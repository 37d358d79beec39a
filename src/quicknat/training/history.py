"""Summarize each epoch: history columns, log line, signs of overfitting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd

DICE = "dice/"  # prefix of the columns with one structure's validation Dice
WORST = 5
RISES = 3  # consecutive rises of validation loss that are no accident
LASTING_RISE = 0.05  # fraction by which the last validation loss may exceed the lowest
STAGES = {"pretrain": "Pre-training", "finetune": "Fine-tuning"}

OVERFITTING = (
    "validation loss rises while training loss falls: the network overfits. More training scans "
    "help most; otherwise 'augment: true', 'dropout: 0.2', fewer epochs, or 'patience' to stop "
    "early. The best epoch is kept in any case"
)


def training_row(epoch: int, rate: float, entropy: float, dice_loss: float) -> dict[str, float]:
    """Return the training columns of an epoch; losses are means over its steps."""
    return {
        "epoch": epoch,
        "learning_rate": rate,
        "train_loss": entropy + dice_loss,
        "train_cross_entropy": entropy,
        "train_dice_loss": dice_loss,
    }


def validation_row(loss: float, dice: np.ndarray, classes: list[str]) -> dict[str, float]:
    """Return the validation columns of an epoch; overall Dice is the mean over structures."""
    structures = zip(classes[1:], dice[1:].tolist(), strict=True)
    return {
        "val_loss": loss,
        "val_dice": float(np.nanmean(dice[1:])),
        **{f"{DICE}{name}": value for name, value in structures},
    }


def describe_epoch(history: list[dict[str, float]], epochs: int, seconds_left: float) -> str:
    """Return a log line on the last epoch: losses, validation Dice, learning rate, speed."""
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
    text += f", rate {row['learning_rate']:.2g}, {row['slices_per_second']:.1f} slices/s"
    return text + (f", {duration(seconds_left)} left" if seconds_left else "")


def overfits(history: list[dict[str, float]]) -> bool:
    """Return whether validation loss kept rising, training loss falling, and Dice did not improve.

    Dice is included since validation loss fluctuates towards the end of a good training.
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

    Its last validation loss is 5 % above its lowest while training loss fell further, or the log
    warned about it (:func:`overfits`).

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
    """Return a readable duration: ``45 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
