"""Other networks trained side by side with ours: same scans, grid, time, machine and measures.

    python benchmarks/accuracy/peers.py /scratch/cv/scratch/0 --peer basicunet \
        --output /scratch/peers

RUN_FOLDER is one finished arm and fold of ``cross_validate.py``. A peer is trained on its training
participants, as long as our training took, and segments its test participants;
``OUTPUT/{peer}/{fold}`` gets ``metrics.tsv`` with the columns of the workflow's, and
``facts.json``. What is there is not made again. ``peers_report.py`` compares all that OUTPUT holds.

- ``basicunet``, ``dynunet``: see ``peer_networks.py``. One network per view in place of ours, all
  else of segmenting is ours. ``metrics_coronal.tsv`` is of the coronal network alone.
- ``nnunet``: see ``peer_nnunet.py``. Needs the packages of ``requirements.txt`` beside this file.
- ``quicknat``: ours, as the run left it; its folder is named after the arm as well. Nothing is
  trained. ``metrics_unweighted.tsv`` is with 40 % prior correction, as our recipe
  has it: the losses of the other networks have no class weights.

Without a GPU, time is CPU time: see ``our_run.Stopwatch``.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import warnings
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from our_run import OurRun, Segmenter, parameters
from peer_networks import train_network

from quicknat.files import written_whole
from quicknat.hardware import device_name, gpu_works, keep_freed_memory
from quicknat.images.conform import load_conformed, record_grid
from quicknat.images.slices import VIEWS
from quicknat.model.bundle import Bundle, load_bundle, read_description
from quicknat.model.losses import prior_offsets
from quicknat.segmentation.inference import segment

CORONAL = {"coronal": 1.0, "axial": 0.0, "sagittal": 0.0}  # weights of the views
TAKEN_BACK = 0.4  # of the class weights

Tables = dict[str, pd.DataFrame]  # scores by suffix of their file
Facts = dict[str, dict[str, Any]]  # of each view's training


class Peer(StrEnum):
    """What to train."""

    basicunet = "basicunet"
    dynunet = "dynunet"
    nnunet = "nnunet"
    quicknat = "quicknat"


def segmenter(bundle: Bundle) -> Segmenter:
    """Segments conformed scans as ``quicknat segment`` does."""

    def labels(path: Path) -> np.ndarray:
        image, grid, record = load_conformed(path)
        return segment(bundle, image, grid.affine, record_grid(record)).labels

    return labels


def unweighted(bundle: Bundle, model: Path, fraction: float) -> Bundle:
    """Return the model with this prior correction (its own is 0)."""
    described = read_description(model)
    if described["prior_correction"]:
        raise SystemExit(f"{model}: was made with a prior correction already")
    networks = {view: copy.deepcopy(network) for view, network in bundle.networks.items()}
    for view, network in networks.items():
        offsets = prior_offsets(described["views"][view]["class_weights"], fraction)
        network.get_parameter("classifier.bias").data += offsets
    return replace(bundle, networks=networks)


def measure_ours(run: OurRun, ours: Bundle) -> tuple[Tables, Facts]:
    """The scores that the workflow has written, of the coronal network, and without weights."""
    facts: Facts = {
        view: {"parameters": parameters(ours.networks[view])} | run.times(view) for view in VIEWS
    }
    variants = {
        "_coronal": replace(ours, weights=CORONAL),
        "_unweighted": unweighted(ours, run.model, TAKEN_BACK),
    }
    tables = {name: run.measure(segmenter(it), ours.protocol) for name, it in variants.items()}
    return {"": pd.read_csv(run.results / "metrics.tsv", sep="\t")} | tables, facts


def measure_views(run: OurRun, ours: Bundle, peer: str, threads: int) -> tuple[Tables, Facts]:
    """Train a network per view, and score them together and the coronal one alone."""
    facts: Facts = {}
    networks: dict[str, Any] = {}  # they need not be QuickNAT
    for view in VIEWS:
        classes = ours.protocol.n_classes(view)
        networks[view], facts[view] = train_network(peer, run, view, classes, threads)
        print(view, json.dumps(facts[view]), flush=True)
    theirs = replace(ours, networks=networks)
    tables = {
        suffix: run.measure(segmenter(replace(theirs, weights=weights)), ours.protocol)
        for suffix, weights in (("", ours.weights), ("_coronal", CORONAL))
    }
    return tables, facts


def measure_nnunet(run: OurRun, ours: Bundle, threads: int, work: Path) -> tuple[Tables, Facts]:
    """Train nnU-Net, and score it."""
    os.environ["nnUNet_def_n_proc"] = str(threads)  # noqa: SIM112  # read on import
    from peer_nnunet import VIEW, train_nnunet

    labels, facts = train_nnunet(run, ours.protocol, threads, work)
    return {"": run.measure(labels, ours.protocol)}, {VIEW: facts}


def main(
    run_folder: Annotated[Path, typer.Argument(help="Of cross_validate.py: FOLDER/ARM/FOLD.")],
    peer: Annotated[Peer, typer.Option(help="What to train.")],
    output: Annotated[Path, typer.Option(help="Results go to OUTPUT/{peer}/{fold}.")],
    threads: Annotated[int, typer.Option(min=1, help="CPU threads, loading included.")] = 1,
    seconds: Annotated[
        float | None, typer.Option(help="Time per view; default: what ours took.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Our model; default: RUN_FOLDER/results/model.")
    ] = None,
) -> None:
    """Train one peer on one run, and measure it."""
    run_folder = run_folder.resolve()
    name = f"quicknat-{run_folder.parent.name}" if peer is Peer.quicknat else peer.value
    folder = output.resolve() / name / run_folder.name
    if (folder / "facts.json").exists():
        print(f"{folder}: done before")
        return
    # MONAI 1.6 warns at every call of a deprecated argument that it passes itself
    warnings.filterwarnings("ignore", category=FutureWarning, module="monai")
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    keep_freed_memory()
    run = OurRun(run_folder, bundle or run_folder / "results/model", gpu_works(), seconds)
    device = torch.device("cuda" if run.on_gpu else "cpu")
    ours = load_bundle(run.model, device)
    if peer is Peer.quicknat:
        tables, views = measure_ours(run, ours)
    elif peer is Peer.nnunet:
        tables, views = measure_nnunet(run, ours, threads, folder / "work")
    else:
        tables, views = measure_views(run, ours, peer.value, threads)
    facts = {
        "views": views,
        "threads": threads,
        "device": device_name(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "persons": {scan.id: scan.participant for scan in run.scans("test")},
    }
    files = [folder / f"metrics{suffix}.tsv" for suffix in tables]
    with written_whole(*files, folder / "facts.json") as temporaries:
        for temporary, table in zip(temporaries[:-1], tables.values(), strict=True):
            table.to_csv(temporary, sep="\t", index=False, float_format="%.6g")
        temporaries[-1].write_text(json.dumps(facts, indent=2) + "\n")
    print(f"{folder}: mean Dice {tables['']['dice'].mean():.4f}")


if __name__ == "__main__":
    typer.run(main)
