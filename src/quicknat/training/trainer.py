"""The training of one view, from a saved state or the start, to the files of its model."""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import ExitStack, nullcontext
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader, Subset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from quicknat.errors import InputError, Interrupted
from quicknat.hardware import device_name
from quicknat.progress import no_bar
from quicknat.training.checkpoint import load_state, remove_states, save_state
from quicknat.training.data import EpochBatches, SliceDataset, augmentation
from quicknat.training.devices import choose_precision, share_threads
from quicknat.training.history import (
    OVERFITTING,
    describe_epoch,
    duration,
    overfits,
    training_row,
    validation_row,
)
from quicknat.training.model_files import write_model
from quicknat.training.plan import Plan
from quicknat.training.signals import outlive_termination, stop_flag
from quicknat.training.train_step import TrainStep
from quicknat.training.validation import validate

log = logging.getLogger(__name__)

CHECK_STEPS = 10  # looking at the loss makes a GPU wait, so not at every step
LOG_SECONDS = 60
POSITION = ("epoch", "step", "elapsed", "waited", "history", "best")  # all saved as it is


class Trainer:
    """One view's training, from its saved state or the start, to the files of its model.

    A position is (epoch, batches done in it). All that is random is drawn from it and the seed
    (see also ``data.py``), so the position stands for every random state.
    """

    def __init__(self, fabric: Fabric, plan: Plan) -> None:
        self.fabric, self.plan, self.settings = fabric, plan, plan.settings
        workers = share_threads(plan.threads, plan.settings)
        self.batches, self.loader, self.validation_loader = self._loaders(workers)
        self.train_step = TrainStep(fabric, plan, len(self.batches))
        self.epoch, self.step, self.elapsed, self.waited = 1, 0, 0.0, 0.0
        self.sums = torch.zeros(2, device=fabric.device)  # of the epoch's losses, this process's
        self.history: list[dict] = []
        self.best: dict[str, Any] = {"score": -1.0, "epoch": 0, "weights": {}}
        self._restore()
        log.info(
            "%s: %d parameters; %d slices of %d scans to train on, %d scans to validate on; "
            "%s, %s, %d process(es) of %d thread(s) and %d for loading",
            plan.view, sum(p.numel() for p in self.train_step.network.parameters()),
            self.batches.n_slices, len(plan.train) + len(plan.tissues), len(plan.validation),
            fabric.device,
            choose_precision(plan.settings.precision), fabric.world_size,
            torch.get_num_threads(), workers,
        )  # fmt: skip
        self.compiled = plan.settings.compile and self.train_step.compile()

    def _loaders(self, workers: int) -> tuple[EpochBatches, Any, Any]:
        fabric, plan, settings = self.fabric, self.plan, self.settings
        rank, world = fabric.global_rank, fabric.world_size
        transform = augmentation(plan.slice_shape[0]) if settings.augment else None
        slices = SliceDataset(
            plan.train, transform, settings.seed, settings.slice_stride, plan.tissues, plan.swapped
        )
        batches = EpochBatches(len(slices), settings.batch_size, settings.seed, rank, world)
        common: dict[str, Any] = {
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "pin_memory": fabric.device.type == "cuda",
            "worker_init_fn": outlive_termination,
        }
        loader = DataLoader(slices, batch_sampler=batches, **common)
        training = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
        if not plan.validation:
            return batches, training, None
        slices = SliceDataset(plan.validation)
        mine = Subset(slices, range(rank, len(slices), world))
        loader = DataLoader(mine, settings.batch_size, **common)
        validation = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
        return batches, training, validation

    def _end_loaders(self) -> None:
        """End the loader processes; the interpreter would ask them by SIGTERM, and wait."""
        for loader in filter(None, (self.loader, self.validation_loader)):
            if iterator := loader._dataloader._iterator:  # neither has a public name
                iterator._shutdown_workers()
                for worker in iterator._workers:  # one that still waits for a disk
                    worker.kill()

    def _restore(self) -> None:
        state = load_state(self.plan.state_folder, self.plan.fingerprint)
        if state is None:
            return
        for name in POSITION:
            setattr(self, name, state[name])
        if self.fabric.is_global_zero:  # the sum over all processes is one process's from here on
            self.sums = state["sums"].to(self.fabric.device)
        self.train_step.load_state_dict(state["train_step"])
        log.info(
            "%s: going on in epoch %d after %d of its %d steps", self.plan.view, self.epoch,
            self.step, len(self.batches),
        )  # fmt: skip

    def _save(self) -> None:
        self._check_finite()
        sums = self._reduced(self.sums.clone(), "sum").cpu()  # it adds in place
        if self.fabric.is_global_zero:
            name = f"{self.epoch:05d}-{self.step:07d}"
            state = {key: getattr(self, key) for key in POSITION}
            state |= {"sums": sums, "train_step": self.train_step.state_dict()}
            save_state(self.plan.state_folder, name, self.plan.fingerprint, state)
        self.saved = time.monotonic()

    def _reduced(self, values: torch.Tensor, way: str) -> torch.Tensor:
        """Sum or mean over the processes; Fabric's type allows whole collections of tensors."""
        return cast(torch.Tensor, self.fabric.all_reduce(values, reduce_op=way))

    def _agreed(self, *wishes: bool) -> list[bool]:
        """Whether any of the processes wants it, so that all of them do the same."""
        if self.fabric.world_size == 1:
            return list(wishes)
        votes = torch.tensor(wishes, dtype=torch.float32, device=self.fabric.device)
        return (self._reduced(votes, "sum") > 0).tolist()

    def _interrupt(self) -> None:
        raise Interrupted(
            f"{self.plan.view}: stopped in epoch {self.epoch} after step {self.step} by a signal; "
            "the same command goes on from there"
        )

    def run(self) -> None:
        """Train until the last epoch, or until patience ends, and write the model."""
        epochs, patience = self.settings.epochs, self.settings.patience
        tensorboard = self.plan.output / "tensorboard"
        with ExitStack() as stack:
            stack.callback(self._end_loaders)
            self.stop = stack.enter_context(stop_flag())
            if not self.compiled:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            board = None
            if self.fabric.is_global_zero:
                if not self.history:  # curves of an earlier training
                    shutil.rmtree(tensorboard, ignore_errors=True)
                board = stack.enter_context(SummaryWriter(tensorboard, purge_step=self.epoch))
            self.saved = time.monotonic()
            while self.epoch <= epochs:
                if (
                    self.validation_loader
                    and patience
                    and self.epoch - 1 - self.best["epoch"] >= patience
                ):
                    log.info("%s: no better for %d epochs, so it ends", self.plan.view, patience)
                    break
                self._train_epoch()
                self._end_epoch(board)
        if self.fabric.is_global_zero:
            facts = {
                "best_epoch": self.best["epoch"],
                "best_val_dice": self.best["score"] if self.validation_loader else None,
                "device": str(self.fabric.device),
                "device_name": device_name(self.fabric.device),
                "precision": choose_precision(self.settings.precision),
                "compiled": self.compiled,
            }
            write_model(self.plan, self.train_step.loss, self.best["weights"], self.history, facts)
            remove_states(self.plan.state_folder)
            log.info(
                "%s: kept epoch %d; wrote %s", self.plan.view, self.best["epoch"], self.plan.output
            )

    def _train_epoch(self) -> None:
        """What is left of one pass over the training slices."""
        settings, total = self.settings, len(self.batches)
        self.train_step.model.train()
        self.batches.epoch, self.batches.start = self.epoch, self.step
        bar = tqdm(
            desc=f"{self.plan.view} {self.epoch}/{settings.epochs}", total=total, unit="batch",
            initial=self.step, disable=no_bar() if self.fabric.is_global_zero else True,
        )  # fmt: skip
        told = clock = time.perf_counter()
        loader = iter(self.loader)
        while self.step < total:
            batch = next(loader)
            self.waited += time.perf_counter() - clock
            update = (self.step + 1) % settings.accumulate == 0 or self.step + 1 == total
            position = self.epoch, self.step, self.fabric.global_rank
            self.sums += self.train_step.step(batch, position, update)
            self.step += 1
            bar.update()
            if self.step % CHECK_STEPS == 0 or self.step == total:
                self._check_finite()
            now = time.perf_counter()
            self.elapsed, clock = self.elapsed + now - clock, now
            if now - told > LOG_SECONDS and bar.disable:
                told = now
                self._tell_progress()
            if update:  # between updates there are gradients that no state holds
                late = time.monotonic() - self.saved > 60 * settings.checkpoint_minutes
                stop, late = self._agreed(self.stop.requested, late)
                if stop or late:
                    self._save()
                if stop:
                    self._interrupt()
                clock = time.perf_counter()
        bar.close()

    def _check_finite(self) -> None:
        """End before numbers that are none can reach the saved state."""
        if not self._agreed(not (self.sums.isfinite().all() & self.train_step.finite()))[0]:
            return
        state = self.plan.state_folder
        kept = any(state.glob("*.json")) if state.exists() else False
        raise InputError(
            f"{self.plan.view} epoch {self.epoch}",
            f"the loss is not finite by step {self.step}",
            "lower the learning rate and rerun"
            + (f" (the state before this is kept; to start anew delete {state})" if kept else ""),
        )

    def _tell_progress(self) -> None:
        speed = self.step / self.elapsed
        left = self.settings.epochs * len(self.batches)
        left -= (self.epoch - 1) * len(self.batches) + self.step
        log.info(
            "%s epoch %d/%d, step %d/%d: loss %.3f, %.1f slices/s, %s of training left",
            self.plan.view, self.epoch, self.settings.epochs, self.step, len(self.batches),
            self.sums.sum().item() / self.step, speed * self.batches.together,
            duration(left / speed),
        )  # fmt: skip

    def _validate(self) -> tuple[float, np.ndarray]:
        self.train_step.model.eval()
        # what is compiled is the training step; validation would take as long to compile again
        with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
            return validate(
                self.fabric, self.train_step.model, self.train_step.loss, self.validation_loader,
                len(self.plan.classes),
            )  # fmt: skip

    def _end_epoch(self, board: SummaryWriter | None) -> None:
        """Validate, remember the best weights, tell the user, save the state."""
        start = time.perf_counter()
        self._save()  # so that an end during validation costs no more than that
        losses = self._reduced(self.sums, "mean").cpu() / len(self.batches)
        row = training_row(self.epoch, self.train_step.rate(self.epoch), *losses.tolist())
        score = float(self.epoch)  # without validation scans the latest epoch is the best
        if self.validation_loader:
            row |= validation_row(*self._validate(), self.plan.classes)
            score = row["val_dice"]
        row["seconds"] = self.elapsed + time.perf_counter() - start
        row["slices_per_second"] = len(self.batches) * self.batches.together / self.elapsed
        row["waiting"] = self.waited / self.elapsed
        self.history.append(row)
        if score > self.best["score"]:
            weights = {
                key: v.detach().clone() for key, v in self.train_step.network.state_dict().items()
            }
            self.best = {"score": score, "epoch": self.epoch, "weights": weights}
        log.info("%s %s", self.plan.view, describe_epoch(self.history, self.settings.epochs))
        if overfits(self.history) and not overfits(self.history[:-1]):
            log.warning("%s: %s", self.plan.view, OVERFITTING)
        if board:
            for key, value in row.items():
                board.add_scalar(key, value, self.epoch)
        self.epoch, self.step, self.elapsed, self.waited = self.epoch + 1, 0, 0.0, 0.0
        self.sums.zero_()
        self._save()
        if self._agreed(self.stop.requested)[0] and self.epoch <= self.settings.epochs:
            self._interrupt()
