"""Time, memory and labels of `quicknat segment`.

    python benchmarks/inference.py compare T1w.nii.gz
    python benchmarks/inference.py device T1w.nii.gz --device cuda --scans 20
    python benchmarks/inference.py agreement T1w.nii.gz … --model results/model

The plain way runs every slice of the conformed cube through each view's network, in fp32, and keeps
three whole volumes of probabilities. Each run is a process of its own, started in turn. With
ONEDNN_MAX_CPU_ISA=AVX2 and ATEN_CPU_CAPABILITY=avx2 torch computes as without AVX-512.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from processes import Measured, measure

from quicknat.evaluation.metrics import count_pairs, overlap
from quicknat.hardware import computes_in_bfloat16, keep_freed_memory
from quicknat.images.conform import conform_file, record_grid
from quicknat.images.slices import AXIS
from quicknat.images.volumes import read_volume, save_nifti
from quicknat.model.bundle import Bundle, load_bundle, with_winograd
from quicknat.package_data import model_folder
from quicknat.segmentation.batch import segment_file
from quicknat.segmentation.inference import segment
from quicknat.segmentation.native import to_native
from quicknat.segmentation.tasks import Options, Task

# the first is `--precision fp32`; `auto` is the last that the CPU has instructions for
WAYS = ["fp32", "winograd"] + ["bf16"] * computes_in_bfloat16(gpu=False)

Model = Annotated[str, typer.Option(help="Name of a bundled model, or a folder.")]
Threads = Annotated[int, typer.Option(help="CPU threads.")]
Output = Annotated[Path | None, typer.Option(help="JSON file for the figures.")]

app = typer.Typer()


def load(way: str, model: Path) -> Bundle:
    """Load a model for one of `WAYS`."""
    bundle = load_bundle(model, bfloat16=way == "bf16")
    return with_winograd(bundle) if way == "winograd" else bundle


@torch.inference_mode()
def segment_plainly(scan: Path, model: Path, output: Path) -> None:
    """Every slice of the whole cube, fp32, three volumes of probabilities, one after the other."""
    bundle = load_bundle(model)
    image, grid, record = conform_file(scan, "", bundle.spacing_mm, bundle.conform_size)
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
    model: Model = "1mm",
    batch_size: Annotated[int, typer.Option(help="Our slices per forward pass.")] = 4,
    rounds: Annotated[int, typer.Option(help="Runs of each way.")] = 1,
    threads: Threads = torch.get_num_threads(),
    output: Output = None,
) -> None:
    """Compare the ways, each run in a process of its own."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for way in ["plain", *WAYS] * rounds:
            command = [sys.executable, __file__, "one", way, scan, model_folder(model), folder]
            took = measure([*command, batch_size, threads])
            rows.append({"way": way, **took._asdict(), "printed": json.loads(took.printed or "{}")})
            print(f"  {way}: {took.seconds:.0f} s, {took.cpu_seconds:.0f} s of CPU", flush=True)
    runs = pd.DataFrame(rows).rename(columns={"printed": "stages"})
    table = runs.groupby("way", sort=False)[["seconds", "cpu_seconds", "peak_gib"]].median()
    table.insert(1, "times_plain", table["seconds"]["plain"] / table["seconds"])
    print(f"model {model}, {threads} thread(s)\n{table.round(2).to_string()}")
    if output:
        runs.to_json(output, orient="records", indent=2)


# the largest memory of torch on the GPU, printed when the command ends
PROGRAM = """
import atexit, torch
from quicknat.cli import main
atexit.register(lambda: print(torch.cuda.max_memory_allocated() / 2**30, flush=True))
main()
"""


@app.command()
def device(
    scan: Annotated[Path, typer.Argument(help="A T1w scan, .nii.gz.")],
    name: Annotated[str, typer.Option("--device", help="cuda or cpu.")] = "cuda",
    scans: Annotated[int, typer.Option(min=2, help="Copies to segment in one process.")] = 20,
    model: Model = "1mm",
    threads: Threads = os.cpu_count() or 1,
    output: Output = None,
) -> None:
    """Time `quicknat segment` for one scan and for many; with a GPU, compare labels with the CPU's.

    Meant for five minutes of a GPU. Labels are those of the small model, in fp32.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copies = [folder / f"sub-{number:03}_T1w.nii.gz" for number in range(scans)]
        for file in copies:
            shutil.copyfile(scan, file)

        def run(where: str, files: list[Path], *options: str) -> Measured:
            command = [sys.executable, "-c", PROGRAM, "--quiet", "segment", *files, *options]
            return measure([*command, "--output", folder / where, "--threads", threads])

        def results(where: str, pattern: str) -> list[Path]:
            return sorted((folder / where).glob(f"sub-*/anat/*{pattern}"))

        options = "--device", name, "--model", model
        took = {"one": run("one", copies[:1], *options), "many": run("many", copies, *options)}
        table = pd.DataFrame(took, Measured._fields).T.astype(float)
        table = table.rename(columns={"printed": "gpu_peak_gib"})
        table["seconds_a_scan"] = table["seconds"].diff() / (scans - 1)
        made = [json.loads(path.read_text())["seconds"] for path in results("many", "_dseg.json")]
        print(table.round(2).to_string())
        print("stages, median:", pd.DataFrame(made).median().to_dict())
        if name != "cpu":
            found = []
            for place in (name, "cpu"):
                run(place, copies[:1], "--device", place, "--model", "small", "--precision", "fp32")
                found.append(read_volume(results(place, "quicknat_dseg.nii.gz")[0]).data)
            same = (found[0] == found[1])[(found[0] > 0) | (found[1] > 0)].mean()
            print(f"{same:.4%} of brain voxels as on the CPU")
    if output:
        table.to_json(output, orient="index", indent=2)


@app.command()
def agreement(
    scans: Annotated[list[Path], typer.Argument(help="T1w scans.")],
    model: Model = "1mm",
    threads: Threads = torch.get_num_threads(),
) -> None:
    """What Winograd's filtering and bf16 do to the labels, against fp32 of the same weights."""
    torch.set_num_threads(threads)
    for scan in scans:
        found = {}
        for way in WAYS:
            bundle = load(way, model_folder(model))
            image, grid, record = conform_file(scan, "", bundle.spacing_mm, bundle.conform_size)
            found[way] = segment(bundle, image, grid.affine, record_grid(record)).labels
        exact = found.pop("fp32")
        for way, labels in found.items():
            same = (exact == labels)[(exact > 0) | (labels > 0)].mean()
            pairs = count_pairs(labels, exact, len(bundle.protocol.names), scan.name)
            dice = np.nanmean(overlap(pairs)[0][1:])
            print(f"{scan.name}, {way}: {same:.2%} of brain voxels, mean Dice {dice:.4f}")


if __name__ == "__main__":
    app()
