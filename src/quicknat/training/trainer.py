"""Train one view (Roy et al. 2019, sections 2.3 and 3.2), from start to model files."""

from __future__ import annotations

import logging
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from quicknat.config import TrainingSettings
from quicknat.errors import InputError, Interrupted, explained
from quicknat.hardware import device_name, keep_freed_memory
from quicknat.images.labels import Protocol
from quicknat.progress import no_bar
from quicknat.training import checkpoint, history
from quicknat.training.data import Batches, SliceSet
from quicknat.training.model_files import write_model
from quicknat.training.setup import TrainingSetup, WarmStart, prepare_training
from quicknat.training.train_step import (
    TrainStep,
    choose_precision,
    learning_rate_factor,
    validate,
)

log = logging.getLogger(__name__)

CHECK_STEPS = 20  # reading the loss makes a GPU wait, so not at every step
LOG_SECONDS = 60
POSITION = ("epoch", "step", "elapsed", "rate", "history", "best")  # attributes to save
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # of schedulers, and of Ctrl-C


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

    During training, ``state/`` holds what is needed to resume after any interruption: called again
    with the same arguments, the training resumes, and on a CPU its weights are bitwise identical to
    those of an uninterrupted one.

    Args:
        view: ``coronal``, ``axial`` or ``sagittal``.
        protocol: defines the classes.
        train, validation: view stacks (``.npy``) of that view.
        settings: network and schedule.
        output: folder of the model.
        initial: weights to start from (safetensors), for fine-tuning.
        threads: CPU threads for torch.
        warm_start: the existing model; if only scans were added, training starts from it and is
            short. The log says why if not.
        tissues: further view stacks, whose images are synthesized during training, see
            :mod:`quicknat.synthesis.synthesize`.

    Raises:
        InputError: there are no training slices, stack shapes differ, the loss is not finite, the
            saved state is from another training, or memory is full.
        Interrupted: SIGTERM, SIGUSR1 or SIGINT was received; the state is saved.
    """
    setup = prepare_training(
        view, protocol, train, validation, settings, output, initial, threads, warm_start, tissues
    )
    keep_freed_memory()
    torch.backends.cudnn.benchmark = True  # slices have two shapes
    torch.set_float32_matmul_precision("high")
    try:
        with checkpoint.only_process(setup.state_folder):
            trainer = Trainer(setup)
            with checkpoint.end_recorded(setup.state_folder):
                trainer.run()
    except (MemoryError, OSError, RuntimeError) as error:
        if message := explained(error, setup.output):
            raise message from error
        raise


class Trainer:
    """Train one view from its saved state or from scratch, and write its model files.

    All random numbers depend on the seed and the position (epoch, steps done in it), see also
    ``data.py``, so no random state needs to be saved.
    """

    def __init__(self, setup: TrainingSetup) -> None:
        self.setup, self.settings, self.view = setup, setup.settings, setup.view
        self.stop_requested = False
        torch.set_num_threads(setup.threads)
        self.train_step = TrainStep(setup)
        self.device = self.train_step.device
        stride, count = self.settings.slice_stride, self.settings.network.slices
        slices = SliceSet(setup.train, setup.tissues, stride, count)
        self.validation = SliceSet(setup.validation, count=count)
        for part in (slices, self.validation):
            part.load(self.device)
        self.batches = Batches(slices, self.settings, setup.swapped, self.device, setup.boxes)
        self.epoch, self.step, self.elapsed, self.rate = 1, 0, 0.0, 0.0
        self.sums = torch.zeros(2, device=self.device)  # of the epoch's losses
        self.history: list[dict] = []
        self.best: dict[str, Any] = {"score": -1.0, "epoch": 0, "weights": {}}
        self._restore()
        log.info(
            "%s: %d parameters; %d slices of %d scans to train on, %d scans to validate on; "
            "%s, %s, %d thread(s)",
            self.view, sum(p.numel() for p in self.train_step.network.parameters()),
            len(slices), len(slices.paths), len(setup.validation), self.device,
            choose_precision(self.settings.precision), torch.get_num_threads(),
        )  # fmt: skip
        order = np.resize(np.arange(len(slices)), self.settings.batch_size)
        steps = (1, 3) if self.batches.cuts else (1,)  # one of each shape
        self.compiled = self.settings.compile and self.train_step.compile(
            [self.batches.batch(order, (0, step)) for step in steps]
        )

    def run(self) -> None:
        """Train until the last epoch, the last minute or early stopping, and write the model."""
        tensorboard = self.setup.output / "tensorboard"
        with ExitStack() as stack:
            stack.enter_context(self._signals())
            if not self.compiled:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            if not self.history:  # remove curves of an earlier training
                shutil.rmtree(tensorboard, ignore_errors=True)
            board = stack.enter_context(SummaryWriter(tensorboard, purge_step=self.epoch))
            self.saved = time.monotonic()
            while self._unfinished():
                self._train_epoch()
                self._end_epoch(board)
        facts = {
            **({"window": self.batches.window.tolist()} if self.batches.cuts else {}),
            "best_epoch": self.best["epoch"],
            "best_val_dice": self.best["score"] if self.setup.validation else None,
            "device": str(self.device),
            "device_name": device_name(self.device),
            "precision": choose_precision(self.settings.precision),
            "compiled": self.compiled,
        }
        write_model(self.setup, self.train_step.loss, self.best["weights"], self.history, facts)
        checkpoint.remove_states(self.setup.state_folder)
        log.info("%s: kept epoch %d; wrote %s", self.view, self.best["epoch"], self.setup.output)

    def _unfinished(self) -> bool:
        """Return whether there are epochs left, or an epoch to end that was interrupted."""
        left = self._steps_done() < self._steps() and not self._out_of_patience()
        return left or self.step > 0

    def _steps(self) -> int:
        """Return the steps of all epochs."""
        return self.settings.epochs * len(self.batches)

    def _steps_done(self) -> float:
        """Return how far the training is, in steps; `max_minutes` count as all steps."""
        done: float = (self.epoch - 1) * len(self.batches) + self.step
        if self.settings.max_minutes:
            share = self._seconds() / (60 * self.settings.max_minutes)
            done = max(done, share * self._steps())
        return min(done, self._steps())

    def _seconds(self) -> float:
        return self.elapsed + sum(row["seconds"] for row in self.history)

    def _seconds_left(self) -> float:
        done = self._steps_done()
        return self._seconds() * (self._steps() - done) / done

    def _rate(self) -> float:
        factor = learning_rate_factor(self._steps_done(), self._steps(), self.settings)
        return self.settings.learning_rate * factor

    def _train_epoch(self) -> None:
        """Train on the remaining batches of an epoch."""
        self.train_step.network.train()
        if not self.step:
            self.rate = self._rate()  # at the start of the epoch, for the history
        bar = tqdm(
            desc=f"{self.view} {self.epoch}/{self.settings.epochs}", total=len(self.batches),
            unit="batch", initial=self.step, disable=no_bar(),
        )  # fmt: skip
        logged = clock = time.perf_counter()
        for image, labels in self.batches.epoch(self.epoch, self.step):
            if self._steps_done() >= self._steps():  # by `max_minutes`
                break
            position = self.epoch, self.step
            self.sums += self.train_step.step(image, labels, position, self._rate())
            self.step += 1
            bar.update()
            if self.step % CHECK_STEPS == 0 or self.step == len(self.batches):
                self._check_finite()
            now = time.perf_counter()
            self.elapsed, clock = self.elapsed + now - clock, now
            if now - logged > LOG_SECONDS and bar.disable:
                logged = now
                self._log_progress()
            late = time.monotonic() - self.saved > 60 * self.settings.checkpoint_minutes
            if self.stop_requested or late:
                self._save()
            if self.stop_requested:
                self._interrupt()
        bar.close()

    def _end_epoch(self, board: SummaryWriter) -> None:
        """Validate, keep the best weights, log, and save the state."""
        start = time.perf_counter()
        self._save()  # so that an interruption during validation loses only the validation
        losses = self.sums.cpu() / self.step
        row = history.training_row(self.epoch, self.rate, *losses.tolist())
        score = float(self.epoch)  # without validation scans the latest epoch is the best
        if self.setup.validation:
            self.train_step.network.eval()
            # only the training step is compiled; validation would need a second compilation
            with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
                found = validate(self.train_step, self.validation, len(self.setup.classes))
            row |= history.validation_row(*found, self.setup.classes)
            score = row["val_dice"]
        row["seconds"] = self.elapsed + time.perf_counter() - start
        row["slices_per_second"] = self.step * self.settings.batch_size / self.elapsed
        self.history.append(row)
        if score > self.best["score"]:
            weights = {
                key: v.detach().clone() for key, v in self.train_step.network.state_dict().items()
            }
            self.best = {"score": score, "epoch": self.epoch, "weights": weights}
        if history.overfits(self.history) and not history.overfits(self.history[:-1]):
            log.warning("%s: %s", self.view, history.OVERFITTING)
        for key, value in row.items():
            board.add_scalar(key, value, self.epoch)
        self.epoch, self.step, self.elapsed = self.epoch + 1, 0, 0.0
        self.sums.zero_()
        described = history.describe_epoch(self.history, self.settings.epochs, self._seconds_left())
        log.info("%s %s", self.view, described)
        self._save()
        if self.stop_requested and self._steps_done() < self._steps():
            self._interrupt()

    def _restore(self) -> None:
        """Resume from the saved state, if there is one."""
        state = checkpoint.load_state(self.setup.state_folder, self.setup.fingerprint)
        if state is None:
            return
        for name in POSITION:
            setattr(self, name, state[name])
        self.sums = state["sums"].to(self.device)
        self.train_step.load_state_dict(state["train_step"])
        log.info(
            "%s: resuming in epoch %d after %d of its %d steps; the last attempt %s", self.view,
            self.epoch, self.step, len(self.batches), checkpoint.last_end(self.setup.state_folder),
        )  # fmt: skip

    def _save(self) -> None:
        """Save the state, unless its numbers are not finite."""
        self._check_finite()
        state = {key: getattr(self, key) for key in POSITION}
        state |= {"sums": self.sums.cpu(), "train_step": self.train_step.state_dict()}
        name = f"{self.epoch:05d}-{self.step:07d}"
        checkpoint.save_state(self.setup.state_folder, name, self.setup.fingerprint, state)
        self.saved = time.monotonic()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Record stop signals instead of ending at once, so that the state can be saved."""

        def request_stop(number: int, frame: object) -> None:
            self.stop_requested = True

        previous = {number: signal.signal(number, request_stop) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _interrupt(self) -> None:
        raise Interrupted(
            f"{self.view}: stopped in epoch {self.epoch} after step {self.step} by a signal; "
            "run the same command again to resume"
        )

    def _out_of_patience(self) -> bool:
        """Return whether the validation Dice has not improved for `patience` epochs."""
        patience = self.settings.patience
        if not (self.setup.validation and patience):
            return False
        if self.epoch - 1 - self.best["epoch"] < patience:
            return False
        log.info("%s: stopping early, no better Dice for %d epochs", self.view, patience)
        return True

    def _check_finite(self) -> None:
        """Raise an error before non-finite numbers reach the saved state."""
        if self.sums.isfinite().all() & self.train_step.finite():
            return
        state = self.setup.state_folder
        kept = any(state.glob(checkpoint.STATES))
        hint = f" (the previous state is kept; to start from scratch, delete {state})"
        raise InputError(
            f"{self.view} epoch {self.epoch}",
            f"the loss is not finite at step {self.step}",
            f"lower the learning rate and rerun{hint if kept else ''}",
        )

    def _log_progress(self) -> None:
        log.info(
            "%s epoch %d/%d, step %d/%d: loss %.3f, %.1f slices/s, %s of training left",
            self.view, self.epoch, self.settings.epochs, self.step, len(self.batches),
            self.sums.sum().item() / self.step,
            self.step * self.settings.batch_size / self.elapsed,
            history.duration(self._seconds_left()),
        )  # fmt: skip
