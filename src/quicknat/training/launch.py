"""Train one view's network (Roy et al. 2019, sections 2.3 and 3.2): its processes, and its end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch.multiprocessing import ProcessRaisedException

from quicknat.errors import InputError, Interrupted, explained, one_line
from quicknat.hardware import keep_freed_memory
from quicknat.images.labels import Protocol
from quicknat.training.devices import make_fabric
from quicknat.training.optimizers import TrainingSettings
from quicknat.training.plan import Plan, make_plan
from quicknat.training.signals import forwarded_signals
from quicknat.training.trainer import Trainer
from quicknat.training.warm_start import WarmStart

log = logging.getLogger(__name__)


def _train(fabric: Fabric, plan: Plan) -> InputError | Interrupted | None:
    """Train in this process; what went wrong travels back to the one that started it."""
    if fabric.world_size > 1:  # a new process, without the command line's logging
        level = logging.INFO if fabric.is_global_zero else logging.ERROR
        logging.basicConfig(level=level, format="%(message)s")
    keep_freed_memory()
    torch.backends.cudnn.benchmark = True  # all slices have one shape
    torch.set_float32_matmul_precision("high")
    try:
        Trainer(fabric, plan).run()
    except (InputError, Interrupted) as error:
        return error
    except (MemoryError, OSError, RuntimeError) as error:
        told = explained(error, plan.output)
        if told and fabric.is_global_zero:
            return told
        if told:  # others' answers are not heard, and the first would wait for them in vain
            log.error("error: %s", one_line(told))
            raise told from error
        raise
    return None


def train_view(
    view: str,
    protocol: Protocol,
    train: Sequence[str | Path],
    validation: Sequence[str | Path],
    settings: TrainingSettings,
    output: str | Path,
    initial: str | Path | None = None,
    threads: int = 1,
    warm_start: WarmStart | None = None,
    tissues: Sequence[str | Path] = (),
) -> None:
    """Train one view and write ``model.safetensors``, ``model.json``, ``history.tsv``.

    The weights kept are those of the epoch with the best mean validation Dice over the structures;
    without validation scans, those of the last epoch. TensorBoard logs go to ``tensorboard/``.

    While it runs, ``state/`` holds what is needed to go on after an end of any kind: called again
    with the same arguments, the training continues, and on a processor its weights are to the bit
    those of an uninterrupted one.

    Args:
        view: ``coronal``, ``axial`` or ``sagittal``.
        protocol: gives the classes.
        train, validation: view stacks (``.npy``) of that view.
        settings: network and schedule.
        output: folder of the model.
        initial: weights to start from (safetensors), for fine-tuning.
        threads: processor threads for torch and its data loading.
        warm_start: the present model; where only new scans are to be learnt, the training starts
            from it and is short. The log says whether, and if not why.
        tissues: view stacks to train on too, whose images are painted while training, see
            :mod:`quicknat.synthesis.synthesize`.

    Raises:
        InputError: no training slices, stacks of another shape, a loss that is not finite, a
            saved state of another training, full memory, or a loader process that was killed.
        Interrupted: SIGTERM, SIGUSR1 or SIGINT came; the state is saved.
    """
    plan = make_plan(
        view, protocol, train, validation, settings, output, initial, threads, warm_start, tissues
    )
    fabric = make_fabric(view, settings)
    with forwarded_signals() if settings.devices > 1 else nullcontext():
        try:
            # Fabric copies arguments in a way that a frozen dataclass does not allow
            outcome = fabric.launch(partial(_train, plan=plan))
        except ProcessRaisedException as error:
            if InputError.__name__ not in str(error):
                raise
            problem = "one of its processes failed, as the line above says"
            raise InputError(output, problem, "do what that says, and start again") from error
    if outcome:
        raise outcome
