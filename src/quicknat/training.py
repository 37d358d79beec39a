"""Train one view's network (Roy et al. 2019, sections 2.3 and 3.2)."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Subset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from quicknat.checkpoint import load_state, save_state
from quicknat.data import EpochBatches, SliceDataset, augmentation
from quicknat.devices import choose_precision, keep_freed_memory, make_fabric, share_threads
from quicknat.errors import InputError, Interrupted
from quicknat.history import DICE, describe_epoch, duration, overfits
from quicknat.labels import Protocol
from quicknat.losses import CombinedLoss, class_weights, edge_weight
from quicknat.model_files import write_model
from quicknat.network import QuickNAT, load_weights
from quicknat.optimizers import TrainingSettings, learning_rate_factor, make_optimizer
from quicknat.plan import Plan, make_plan
from quicknat.signals import forwarded_signals, stop_flag
from quicknat.validation import validate

log = logging.getLogger(__name__)

FINITE_CHECK_STEPS = 10  # looking at the loss makes a GPU wait, so not at every step
LOG_SECONDS = 60


class ViewTraining:
    """One view's training, from its saved state or the start, to the files of its model.

    A position is (epoch, batches done in it). All that is random is drawn from it and the seed
    (see also ``data.py``), so the position stands for every random state.
    """

    def __init__(self, fabric: Fabric, plan: Plan) -> None:
        settings = plan.settings
        self.fabric, self.plan, self.settings = fabric, plan, settings
        workers = share_threads(plan.threads, settings)
        torch.manual_seed(settings.seed)
        network = QuickNAT(len(plan.classes), settings.network)
        if plan.initial:
            load_weights(network, plan.initial)
        self.network = network.to(memory_format=torch.channels_last)
        callable_network = torch.compile(network, dynamic=False) if settings.compile else network
        self.model, self.optimizer = fabric.setup(
            callable_network, make_optimizer(network, settings)
        )
        power, cap = settings.class_weight_power, settings.class_weight_cap
        self.loss = CombinedLoss(
            class_weights(plan.counts, power, cap), edge_weight(plan.counts, power, cap)
        ).to(fabric.device)
        self._make_loaders(workers)
        self.scheduler = LambdaLR(
            self.optimizer,
            lambda step: learning_rate_factor(
                step, -(-len(self.batches) // settings.accumulate), settings
            ),
        )
        self.epoch, self.step, self.elapsed, self.waited = 1, 0, 0.0, 0.0
        self.sums = torch.zeros(2, device=fabric.device)  # of the epoch's losses, this process's
        self.history: list[dict] = []
        self.best = {"score": -1.0, "epoch": 0, "weights": {}}
        self._restore()
        self.compiled = settings.compile and self._compile()
        log.info(
            "%s: %d slices of %d scans to train on, %d of %d to validate on; %s, %s, %s, "
            "%d process(es) of %d thread(s) and %d for loading; %d parameters",
            plan.view, self.batches.n_slices, len(plan.train), len(self.validating or ()),
            len(plan.validation), fabric.device, choose_precision(settings.precision),
            "compiled" if self.compiled else "not compiled", fabric.world_size,
            torch.get_num_threads(), workers, sum(p.numel() for p in network.parameters()),
        )  # fmt: skip

    def _make_loaders(self, workers: int) -> None:
        fabric, plan, settings = self.fabric, self.plan, self.settings
        rank, world = fabric.global_rank, fabric.world_size
        stacks = SliceDataset(plan.train)
        if settings.augment:
            stacks = SliceDataset(plan.train, augmentation(plan.slice_shape[0]), settings.seed)
        self.batches = EpochBatches(len(stacks), settings.batch_size, settings.seed, rank, world)
        self.validating = SliceDataset(plan.validation) if plan.validation else None
        common = {"num_workers": workers, "persistent_workers": workers > 0}
        common["pin_memory"] = fabric.device.type == "cuda"
        self.loader = fabric.setup_dataloaders(
            DataLoader(stacks, batch_sampler=self.batches, **common), use_distributed_sampler=False
        )
        if self.validating:
            mine = Subset(self.validating, range(rank, len(self.validating), world))
            self.validation_loader = fabric.setup_dataloaders(
                DataLoader(mine, settings.batch_size, **common), use_distributed_sampler=False
            )

    def _compile(self) -> bool:
        """Compile the training step, once and before the clock runs; whether that works here."""
        state = {key: value.clone() for key, value in self.network.state_dict().items()}
        start = time.perf_counter()
        log.info("%s: compiling the network, a minute or two at its first time", self.plan.view)
        try:
            image = torch.rand(
                self.settings.batch_size, 1, *self.plan.slice_shape, device=self.fabric.device
            )
            self.fabric.backward(self.model(image).float().mean())
            log.info("%s: compiled in %s", self.plan.view, duration(time.perf_counter() - start))
            return True
        except Exception as error:  # a missing C++ compiler, for one; there are many kinds
            log.warning(
                "%s: the network cannot be compiled here (%s); training goes on without, slower. "
                "'training: compile: false' in the configuration is the same without this warning",
                self.plan.view, next(iter(str(error).splitlines()), type(error).__name__),
            )  # fmt: skip
            return False
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            self.network.load_state_dict(state)  # batch norm kept statistics of the trial

    def _state(self) -> dict:
        return {
            "epoch": self.epoch,
            "step": self.step,
            "elapsed": self.elapsed,
            "waited": self.waited,
            "sums": self.fabric.all_reduce(self.sums, reduce_op="sum").cpu(),
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "history": self.history,
            "best": self.best,
        }

    def _restore(self) -> None:
        state = load_state(self.plan.state_folder, self.plan.fingerprint)
        if state is None:
            return
        for name in ("epoch", "step", "elapsed", "waited", "history", "best"):
            setattr(self, name, state[name])
        if self.fabric.is_global_zero:  # the sum over all processes is one process's from here on
            self.sums = state["sums"].to(self.fabric.device)
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        log.info(
            "%s: going on in epoch %d after %d of its %d steps", self.plan.view, self.epoch,
            self.step, len(self.batches),
        )  # fmt: skip

    def _save(self) -> None:
        state = self._state()  # by all processes, since they add up their losses
        if self.fabric.is_global_zero:
            name = f"{self.epoch:05d}-{self.step:07d}"
            save_state(self.plan.state_folder, name, self.plan.fingerprint, state)
        self.saved = time.monotonic()

    def _agreed(self, *wishes: bool) -> list[bool]:
        """Whether any of the processes wants it, so that all of them do the same."""
        if self.fabric.world_size == 1:
            return list(wishes)
        votes = torch.tensor(wishes, dtype=torch.float32, device=self.fabric.device)
        return (self.fabric.all_reduce(votes, reduce_op="sum") > 0).tolist()

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
            self.stop = stack.enter_context(stop_flag())
            # not once it is compiled: then it runs as it is, whole, and validation without
            if not self.compiled:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            board = None
            if self.fabric.is_global_zero:
                if not self.history:  # curves of an earlier training
                    shutil.rmtree(tensorboard, ignore_errors=True)
                board = stack.enter_context(SummaryWriter(tensorboard, purge_step=self.epoch))
            self.saved = time.monotonic()
            while self.epoch <= epochs:
                if self.validating and patience and self.epoch - 1 - self.best["epoch"] >= patience:
                    log.info("%s: no better for %d epochs, so it ends", self.plan.view, patience)
                    break
                self._train_epoch()
                self._end_epoch(board)
        if self.fabric.is_global_zero:
            facts = {
                "best_epoch": self.best["epoch"],
                "best_val_dice": self.best["score"] if self.validating else None,
                "device": str(self.fabric.device),
                "precision": choose_precision(self.settings.precision),
                "compiled": self.compiled,
            }
            write_model(self.plan, self.loss, self.best["weights"], self.history, facts)
            shutil.rmtree(self.plan.state_folder)
            log.info(
                "%s: kept epoch %d; wrote %s", self.plan.view, self.best["epoch"], self.plan.output
            )

    def _train_epoch(self) -> None:
        """What is left of one pass over the training slices."""
        settings, total = self.settings, len(self.batches)
        self.network.train()
        self.model.train()
        self.batches.epoch, self.batches.start = self.epoch, self.step
        bar = tqdm(
            desc=f"{self.plan.view} {self.epoch}/{settings.epochs}", total=total, unit="batch",
            initial=self.step, disable=None if self.fabric.is_global_zero else True,
        )  # fmt: skip
        told = clock = time.perf_counter()
        loader = iter(self.loader)
        while self.step < total:
            batch = next(loader)
            self.waited += time.perf_counter() - clock
            stepping = (self.step + 1) % settings.accumulate == 0 or self.step + 1 == total
            self._train_step(batch, stepping)
            self.step += 1
            bar.update()
            if self.step % FINITE_CHECK_STEPS == 0 or self.step == total:
                self._check_finite()
            now = time.perf_counter()
            self.elapsed, clock = self.elapsed + now - clock, now
            if now - told > LOG_SECONDS and bar.disable:
                told = now
                self._tell_progress()
            if stepping:  # between steps there are gradients that no state holds
                late = time.monotonic() - self.saved > 60 * settings.checkpoint_minutes
                stop, late = self._agreed(self.stop.requested, late)
                if stop or late:
                    self._check_finite()
                    self._save()
                if stop:
                    self._interrupt()
                clock = time.perf_counter()
        bar.close()

    def _train_step(self, batch: dict[str, Tensor], stepping: bool) -> None:
        position = self.epoch, self.step, self.fabric.global_rank
        draw = np.random.SeedSequence((self.settings.seed, *position)).generate_state(1)[0]
        torch.manual_seed(int(draw))  # dropout
        with self.fabric.no_backward_sync(self.model, enabled=not stepping):
            entropy, dice = self.loss(self.model(batch["image"]), batch["labels"])
            self.fabric.backward((entropy + dice) / self.settings.accumulate)
        if stepping:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.scheduler.step()
        self.sums += torch.stack((entropy, dice)).detach()

    def _check_finite(self) -> None:
        """End before a loss that is no number can reach the saved state."""
        if not self._agreed(not bool(self.sums.isfinite().all()))[0]:
            return
        saved = list(self.plan.state_folder.glob("*.json"))
        kept = f"; the state before it is kept in {self.plan.state_folder}" if saved else ""
        raise InputError(
            f"{self.plan.view} epoch {self.epoch}",
            f"the loss is not finite by step {self.step}{kept}",
            "lower the learning rate, delete that state if there is one, and rerun",
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
        self.network.eval()
        self.model.eval()
        # compiled is the training step only: the validation would be compiled once more
        with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
            return validate(
                self.fabric, self.model, self.loss, self.validation_loader, len(self.plan.classes)
            )

    def _end_epoch(self, board: SummaryWriter | None) -> None:
        """Validate, remember the best weights, tell the user, save the state."""
        rate, start = self.scheduler.get_last_lr()[0], time.perf_counter()
        self._save()
        mean = self.fabric.all_reduce(self.sums, reduce_op="mean").cpu().double() / len(
            self.batches
        )
        entropy, dice_loss = mean.tolist()
        row = {
            "epoch": self.epoch,
            "learning_rate": rate,
            "train_loss": entropy + dice_loss,
            "train_cross_entropy": entropy,
            "train_dice_loss": dice_loss,
        }
        score = float(self.epoch)  # without validation scans the latest epoch is the best
        if self.validating:
            row["val_loss"], dice = self._validate()
            row["val_dice"] = score = float(np.nanmean(dice[1:]))
            row |= {
                f"{DICE}{name}": float(value)
                for name, value in zip(self.plan.classes[1:], dice[1:], strict=True)
            }
        row["seconds"] = self.elapsed + time.perf_counter() - start
        row["slices_per_second"] = len(self.batches) * self.batches.together / self.elapsed
        row["waiting"] = self.waited / self.elapsed
        self.history.append(row)
        if score > self.best["score"]:
            weights = {
                key: value.detach().clone() for key, value in self.network.state_dict().items()
            }
            self.best = {"score": score, "epoch": self.epoch, "weights": weights}
        mean_seconds = sum(past["seconds"] for past in self.history) / len(self.history)
        left = (self.settings.epochs - self.epoch) * mean_seconds
        log.info("%s %s", self.plan.view, describe_epoch(row, self.settings.epochs, left))
        if overfits(self.history) and not overfits(self.history[:-1]):
            log.warning(
                "%s: validation loss rises while training loss falls: the network learns the "
                "training scans by heart. More training scans help most; else 'augment: true', "
                "'dropout: 0.2', fewer epochs, or 'patience' to stop in time. "
                "The best epoch is kept in any case",
                self.plan.view,
            )
        for key, value in row.items() if board else ():
            board.add_scalar(key, value, self.epoch)
        self.epoch, self.step, self.elapsed, self.waited = self.epoch + 1, 0, 0.0, 0.0
        self.sums.zero_()
        self._save()
        if self._agreed(self.stop.requested)[0] and self.epoch <= self.settings.epochs:
            self._interrupt()


def _train(fabric: Fabric, plan: Plan) -> InputError | Interrupted | None:
    """Train in this process; what went wrong travels back to the one that started it."""
    if fabric.world_size > 1:  # a new process, without the command line's logging
        level = logging.INFO if fabric.is_global_zero else logging.ERROR
        logging.basicConfig(level=level, format="%(message)s")
    keep_freed_memory()
    torch.backends.cudnn.benchmark = True  # all slices have one shape
    torch.set_float32_matmul_precision("high")
    try:
        ViewTraining(fabric, plan).run()
    except (InputError, Interrupted) as error:
        return error
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

    Raises:
        InputError: no training slices, stacks of another shape, a loss that is not finite, or a
            saved state of another training.
        Interrupted: SIGTERM, SIGUSR1 or SIGINT came; the state is saved.
    """
    plan = make_plan(view, protocol, train, validation, settings, output, initial, threads)
    fabric = make_fabric(view, settings)
    with forwarded_signals() if settings.devices > 1 else nullcontext():
        outcome = fabric.launch(_train, plan)
    if outcome:
        raise outcome
