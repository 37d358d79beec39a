"""Two-fold cross-validation on one GPU: pre-training, and MONAI's networks, for equal times.

    PYTHONPATH=src:benchmarks/accuracy python benchmarks/accuracy/gpu/arms_on_gpu.py pack.npz.xz \
        --output out --seconds 35

All arms and folds learn side by side at 2 mm, `--seconds` for each view: ours or one of MONAI's,
with manual labels alone, or first from synthetic images (``-synthetic``) or from heads labelled by
registration (``-atlas``; both of ``pack.py``). OUTPUT gets the label maps of the scans of the other
fold, on their conformed 1 mm grid, a file for each arm, and ``arms.json``; ``score_arms.py`` scores
them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from device_data import Slices, aggregate, dice, read_pack
from learning import RATE, added, arguments, learn, our_loss, quicknat_of, set_up, together, warm_up
from monai.losses import DiceCELoss
from peer_shapes import make_network
from store import Store, prepare_folds, working_folder
from torch import Tensor, multiprocessing, nn

from quicknat.images.slices import VIEWS
from quicknat.model.losses import prior_offsets

ARMS = (
    "quicknat", "quicknat-synthetic", "quicknat-atlas", "dynunet", "dynunet-synthetic", "basicunet",
)  # fmt: skip
TAUGHT = {"synthetic": ("map", 0.5), "atlas": ("atlas", 0.25)}  # from what, share of the time
PEERS_RATE = 0.001
PRIOR = 0.4  # of the class weights is taken back: docs/accuracy.md, after so short a training
FOLDS = 2


def their_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """MONAI's, for MONAI's networks."""
    theirs = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
    return theirs(logits.float(), labels[:, None].long())


def loss_of(peer: str, slices: Slices) -> Callable:
    """Each network's own; ours has weights that the slices give."""
    return added(our_loss(slices)) if peer == "quicknat" else their_loss


def arm_job(
    arm: str, fold: int, place: Path, given: argparse.Namespace, output: Path, ready: Any
) -> None:
    """One arm and fold, all three views one after the other."""
    set_up()
    store = Store(place, given.device)
    volumes, folds = store.volumes("coarse"), store.listed("folds")
    training = [k for k, name in enumerate(store.names) if folds.get(name, fold) != fold]
    tested = [k for k, name in enumerate(store.names) if folds.get(name) == fold]
    peer, _, before = arm.partition("-")
    networks, offsets, facts = {}, {}, {}
    for view in VIEWS:
        slices = store.slices(volumes, [(training, 1.0)], view)
        torch.manual_seed(0)
        if peer == "quicknat":
            rate, loss = RATE, our_loss(slices)
            network: nn.Module = quicknat_of(24, 0.1, slices, given.device)
            offsets[view] = prior_offsets(loss.weights.tolist(), PRIOR).to(given.device)
        else:
            rate, network = PEERS_RATE, make_network(peer, slices.classes, 24)
            network.to(given.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            offsets[view] = torch.zeros(slices.classes, device=given.device)
        warm_up(network, slices, loss_of(peer, slices), given.batch)
        stages = [(slices, 1.0)]
        if before:
            kind, share = TAUGHT[before]
            others = store.volumes(kind)
            numbers = [
                k for k, of in enumerate(store.listed(kind)) if kind == "map" or of == str(fold)
            ]
            taught = store.slices(others, [(numbers, 1.0)], view, synthetic=kind == "map")
            stages = [(taught, share), (slices, 1 - share)]
        ready.wait()
        facts[view] = [
            learn(network, some, loss_of(peer, some), share * given.seconds, rate, given.batch)
            for some, share in stages
        ]
        facts[view][0]["parameters"] = sum(weights.numel() for weights in network.parameters())
        networks[view] = network.eval()
    ready.wait()  # nobody is scored while others still learn
    whole, maps = store.volumes("fine"), {}
    for number in tested[: given.scored]:
        image = volumes[number, 0]
        for kind, some in (("three", networks), ("coronal", {"coronal": networks["coronal"]})):
            total = aggregate(some, image, store.sagittal, offsets, store.swapped)
            total = nn.functional.interpolate(
                total[None], scale_factor=2, mode="trilinear", align_corners=False
            )[0].argmax(dim=0)
            maps[f"{fold} {kind} {store.names[number]}"] = total.byte().cpu().numpy()
            if kind == "three":
                found = dice(total, whole[number, 1], store.classes)
                print(arm, fold, store.names[number], round(np.mean(found), 4), flush=True)
    np.savez(output / f"{arm}_{fold}.npz", **maps)  # type: ignore[arg-type]
    (output / f"{arm}_{fold}.json").write_text(json.dumps(facts))


def gather(arm: str, scores: Path, output: Path) -> None:
    """The label maps of an arm, of both folds, in one file."""
    maps: dict[str, np.ndarray] = {}
    for fold in range(FOLDS):
        with np.load(scores / f"{arm}_{fold}.npz") as found:
            maps |= found
    np.savez_compressed(output / f"{arm}.npz", **maps)  # type: ignore[arg-type]


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
        if given.device == "cuda":
            results["gpu"] = torch.cuda.get_device_name()
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda arm: gather(arm, scores, given.output), given.arms))
    (given.output / "arms.json").write_text(json.dumps(results))
    print(f"--- {time.perf_counter() - started:.0f} s: done", flush=True)


if __name__ == "__main__":
    main()
