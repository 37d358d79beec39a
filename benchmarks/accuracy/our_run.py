"""A cross-validation run of ours as its peers see it: scans, labels, time, and how it is scored."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn
from tqdm import tqdm

from quicknat.cohort.sheet import Scan, read_sheet
from quicknat.config import TrainingSettings
from quicknat.evaluation.metrics import evaluate
from quicknat.images.labels import Protocol
from quicknat.images.volumes import read_volume
from quicknat.model.bundle import read_description

# from a conformed scan to class indices on the scan's own grid
Segmenter = Callable[[Path], np.ndarray]


class Stopwatch:
    """How much of a training's time is used up, from its making on.

    Without a GPU the time is CPU time, of all threads: on a machine shared with other work
    a training gets another fraction of the CPU each time, and wall-clock time says little.
    """

    def __init__(self, budget: float, on_gpu: bool) -> None:
        self.budget = budget
        self.clock = time.perf_counter if on_gpu else time.process_time
        self.started, self.wall_started = self.clock(), time.perf_counter()

    def fraction(self) -> float:
        """0 at the start, 1 at the end; more when it is late."""
        return (self.clock() - self.started) / self.budget

    def times(self) -> dict[str, float]:
        """``seconds`` of the kind that the budget is in, and ``wall_seconds``."""
        return {
            "seconds": round(self.clock() - self.started, 1),
            "wall_seconds": round(time.perf_counter() - self.wall_started, 1),
        }


@dataclass(frozen=True)
class OurRun:
    """One arm and fold of ``cross_validate.py``.

    ``folder``: ``…/ARM/FOLD``. ``model``: the model folder that its three views make. ``on_gpu``:
    whether a GPU trains, so that time is the clock's. ``seconds``: time that a peer has per view,
    if not what ours took.
    """

    folder: Path
    model: Path
    on_gpu: bool
    seconds: float | None = None

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @cached_property
    def views(self) -> dict[str, dict[str, Any]]:
        """What the model says of each of its views."""
        return read_description(self.model)["views"]

    def settings(self, view: str) -> TrainingSettings:
        """With which ours was trained."""
        return TrainingSettings.read(self.views[view]["training"])

    def scans(self, split: str) -> list[Scan]:
        """Those of the sheet that are for ``train`` or ``test``."""
        sheet = read_sheet(self.folder / "cohort.tsv")
        return [scan for scan in sheet if scan.split == split]

    def stacks(self, view: str) -> list[Path]:
        """The slices that ours was trained on."""
        return [self.results / f"slices/{view}/{scan.id}.npy" for scan in self.scans("train")]

    def conformed(self, scan: Scan, suffix: str) -> Path:
        """The file of a scan on the networks' grid: its ``T1w`` or its ``dseg``."""
        return self.results / f"scans/{scan.id}/anat/{scan.id}_space-conformed_{suffix}.nii.gz"

    def times(self, view: str) -> dict[str, float]:
        """What our own training of a view took, pre-training included, as a stopwatch tells it.

        The workflow notes how long each job ran and how much of the CPU it got.
        """
        seconds = wall = 0.0
        for history in self.results.glob(f"models/*/{view}/history.tsv"):
            stage = history.parents[1].name
            took = float(pd.read_csv(history, sep="\t")["seconds"].sum())
            job = pd.read_csv(self.results / f"benchmarks/{stage}/{view}.tsv", sep="\t").iloc[-1]
            wall += took
            seconds += took if self.on_gpu else took * float(job["cpu_time"]) / float(job["s"])
        if not wall:
            raise SystemExit(f"{self.folder}: the {view} view is not trained yet; give --seconds")
        return {"seconds": round(seconds, 1), "wall_seconds": round(wall, 1)}

    def budget(self, view: str) -> float:
        """Time that a peer has for a view."""
        return self.seconds or self.times(view)["seconds"]

    def measure(self, segmenter: Segmenter, protocol: Protocol) -> pd.DataFrame:
        """Scores of all test scans on their own grids, as of the workflow's ``evaluate``."""
        tables = []
        for scan in tqdm(self.scans("test"), desc="scoring", unit="scan"):
            truth = read_volume(self.results / f"scans/{scan.id}/anat/{scan.id}_dseg.nii.gz")
            labels = segmenter(self.conformed(scan, "T1w"))
            tables.append(evaluate(labels, truth.data, truth.affine, protocol, scan.id))
        return pd.concat(tables, ignore_index=True)


def parameters(network: nn.Module) -> int:
    """Number of parameters of a network."""
    return sum(weights.numel() for weights in network.parameters())
