"""nnU-Net v2, configuration ``2d``, on the conformed scans of a run of ours.

It makes its fingerprint, plan and preprocessing as for any data set (by its default planner),
trains on all training participants (fold ``all``) and predicts with its own sliding window. What
differs from ``nnUNetv2_train`` and ``nnUNetv2_predict``:

- no mirroring, in training (``nnUNetTrainerNoMirroring``) or in predicting: left and right are
  different classes;
- slices per batch are as many as ours: its own plan, made for 250,000 steps on a GPU, has five
  times as many, so that there would be a fifth of the steps;
- it ends when its time is up, which is that of our three views together: its learning rate falls by
  its own polynomial, over the time rather than over 1000 epochs, and at every step;
- no validation while training, no checkpoints, no plots: the last weights are used, and all of its
  time goes into steps;
- on a CPU with bf16 instructions it trains in bf16 as ours does, where it would take fp32;
  that makes its steps 1.6 times as fast. It is not compiled there, which nnU-Net does not allow.

For conformed scans of 2 mm it plans a U-Net of 32 to 512 filters (7.8 million parameters) on axial
slices of 96 × 80; a slice of 96 × 96 would cost 1.71 · 10⁹ multiplications, of QuickNAT's 1.21.

Import it with nnU-Net's variable ``nnUNet_def_n_proc`` set to the number of threads.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprints,
    plan_experiments,
    preprocess,
)
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
    nnUNetTrainerNoMirroring,
)
from our_run import OurRun, Segmenter, Stopwatch, parameters

from quicknat.hardware import computes_in_bfloat16
from quicknat.images.conform import load_conformed, record_grid
from quicknat.images.labels import Protocol
from quicknat.images.slices import VIEWS
from quicknat.segmentation.native import to_native

MAX_WORKERS = 8
DATASET = "Dataset001_Peers"
VIEW = "axial"  # what nnU-Net cuts volumes of equal spacing into
POWER = 0.9  # of nnU-Net's learning rate


def in_bfloat16(forward: Callable) -> Callable:
    """The same network in autocast; its logits, at one or more resolutions, in float32."""

    def autocast(image: torch.Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            logits = forward(image)
        return [one.float() for one in logits] if isinstance(logits, list) else logits.float()

    return autocast


class Trainer(nnUNetTrainerNoMirroring):
    """Trains for `seconds`; then ``steps`` and ``times`` say what it did."""

    seconds: float
    steps = 0
    times: dict[str, float]

    def run_training(self) -> None:
        self.disable_checkpointing = True
        self.on_train_start()
        self.network.train()
        on_cpu = self.device.type == "cpu"
        if on_cpu and computes_in_bfloat16(gpu=False):
            self.network.forward = in_bfloat16(self.network.forward)
        self.train_step(next(self.dataloader_train))  # a GPU compiles the network here
        stopwatch = Stopwatch(self.seconds, not on_cpu)
        while (fraction := stopwatch.fraction()) < 1:
            for group in self.optimizer.param_groups:
                group["lr"] = self.initial_lr * (1 - fraction) ** POWER
            self.train_step(next(self.dataloader_train))
            self.steps += 1
        self.times = stopwatch.times()
        self.network.__dict__.pop("forward", None)
        self.on_train_end()


def write_dataset(run: OurRun, protocol: Protocol, folder: Path) -> None:
    """nnU-Net's raw data set: links to the conformed training scans and their label maps."""
    scans = run.scans("train")
    for scan in scans:
        for part, name, suffix in (
            ("imagesTr", f"{scan.id}_0000", "T1w"),
            ("labelsTr", scan.id, "dseg"),
        ):
            link = folder / part / f"{name}.nii.gz"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(run.conformed(scan, suffix).resolve())
    labels = {"background": 0}
    labels |= {name: number for number, name in enumerate(protocol.names[1:], start=1)}
    generate_dataset_json(str(folder), {0: "T1w"}, labels, len(scans), ".nii.gz")


def train_nnunet(
    run: OurRun, protocol: Protocol, threads: int, work: Path
) -> tuple[Segmenter, dict[str, Any]]:
    """Plan, preprocess and train.

    Args:
        run: gives the training participants, the slices per step and the time.
        protocol: its classes.
        threads: of the CPU; on a GPU all but one of them augment.
        work: absolute path of a folder for nnU-Net's own files; emptied first.

    Returns:
        What segments a conformed scan, and facts of the training.
    """
    shutil.rmtree(work, ignore_errors=True)
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(work / name)
    write_dataset(run, protocol, work / "raw" / DATASET)
    os.environ["nnUNet_n_proc_DA"] = "1"  # noqa: SIM112  # torch's threads while planning
    extract_fingerprints([1], num_processes=threads)
    plans_name = plan_experiments([1])
    preprocess([1], plans_name, ("2d",), (threads,))

    described = work / "preprocessed" / DATASET
    plans = json.loads((described / f"{plans_name}.json").read_text())
    settings = run.settings(VIEW)
    planned = plans["configurations"]["2d"]["batch_size"]
    plans["configurations"]["2d"]["batch_size"] = settings.batch_size
    workers = min(threads - 1, MAX_WORKERS) if run.on_gpu else 0
    torch.set_num_threads(max(1, threads - workers))
    os.environ["nnUNet_n_proc_DA"] = str(workers)  # noqa: SIM112
    dataset = json.loads((described / "dataset.json").read_text())
    torch.manual_seed(0)
    np.random.seed(0)  # its data loader draws from there
    device = torch.device("cuda" if run.on_gpu else "cpu")
    trainer = Trainer(plans | {"continue_training": False}, "2d", "all", dataset, device)
    trainer.seconds = sum(map(run.budget, VIEWS))
    trainer.run_training()
    trainer.set_deep_supervision_enabled(False)

    predictor = nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager,
        [trainer.network.state_dict()], dataset, "Trainer", None,
    )  # fmt: skip

    def segment(path: Path) -> np.ndarray:
        image, properties = SimpleITKIO().read_images([str(path)])
        _, found = predictor.predict_single_npy_array(image, properties, None, None, True)
        _, grid, record = load_conformed(path)
        # its axes are z, y, x
        probabilities = torch.from_numpy(found.transpose(0, 3, 2, 1).astype(np.float32))
        return to_native([(probabilities, grid.affine)], record_grid(record))

    configuration = trainer.configuration_manager
    return segment, {
        "parameters": parameters(trainer.network),
        **trainer.times,
        "steps": trainer.steps,
        "batch_size": settings.batch_size,
        "planned_batch_size": planned,
        "patch_size": [int(side) for side in configuration.patch_size],
        "stages": len(configuration.pool_op_kernel_sizes),
        "planned_steps": trainer.num_epochs * trainer.num_iterations_per_epoch,
    }
