"""What a user reads while a network trains."""

import numpy as np
import pandas as pd
import pytest

from quicknat.training.history import (
    describe_epoch,
    duration,
    overfits,
    overfitting,
    training_row,
    validation_row,
)


def rows(train, validation, dice=(0.9, 0.8, 0.8, 0.8, 0.8)):
    return [
        {"train_loss": one, "val_loss": other, "val_dice": score}
        for one, other, score in zip(train, validation, dice, strict=False)
    ]


def test_epoch_line_names_losses_rate_speed_and_the_five_worst_structures():
    dice = np.array([1, 0.9, 0.1, np.nan, 0.5, 0.4, 0.3, 0.2])
    names = ["Background", "A", "B", "C", "D", "E", "F", "G"]
    row = training_row(2, 0.004, 1.0, 0.25) | validation_row(1.5, dice, names)
    row |= {"seconds": 30.0, "slices_per_second": 12.34}
    assert row["val_dice"] == pytest.approx(0.4)
    assert describe_epoch([row, row], epochs=10, seconds_left=240) == (
        "epoch 2/10: loss 1.250, validation loss 1.500, validation Dice 0.400 "
        "(worst: B 0.10, G 0.20, F 0.30, E 0.40, D 0.50), rate 0.004, 12.3 slices/s, "
        "4 min left"
    )


def test_overfitting_is_three_epochs_of_rising_validation_loss_that_improve_nothing():
    assert overfits(rows([5, 4, 3, 2, 1], [3, 1, 2, 3, 4]))
    better = rows([5, 4, 3, 2], [1, 2, 3, 4], dice=(0.7, 0.7, 0.8, 0.7))
    assert not overfits(better)
    assert not overfits(rows([4, 3, 2], [1, 2, 3]))  # too few epochs to tell
    assert not overfits(rows([5, 4, 3, 2], [1, 2, 3, 2.5]))  # recovers
    assert not overfits(rows([2, 3, 4, 5], [1, 2, 3, 4]))  # both rise: another trouble
    assert not overfits([{"train_loss": loss} for loss in (4, 3, 2, 1)])  # not validated


def history(train, validation, dice=(0.9, 0.8, 0.8, 0.8, 0.8)):
    table = pd.DataFrame(rows(train, validation, dice))
    return table.assign(epoch=range(1, len(table) + 1))


def test_overfitting_is_told_of_the_trainings_that_ended_in_it():
    histories = {
        ("pretrain", "axial"): history([5, 4, 3, 2], [4, 2, 1.5, 1.55]),  # wavers by 3 %
        ("pretrain", "coronal"): history([5, 4, 3, 2], [1, 1.01, 1.02, 1.03]),  # the log warns, too
        ("finetune", "axial"): history([5, 4, 3, 2], [4, 2, 2.5, 2.4], dice=(0.5, 0.6, 0.7, 0.6)),
        ("finetune", "coronal"): history([5, 4, 3, 3.5], [4, 2, 1.5, 1.8]),  # both rise
        ("finetune", "sagittal"): pd.DataFrame({"epoch": [1, 2], "train_loss": [2, 1]}),
    }
    small, large = overfitting(histories)
    assert small.startswith("Pre-training, coronal view:") and "rose by 3%" in small
    assert large == (
        "Fine-tuning, axial view: validation loss was lowest in epoch 2 and rose by 20% until "
        "epoch 4, while training loss fell; epoch 3 was kept."
    )


def test_durations_read_well():
    assert [duration(s) for s in (5, 240, 11100)] == ["5 s", "4 min", "3 h 05 min"]
