"""Two-fold cross-validation on one GPU: pre-training, and MONAI's networks, for equal times.

    PYTHONPATH=src:benchmarks/accuracy python benchmarks/accuracy/gpu/arms_on_gpu.py pack.npz.xz \
        --output out --seconds 30

All arms and folds learn side by side at 2 mm, `--seconds` for each view: ours with manual labels
alone, after painted images, after labels of atlases (``pack.py``), and MONAI's networks in the
place of ours. OUTPUT/arms.json gets the Dice of every structure of every scan on its 1 mm grid.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from device_data import aggregate, dice, read_pack
from learning import RATE, added, arguments, learn, our_loss, quicknat_of, set_up, together, warm_up
from monai.losses import DiceCELoss
from peer_shapes import make_network
from store import Store, prepare_folds, working_folder
from torch import Tensor, multiprocessing, nn

from quicknat.model.losses import prior_offsets
from quicknat.scans.slices import VIEWS

PEERS_RATE = 0.001
PRIOR = 0.4  # of the class weights is taken back: docs/accuracy.md, after so short a training
ARMS = ("quicknat", "quicknat-synthetic", "quicknat-atlas", "dynunet", "basicunet")
FOLDS = 2


def their_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """MONAI's, for MONAI's networks."""
    theirs = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
    return theirs(logits.float(), labels[:, None].long())


def arm_job(
    arm: str, fold: int, place: Path, given: argparse.Namespace, output: Path, ready: Any
) -> None:
    """One arm and fold, all three views one after the other."""
    set_up()
    store = Store(place, given.device)
    volumes, folds = store.volumes("coarse"), store.listed("folds")
    training = [k for k, name in enumerate(store.names) if folds.get(name, fold) != fold]
    tested = [k for k, name in enumerate(store.names) if folds.get(name) == fold]
    networks, offsets, facts = {}, {}, {}
    for view in VIEWS:
        slices = store.slices(volumes, [(training, 1.0)], view)
        torch.manual_seed(0)
        if arm.startswith("quicknat"):
            network: nn.Module = quicknat_of(24, 0.1, slices, given.device)
            loss = our_loss(slices)
            offsets[view] = prior_offsets(loss.weights.tolist(), PRIOR).to(given.device)
            seconds, before = given.seconds, {}
            warm_up(network, slices, added(loss), given.batch)
            ready.wait()
            if arm != "quicknat":
                kind = {"quicknat-synthetic": "map", "quicknat-atlas": "atlas"}[arm]
                taught = given.seconds * (0.5 if kind == "map" else 0.25)
                numbers = range(len(store.listed(kind)))
                if kind == "atlas":
                    numbers = [k for k, of in enumerate(store.listed(kind)) if of == str(fold)]
                others = store.slices(
                    store.volumes(kind), [(numbers, 1.0)], view, painted=kind == "map"
                )
                before = learn(network, others, added(our_loss(others)), taught, RATE, given.batch)
                seconds -= taught
            facts[view] = learn(network, slices, added(loss), seconds, RATE, given.batch)
            facts[view]["before"] = before
        else:
            network = make_network(arm, slices.classes, 24)
            network = network.to(given.device, memory_format=torch.channels_last)
            offsets[view] = torch.zeros(slices.classes, device=given.device)
            warm_up(network, slices, their_loss, given.batch)
            ready.wait()
            facts[view] = learn(network, slices, their_loss, given.seconds, PEERS_RATE, given.batch)
        networks[view] = network.eval()
    ready.wait()  # nobody is scored while others still learn
    whole, rows = store.volumes("fine"), {}
    for number in tested[: given.scored]:
        image = volumes[number, 0]
        rows[store.names[number]] = {}
        for kind, some in (("three", networks), ("coronal", {"coronal": networks["coronal"]})):
            total = aggregate(some, image, store.sagittal, offsets, store.swapped)
            total = nn.functional.interpolate(
                total[None], scale_factor=2, mode="trilinear", align_corners=False
            )[0].argmax(dim=0)
            rows[store.names[number]][kind] = dice(total, whole[number, 1], store.classes)
    (output / f"{arm}_{fold}.json").write_text(json.dumps({"facts": facts, "dice": rows}))
    mean = {k: round(np.mean([row[k] for row in rows.values()]), 4) for k in ("three", "coronal")}
    print(arm, fold, mean, {view: facts[view]["slices"] for view in VIEWS}, flush=True)


def main() -> None:
    """See the top of this file."""
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, required=True, help="Of each view's training.")
    parser.add_argument("--arms", nargs="*", default=ARMS)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    set_up()
    with working_folder() as place:
        prepare_folds(read_pack(given.pack), place, given.device)
        print(f"--- {time.perf_counter() - started:.0f} s: all is prepared", flush=True)
        scores = place / "arms"
        scores.mkdir()
        runs = [(arm, fold) for arm in given.arms for fold in range(FOLDS)]
        ready = multiprocessing.get_context("spawn").Barrier(len(runs))
        together([(arm_job, *run, place, given, scores, ready) for run in runs])
        results: dict[str, Any] = {
            "torch": torch.__version__,
            "given": {key: str(value) for key, value in vars(given).items()},
            "arms": {file.stem: json.loads(file.read_text()) for file in scores.glob("*.json")},
        }
    (given.output / "arms.json").write_text(json.dumps(results))
    print(f"--- {time.perf_counter() - started:.0f} s: done", flush=True)


if __name__ == "__main__":
    main()
