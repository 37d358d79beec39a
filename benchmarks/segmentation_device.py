"""Segmentation on a GPU or a CPU: seconds a scan and by stage, memory, and whether labels agree.

    python benchmarks/segmentation_device.py T1w.nii.gz --device cuda --scans 20
    python benchmarks/segmentation_device.py T1w.nii.gz --device cpu --scans 2 --model small

Runs `quicknat segment` in processes of their own: one scan, and copies of it one after the other.
With a GPU, one scan is also segmented by the small model in fp32 on both, to compare labels. Meant
for five minutes of a GPU.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from quicknat.images.volumes import read_volume

# the largest memory of torch on the GPU, printed when the command ends
PROGRAM = """
import atexit, sys, torch
from quicknat.cli import main
atexit.register(lambda: print(torch.cuda.max_memory_allocated() / 2**30, flush=True))
main()
"""


def segment(scans: list[Path], output: Path, *options: str) -> dict[str, float]:
    """Seconds of a process that segments scans, its CPU seconds, and memory in GiB."""
    command = [sys.executable, "-c", PROGRAM, "--quiet", "segment", *map(str, scans)]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--output", str(output), *options], stdout=subprocess.PIPE, text=True
    )
    printed = process.stdout.read()  # type: ignore[union-attr]  # it is a pipe
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("quicknat segment failed")
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_gib": usage.ru_maxrss / 2**20,
        "gpu_peak_gib": float(printed),
    }


def stages(output: Path) -> dict[str, float]:
    """Median seconds of each stage over the scans of a folder."""
    made = [
        json.loads(path.read_text())["seconds"] for path in output.glob("sub-*/anat/*_dseg.json")
    ]
    return {stage: median(seconds[stage] for seconds in made) for stage in made[0]}


def labels(output: Path, name: str) -> np.ndarray:
    """The label map of a scan."""
    return read_volume(output / name / f"anat/{name}_desc-quicknat_dseg.nii.gz").data


def main(
    scan: Annotated[Path, typer.Argument(help="A T1w scan, .nii.gz.")],
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    scans: Annotated[int, typer.Option(help="Copies to segment in one process.")] = 20,
    model: Annotated[str, typer.Option(help="Model to time.")] = "1mm",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = os.cpu_count() or 1,
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Time one scan in a fresh process, then many in one process; compare labels with the CPU's."""
    options = ["--device", device, "--threads", str(threads)]
    figures: dict[str, object] = {"device": device, "model": model, "threads": threads}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copies = [folder / f"sub-{number:03}_T1w.nii.gz" for number in range(scans)]
        for copy in copies:
            shutil.copyfile(scan, copy)
        chosen = [*options, "--model", model]
        rows = {
            "one scan, fresh process": segment(copies[:1], folder / "one", *chosen),
            f"{scans} scans, one process": segment(copies, folder / "many", *chosen),
        }
        alone, together = (row["seconds"] for row in rows.values())
        print(pd.DataFrame(rows).T.round(2).to_string())
        figures |= {"processes": rows, "stages": stages(folder / "many")}
        print("stages, median:", figures["stages"])
        if scans > 1:
            figures["seconds_a_scan"] = (together - alone) / (scans - 1)
            print(f"{figures['seconds_a_scan']:.2f} s for each further scan")
        if device != "cpu":
            exact = ["--model", "small", "--precision", "fp32", "--threads", str(threads)]
            found = []
            for place in (device, "cpu"):
                segment(copies[:1], folder / place, "--device", place, *exact)
                found.append(labels(folder / place, "sub-000"))
            brain = (found[0] > 0) | (found[1] > 0)
            figures["same_as_cpu"] = float((found[0] == found[1])[brain].mean())
            print(f"{figures['same_as_cpu']:.4%} of brain voxels as on the CPU (small model, fp32)")
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
