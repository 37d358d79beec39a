"""Train on one GPU, within a given time, from one file and with no library but torch.

    PYTHONPATH=src:benchmarks/accuracy python benchmarks/accuracy/gpu/on_gpu.py pack.npz.xz \
        --output out --first 220 --second 150 --arm 27

What a GPU is lent for by the minute. Three stages:

1. the three views' networks at 1 mm learn from 12 of MALC's scans, copies of these in the shapes of
   label maps with wide ventricles, and two whole heads, for `--first` seconds; the three scans left
   out, each in two shapes with wider ventricles still, are what they are measured on;
2. from there, all 15 scans and all copies, for `--second` seconds: the model to keep;
3. arms of two-fold cross-validation at 2 mm, side by side, `--arm` seconds for each view: ours,
   after pre-training, and MONAI's networks in its place.

OUTPUT gets the weights of stages 1 and 2 (``first_VIEW.pt``, ``second_VIEW.pt``), of which
``to_model.py`` makes a model, and ``results.json`` with the Dice of every structure of every scan,
on the networks' 1 mm grid.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from device_data import Slices, aggregate, bent, dice, halved, read_pack
from monai.losses import DiceCELoss
from peer_shapes import make_network
from torch import Tensor, multiprocessing, nn

from quicknat.model.losses import CombinedLoss, class_weights, edge_weight, prior_offsets
from quicknat.model.network import NetworkSettings, QuickNAT
from quicknat.scans.slices import VIEWS
from quicknat.training.optimizers import TrainingSettings, learning_rate_factor

LEFT_OUT = ("MALC1010", "MALC1015", "MALC1036")
HEADS = ("CSI1", "CSI2")
WIDEST = ("05", "11", "14", "16", "18")  # SynthSeg's maps with lateral ventricles beyond 46 ml
POWER, CAP, PRIOR = 0.33, 10, 0.8  # of the class weights, and what is taken back of them
RATE, PEERS_RATE, WARMUP = 0.006, 0.001, 0.05
STEPS = 10_000  # that the time is divided into, for the learning rate
ARMS = ("quicknat", "quicknat-synthetic", "quicknat-atlas", "dynunet", "basicunet")
FOLDS = 2


def prepare(pack: dict[str, np.ndarray], place: Path, device: str) -> None:
    """Write all volumes into `place`, copies in other shapes made; ``names.json`` lists them."""
    fine, coarse, names = [], [], []
    for name, both in pack.items():
        if name.startswith("scan "):
            fine.append(torch.from_numpy(both))
            names.append(name.removeprefix("scan "))
            coarse.append(halved(fine[-1].to(device)).cpu())
    for name in pack:
        if name.startswith("field "):
            _, subject, shape = name.split()
            scan = fine[names.index(subject)].to(device)
            begin = pack[f"begin {subject} {shape}"]
            fine.append(bent(scan, pack[name], begin).cpu())
            names.append(f"{subject} {shape[-2:]}")
    np.save(place / "fine.npy", torch.stack(fine).numpy())
    np.save(place / "coarse.npy", torch.stack(coarse).numpy())
    for kind in ("map", "atlas"):
        parts = {name: both for name, both in pack.items() if name.startswith(f"{kind} ")}
        if parts:
            np.save(place / f"{kind}.npy", np.stack(list(parts.values())))
        (place / f"{kind}.json").write_text(json.dumps([name.split()[1] for name in parts]))
    (place / "names.json").write_text(json.dumps(names))
    np.savez(place / "tables.npz", **{key: pack[key] for key in ("sagittal", "swapped")})
    (place / "folds.json").write_text(json.dumps(dict(zip(
        pack["persons"].tolist(), pack["folds"].tolist(), strict=True
    ))))  # fmt: skip


class Store:
    """What :func:`prepare` wrote, on a device."""

    def __init__(self, place: Path, device: str) -> None:
        self.place, self.device = place, device
        self.names: list[str] = json.loads((place / "names.json").read_text())
        with np.load(place / "tables.npz") as tables:
            self.sagittal, self.swapped = (
                torch.from_numpy(tables[key].astype(np.int64)).to(device)
                for key in ("sagittal", "swapped")
            )
        self.classes = len(self.sagittal)

    def volumes(self, name: str) -> Tensor:
        return torch.from_numpy(np.load(self.place / f"{name}.npy")).to(self.device)

    def listed(self, name: str) -> Any:
        return json.loads((self.place / f"{name}.json").read_text())

    def numbers(self, chosen: Callable[[str, str], bool]) -> list[int]:
        """Of the volumes whose subject and shape ('' for a scan as it is) are chosen."""
        parts = [name.partition(" ") for name in self.names]
        return [k for k, (subject, _, shape) in enumerate(parts) if chosen(subject, shape)]

    def slices(self, volumes: Tensor, groups: Sequence, view: str, painted: bool = False) -> Slices:
        groups = [(numbers, share) for numbers, share in groups if numbers]
        return Slices(volumes, groups, view, self.sagittal, self.swapped, painted)


def warm_up(network: nn.Module, slices: Slices, loss: Callable, batch: int) -> None:
    """Two steps without learning, in which cuDNN finds out how each layer is computed fastest."""
    network.train()
    for _ in range(2):
        image, labels = slices.batch(batch)
        with torch.autocast("cuda", torch.bfloat16, enabled=image.is_cuda):
            logits = network(image.to(memory_format=torch.channels_last))
        loss(logits, labels).backward()
        for weights in network.parameters():
            weights.grad = None
    if image.is_cuda:
        torch.cuda.synchronize()


def learn(
    network: nn.Module, slices: Slices, loss: Callable, seconds: float, rate: float, batch: int
) -> dict[str, Any]:
    """Train for so many seconds; the learning rate falls to zero in that time."""
    device = slices.volumes.device
    network.train()
    fused = {"fused": True} if device.type == "cuda" else {}
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-4, **fused)
    settings = TrainingSettings(epochs=1, learning_rate=rate, optimizer="adamw", warmup=WARMUP)
    start, steps, losses, told = time.perf_counter(), 0, [], 0.1
    while (share := (time.perf_counter() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * learning_rate_factor(int(share * STEPS), STEPS, settings)
        image, labels = slices.batch(batch)
        with torch.autocast("cuda", torch.bfloat16, enabled=image.is_cuda):
            logits = network(image.to(memory_format=torch.channels_last))
        value = loss(logits, labels)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps += 1
        if steps % 10 == 0 and share > told:  # this waits for the GPU too
            losses.append(round(value.item(), 4))
            told += 0.1
        elif steps % 10 == 0 and device.type == "cuda":
            torch.cuda.synchronize()
    return {"steps": steps, "slices": steps * batch, "of": len(slices), "losses": losses,
            "seconds": round(time.perf_counter() - start, 1)}  # fmt: skip


def our_loss(slices: Slices) -> CombinedLoss:
    """Loss with the weights that these slices give."""
    return CombinedLoss(
        class_weights(slices.counts, POWER, CAP), edge_weight(slices.counts, POWER, CAP), "batch"
    ).to(slices.volumes.device)


def added(loss: CombinedLoss) -> Callable:
    return lambda logits, labels: sum(loss(logits, labels))


def their_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """MONAI's, for MONAI's networks."""
    theirs = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
    return theirs(logits.float(), labels[:, None].long())


def quicknat_of(filters: int, dropout: float, slices: Slices, device: str) -> QuickNAT:
    network = QuickNAT(slices.classes, NetworkSettings(filters=filters, dropout=dropout))
    return network.to(device, memory_format=torch.channels_last)


def view_job(view: str, place: Path, given: argparse.Namespace, output: Path) -> None:
    """Stages 1 and 2 of one view."""
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
    stages = {"first": (some, given.first, RATE), "second": (everything, given.second, RATE / 2)}
    torch.manual_seed(0)
    network = None
    for stage, (parts, seconds, rate) in stages.items():
        slices = store.slices(volumes, parts, view)
        loss = our_loss(slices)
        if network is None:
            network = quicknat_of(given.filters, given.dropout, slices, given.device)
        warm_up(network, slices, added(loss), given.batch)
        facts = learn(network, slices, added(loss), seconds, rate, given.batch)
        facts |= {"weights": loss.weights.tolist(), "edge": loss.edge, "rate": rate}
        facts |= {"counts": slices.counts.tolist(), "scans": slices.described()}
        torch.save({k: v.cpu() for k, v in network.state_dict().items()},
                   output / f"{stage}_{view}.pt")  # fmt: skip
        (output / f"{stage}_{view}.json").write_text(json.dumps(facts))
        told = {key: facts[key] for key in ("steps", "slices", "of", "losses", "seconds")}
        print(stage, view, told, flush=True)


def measure(stage: str, place: Path, given: argparse.Namespace, output: Path) -> dict:
    """Dice of a stage's networks on the scans left out of the first, in all their shapes."""
    store = Store(place, given.device)
    volumes, networks, offsets = store.volumes("fine"), {}, {}
    for view in VIEWS:
        facts = json.loads((output / f"{stage}_{view}.json").read_text())
        network = QuickNAT(len(facts["weights"]), NetworkSettings(filters=given.filters))
        network.load_state_dict(torch.load(output / f"{stage}_{view}.pt", weights_only=True))
        networks[view] = network.to(given.device, memory_format=torch.channels_last).eval()
        offsets[view] = prior_offsets(facts["weights"], PRIOR).to(given.device)
    found = {}
    chosen = store.numbers(lambda subject, shape: subject in LEFT_OUT and shape in ("", *WIDEST))
    for number in chosen[: given.scored]:
        image, truth = volumes[number]
        row = {}
        for kind, mirror in (("plain", None), ("mirror", store.swapped)):
            total = aggregate(networks, image, store.sagittal, offsets, mirror)
            row[kind] = dice(total.argmax(dim=0), truth, store.classes)
        found[store.names[number]] = row
        print(stage, store.names[number], {k: round(np.mean(v), 4) for k, v in row.items()},
              flush=True)  # fmt: skip
    return found


def arm_job(
    arm: str, fold: int, place: Path, given: argparse.Namespace, output: Path, ready: Any
) -> None:
    """One arm and fold of stage 3, all three views one after the other."""
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
            offsets[view] = prior_offsets(loss.weights.tolist(), 0.4).to(given.device)
            seconds, before = given.arm, {}
            warm_up(network, slices, added(loss), given.batch)
            ready.wait()
            if arm != "quicknat":
                kind = {"quicknat-synthetic": "map", "quicknat-atlas": "atlas"}[arm]
                taught = given.arm * (0.5 if kind == "map" else 0.25)
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
            facts[view] = learn(network, slices, their_loss, given.arm, PEERS_RATE, given.batch)
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


def set_up() -> None:
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    torch.set_num_threads(1)


@contextmanager
def working_folder() -> Iterator[Path]:
    """In memory where there is such a place."""
    shared = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


def together(jobs: Sequence[tuple]) -> None:
    """Run jobs (function, arguments) in processes of their own; all must end well."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=job, args=arguments) for job, *arguments in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit(f"ended with {[process.exitcode for process in processes]}")


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("pack", type=Path, help="File of pack.py.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--first", type=float, default=0, help="Seconds of stage 1.")
    parser.add_argument("--second", type=float, default=0, help="Seconds of stage 2.")
    parser.add_argument("--arm", type=float, default=0, help="Seconds of each view in stage 3.")
    parser.add_argument("--arms", nargs="*", default=ARMS)
    parser.add_argument("--filters", type=int, default=48)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--batch", type=int, default=16, help="Slices of a step.")
    parser.add_argument("--scored", type=int, default=99, help="At most so many scans of each.")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()

    def tell(what: str) -> None:
        print(f"--- {time.perf_counter() - started:.0f} s: {what}", flush=True)

    set_up()
    results: dict[str, Any] = {"torch": torch.__version__, "given": {
        key: str(value) for key, value in vars(given).items()}}  # fmt: skip
    if given.device == "cuda":
        results["gpu"] = torch.cuda.get_device_name()
    with working_folder() as place:
        prepare(read_pack(given.pack), place, given.device)
        results["names"] = json.loads((place / "names.json").read_text())
        tell("all is prepared")
        if given.first:
            together([(view_job, view, place, given, given.output) for view in VIEWS])
            tell("stages 1 and 2 are done")
            for stage in ("first", "second"):
                results[stage] = {
                    view: json.loads((given.output / f"{stage}_{view}.json").read_text())
                    for view in VIEWS
                }
                results[stage]["dice"] = measure(stage, place, given, given.output)
                (given.output / "results.json").write_text(json.dumps(results))
            for path in given.output.glob("*_*.json"):
                path.unlink()
            tell("and measured")
        if given.arm:
            scores = place / "arms"
            scores.mkdir()
            runs = [(arm, fold) for arm in given.arms for fold in range(FOLDS)]
            ready = multiprocessing.get_context("spawn").Barrier(len(runs))
            together([(arm_job, *run, place, given, scores, ready) for run in runs])
            results["arms"] = {path.stem: json.loads(path.read_text())
                               for path in sorted(scores.glob("*.json"))}  # fmt: skip
            tell("stage 3 is done")
    (given.output / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
