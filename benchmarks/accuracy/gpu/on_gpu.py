"""Train on one GPU, within a given time, from one file and with no library but torch.

    PYTHONPATH=src:benchmarks/accuracy python benchmarks/accuracy/gpu/on_gpu.py pack.npz.xz \
        --output out --seconds 460

What a GPU is lent for by the minute. Two stages:

1. the three views' networks at 1 mm learn from 12 of MALC's scans, copies of these in the shapes of
   label maps with wide ventricles, and two whole heads, for the `--share` of the time; the three
   scans left out, each in two shapes with wider ventricles still, are what they are measured on;
2. from there, all 15 scans and all copies: the model to keep.

Both are done `--seconds` after the start, however long preparing and compiling took; measuring
takes seconds more. `--initial` goes on from the first stage of an earlier run. OUTPUT gets
the weights (``first_VIEW.pt``, ``second_VIEW.pt``), of which ``to_model.py`` makes a model, and
``results.json`` with the Dice of every structure of every scan, on the networks' 1 mm grid.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from device_data import aggregate, dice, read_pack
from learning import RATE, added, arguments, learn, our_loss, quicknat_of, set_up, together, warm_up
from store import Store, prepare_shapes, working_folder

from quicknat.images.slices import VIEWS
from quicknat.model.losses import prior_offsets
from quicknat.model.network import NetworkSettings, QuickNAT

LEFT_OUT = ("MALC1010", "MALC1015", "MALC1036")
HEADS = ("CSI1", "CSI2")
WIDEST = ("05", "11", "14", "16", "18")  # SynthSeg's maps with lateral ventricles beyond 46 ml
PRIOR = 0.8  # of the class weights is taken back


def view_job(view: str, place: Path, given: argparse.Namespace, output: Path) -> None:
    """Both stages of one view."""
    set_up()
    store = Store(place, given.device)
    volumes = store.volumes("fine")
    heads = store.numbers(lambda subject, shape: subject in HEADS)

    def groups(kept: Callable[[str], bool], shapes: Callable[[str], bool]) -> list:
        scans = store.numbers(
            lambda subject, shape: subject not in HEADS and not shape and kept(subject)
        )
        copies = store.numbers(
            lambda subject, shape: bool(shape) and shapes(shape) and kept(subject)
        )
        return [(scans, 0.5), (copies, 0.4), (heads, 0.1)]

    some = groups(lambda subject: subject not in LEFT_OUT, lambda shape: shape not in WIDEST)
    everything = groups(lambda subject: True, lambda shape: True)
    torch.manual_seed(0)
    network = None
    for stage, parts, share, rate in (
        ("first", some, given.share, given.rate), ("second", everything, 1.0, given.rate / 2),
    ):  # fmt: skip
        slices = store.slices(volumes, parts, view)
        loss = our_loss(slices)
        if network is None:
            network = quicknat_of(given.filters, given.dropout, slices, given.device)
            if given.initial:
                earlier = torch.load(given.initial / f"first_{view}.pt", weights_only=True)
                network.load_state_dict(earlier)
            compile_largest(network)
        began = time.time()
        warm_up(network, slices, added(loss), given.batch)
        warm = time.time() - began
        seconds = max(share * (given.end - time.time()), 1.0)
        facts = learn(network, slices, added(loss), seconds, rate, given.batch)
        facts |= {"weights": loss.weights.tolist(), "edge": loss.edge, "rate": rate}
        facts |= {"counts": slices.counts.tolist(), "scans": slices.described()}
        torch.save({k: v.cpu() for k, v in network.state_dict().items()},
                   output / f"{stage}_{view}.pt")  # fmt: skip
        (place / f"{stage}_{view}.json").write_text(json.dumps(facts))
        told = {key: facts[key] for key in ("steps", "slices", "of", "losses", "seconds")}
        print(stage, view, told, f"after {warm:.0f} s of warming up", flush=True)


def compile_largest(network: QuickNAT) -> None:
    """Fuse what lies between the convolutions at full resolution.

    That is three quarters of the work, and a fifth of what there is to compile. What cannot be
    compiled computes as it is: a lent GPU's minutes are not to be lost.
    """
    torch._dynamo.config.suppress_errors = True
    parts = (network.encoders, network.encoder_gates, network.decoders, network.decoder_gates)
    for part in parts:
        part[0].compile(dynamic=False)


def measure(stage: str, place: Path, given: argparse.Namespace, scored: int) -> dict:
    """Dice of a stage's networks on the scans left out of the first, then in other shapes."""
    store = Store(place, given.device)
    volumes, networks, offsets = store.volumes("fine"), {}, {}
    for view in VIEWS:
        facts = json.loads((place / f"{stage}_{view}.json").read_text())
        network = QuickNAT(len(facts["weights"]), NetworkSettings(filters=given.filters))
        network.load_state_dict(torch.load(given.output / f"{stage}_{view}.pt", weights_only=True))
        network.to(given.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        networks[view] = network.eval()
        offsets[view] = prior_offsets(facts["weights"], PRIOR).to(given.device)
    found = {}
    chosen = store.numbers(lambda subject, shape: subject in LEFT_OUT and shape in ("", *WIDEST))
    for number in chosen[:scored]:
        image, truth = volumes[number]
        row = {}
        for kind, mirror in (("plain", None), ("mirror", store.swapped)):
            total = aggregate(networks, image, store.sagittal, offsets, mirror)
            row[kind] = dice(total.argmax(dim=0), truth, store.classes)
        found[store.names[number]] = row
        print(stage, store.names[number], {k: round(float(np.mean(v)), 4) for k, v in row.items()},
              flush=True)  # fmt: skip
    return found


def main() -> None:
    """See the top of this file."""
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, required=True, help="Until stage 2 is done.")
    parser.add_argument("--share", type=float, default=0.6, help="Of the time, for stage 1.")
    parser.add_argument("--initial", type=Path, help="Folder with an earlier run's first_VIEW.pt.")
    parser.add_argument("--rate", type=float, default=RATE, help="Highest of stage 1.")
    parser.add_argument("--filters", type=int, default=48)
    parser.add_argument("--dropout", type=float, default=0.05)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    given.end = time.time() + given.seconds

    def tell(what: str) -> None:
        print(f"--- {time.perf_counter() - started:.0f} s: {what}", flush=True)

    set_up()
    results: dict[str, Any] = {"torch": torch.__version__, "given": {
        key: str(value) for key, value in vars(given).items()}}  # fmt: skip
    if given.device == "cuda":
        results["gpu"] = torch.cuda.get_device_name()
    with working_folder() as place:
        prepare_shapes(read_pack(given.pack), place, given.device)
        results["names"] = json.loads((place / "names.json").read_text())
        tell("all is prepared")
        together([(view_job, view, place, given, given.output) for view in VIEWS])
        tell("both stages are done")
        for stage in ("first", "second"):
            results[stage] = {
                view: json.loads((place / f"{stage}_{view}.json").read_text()) for view in VIEWS
            }
        kept = given.output / "results.json"
        kept.write_text(json.dumps(results))
        for stage, scored in (("first", given.scored), ("second", len(LEFT_OUT))):
            results[stage]["dice"] = measure(stage, place, given, scored)
            kept.write_text(json.dumps(results))
        tell("and measured")


if __name__ == "__main__":
    main()
