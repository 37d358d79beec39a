"""Time and memory of segmenting one scan, against a plain implementation of the authors' recipe.

    python benchmarks/inference.py compare T1w.nii.gz --output results/benchmarks/inference.json
    python benchmarks/inference.py pieces
    python benchmarks/inference.py agreement T1w.nii.gz … --model results/model

The plain one runs every slice of the conformed cube through each view's network, in fp32, and keeps
three whole volumes of probabilities. Each run is a process of its own, started in turn; what counts
is the process's wall time, CPU time and largest memory. The networks have random weights: neither
time nor memory depends on them.

With ONEDNN_MAX_CPU_ISA=AVX2 and ATEN_CPU_CAPABILITY=avx2 in the environment torch computes as on a
CPU without AVX-512.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer

from quicknat.config import Network, TrainingSettings
from quicknat.hardware import computes_in_bfloat16, keep_freed_memory
from quicknat.images.conform import conform_file, record_grid
from quicknat.images.labels import Protocol
from quicknat.images.slices import AXIS, VIEWS
from quicknat.images.training_stats import ScanStatistics, summarise
from quicknat.images.volumes import save_nifti
from quicknat.model.bundle import Bundle, load_bundle, with_winograd, write_bundle
from quicknat.model.losses import CombinedLoss
from quicknat.model.network import NetworkSettings, QuickNAT, in_bfloat16
from quicknat.model.winograd import with_fast_blocks
from quicknat.package_data import label_table
from quicknat.segmentation.batch import segment_file
from quicknat.segmentation.inference import segment
from quicknat.segmentation.native import to_native
from quicknat.segmentation.tasks import Options, Task
from quicknat.training.model_files import write_model
from quicknat.training.setup import TrainingSetup

PROTOCOL = label_table("quicknat28")
CUBE = 256
WEIGHTS = {"axial": 0.4, "coronal": 0.4, "sagittal": 0.2}
# the first is `--precision fp32`; `auto` is the last that the CPU has instructions for
WAYS = ["fp32", "winograd"] + ["bf16"] * computes_in_bfloat16(gpu=False)

app = typer.Typer()


def write_random_model(folder: Path, filters: int, slice_size: int) -> None:
    """A model folder at 1 mm whose networks were never trained."""
    protocol = Protocol.read(PROTOCOL)
    for view in VIEWS:
        torch.manual_seed(0)
        classes = protocol.class_names(view)
        settings = TrainingSettings(epochs=1, learning_rate=1.0, network=Network(filters=filters))
        counts = np.ones(len(classes), dtype=int)
        statistics = ScanStatistics(counts, counts.astype(float), 0.5)
        setup = TrainingSetup(
            view=view,
            protocol=protocol.name,
            classes=classes,
            train=[],
            validation=[],
            settings=settings,
            output=folder / view,
            initial=None,
            warm_start=None,
            threads=1,
            slice_shape=(slice_size, slice_size),
            counts=counts,
            training_stats=summarise([statistics], protocol.partners(view)),
            fingerprint={
                "initial": {"weights": None},
                "training scan": {},
                "validation scan": {},
            },
        )
        weights = QuickNAT(len(classes), NetworkSettings(filters=filters)).state_dict()
        facts = {"best_epoch": 0, "best_val_dice": None}
        loss = CombinedLoss(counts.astype(np.float32), 1.0)
        write_model(setup, loss, weights, [{"epoch": 0}], facts)
    models: dict[str, str | Path] = {view: folder / view for view in VIEWS}
    write_bundle(models, protocol, WEIGHTS, 1.0, CUBE, slice_size, folder / "model")


def load(way: str, model: Path) -> Bundle:
    """Load a model for one of `WAYS`."""
    bundle = load_bundle(model, bfloat16=way == "bf16")
    return with_winograd(bundle) if way == "winograd" else bundle


@torch.inference_mode()
def segment_plainly(scan: Path, model: Path, output: Path) -> None:
    """Every slice of the whole cube, fp32, three volumes of probabilities, one after the other."""
    bundle = load_bundle(model)
    image, grid, record = conform_file(scan, "", 1.0, CUBE)
    volumes = {}
    for view, network in bundle.networks.items():
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        slices = np.moveaxis(image, AXIS[view], 0).astype(np.float32) / 255
        parts = [
            network(torch.from_numpy(slices[some][:, None].copy())).softmax(dim=1)
            for some in np.array_split(np.arange(len(slices)), len(slices) // 4)
        ]
        volumes[view] = torch.cat(parts).movedim(1, 0).movedim(1, 1 + AXIS[view])
    total = torch.zeros(len(bundle.protocol.names), *image.shape)
    for view, weight in bundle.weights.items():
        classes = bundle.protocol.sagittal if view == "sagittal" else range(len(total))
        total += weight * volumes[view][list(classes)]
    native = record_grid(record)
    save_nifti(output / "plain.nii.gz", to_native([(total, grid.affine)], native), native)


@app.command()
def one(way: str, scan: Path, model: Path, output: Path, batch_size: int, threads: int) -> None:
    """A single run, in this process: `plain`, or one of `WAYS`."""
    torch.set_num_threads(threads)
    if way == "plain":
        segment_plainly(scan, model, output)
        return
    keep_freed_memory()
    segment_file(load(way, model), Task(scan, "sub-1"), output, Options(batch_size=batch_size))
    made = json.loads((output / "sub-1/anat/sub-1_desc-quicknat_dseg.json").read_text())
    print(json.dumps(made["seconds"]))


@app.command()
def compare(
    scan: Annotated[Path, typer.Argument(help="A T1w scan.")],
    filters: Annotated[int, typer.Option(help="Channels of each convolution.")] = 64,
    slice_size: Annotated[int, typer.Option(help="Side of our window, in mm.")] = 192,
    batch_size: Annotated[int, typer.Option(help="Our slices per forward pass.")] = 4,
    rounds: Annotated[int, typer.Option(help="Runs of each way.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = torch.get_num_threads(),
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Compare the ways, each run in a process of its own."""
    ways = ["plain", *WAYS]
    runs: dict[str, list[tuple[float, float, float, dict]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_random_model(folder, filters, slice_size)
        for _ in range(rounds):
            for way in ways:
                command = [sys.executable, __file__, "one", way, scan, folder / "model", folder]
                start = time.perf_counter()
                process = subprocess.Popen(
                    [*map(str, command), str(batch_size), str(threads)],
                    stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
                stages = process.stdout.read()  # type: ignore[union-attr]  # it is a pipe
                _, status, usage = os.wait4(process.pid, 0)
                if status:
                    raise SystemExit(f"{way} failed")
                seconds = time.perf_counter() - start
                cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20
                runs[way].append((seconds, cpu, peak, json.loads(stages or "{}")))
                print(f"  {way}: {seconds:.0f} s, {cpu:.0f} s of CPU", flush=True)
    plain = median(seconds for seconds, *_ in runs["plain"])
    rows = [
        {
            "way": way,
            "seconds": median(seconds for seconds, *_ in values),
            "times_plain": plain / median(seconds for seconds, *_ in values),
            "cpu_seconds": median(cpu for _, cpu, *_ in values),
            "peak_gib": max(memory for _, _, memory, _ in values),
            "stages": values[0][-1],
        }
        for way, values in runs.items()
    ]
    print(f"{filters} filters, window {slice_size} mm of {CUBE}, {threads} thread(s)")
    print(f"{'way':8}{'seconds':>9}{'x plain':>9}{'CPU s':>9}{'peak GiB':>10}")
    for row in rows:
        figures = f"{row['seconds']:9.1f}{row['times_plain']:9.2f}{row['cpu_seconds']:9.1f}"
        print(f"{row['way']:8}{figures}{row['peak_gib']:10.2f}")
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        record = {"filters": filters, "window": slice_size, "threads": threads, "ways": rows}
        output.write_text(json.dumps(record, indent=2) + "\n")


@app.command()
def pieces(
    filters: Annotated[int, typer.Option(help="Channels of each convolution.")] = 64,
    rounds: Annotated[int, typer.Option(help="Timed passes of each way.")] = 3,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = torch.get_num_threads(),
) -> None:
    """Seconds per slice as one optimisation comes after the other, in turn."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = QuickNAT(28, NetworkSettings(filters=filters)).eval()
    fast = copy.deepcopy(network)
    fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ways: dict[str, tuple[Any, int]] = {
        "256 x 256, fp32, eager": (network, 256),
        "channels last": (fast, 256),
        "window of 192 x 192": (fast, 192),
        "Winograd's minimal filtering": (with_fast_blocks(fast), 192),
    }
    if computes_in_bfloat16(gpu=False):
        rounded = in_bfloat16(fast)
        rounded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        ways["bf16 but for first and last block"] = (rounded, 192)
        ways["compiled (not used)"] = (torch.compile(rounded, dynamic=False), 192)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for way, (chosen, side) in ways.items():
                image = torch.rand(4, 1, side, side)
                start = time.perf_counter()
                chosen(image.to(memory_format=torch.channels_last))
                if number:  # the first warms up, or compiles
                    seconds[way].append((time.perf_counter() - start) / len(image))
                elif "compiled" in way:
                    print(f"compiling took {time.perf_counter() - start:.0f} s a view", flush=True)
    for way, values in seconds.items():
        print(f"{way:36}{median(values):7.3f} s a slice")


@app.command()
def agreement(
    scans: Annotated[list[Path], typer.Argument(help="T1w scans.")],
    model: Annotated[Path, typer.Option(help="Folder of a trained model.")],
    threads: Annotated[int, typer.Option(help="CPU threads.")] = torch.get_num_threads(),
) -> None:
    """What Winograd's filtering and bf16 do to the labels, against fp32 of the same weights."""
    torch.set_num_threads(threads)
    for scan in scans:
        found = {}
        for way in WAYS:
            bundle = load(way, model)
            image, grid, record = conform_file(scan, "", bundle.spacing_mm, bundle.conform_size)
            found[way] = segment(bundle, image, grid.affine, record_grid(record)).labels
        exact = found.pop("fp32")
        for way, labels in found.items():
            same = (exact == labels)[(exact > 0) | (labels > 0)].mean()
            both, one, other = (
                np.bincount(part.ravel(), minlength=len(bundle.protocol.names))[1:]
                for part in (exact[exact == labels], exact, labels)
            )
            dice = (2 * both / (one + other)).mean()
            print(
                f"{scan.name}, {way}: {same:.2%} of brain voxels, mean Dice {dice:.4f}", flush=True
            )


if __name__ == "__main__":
    app()
