"""Score the label maps that ``arms_on_gpu.py`` brought back, as ``peers.py`` scores its own.

    python benchmarks/accuracy/gpu/score_arms.py out pack.npz.xz --output scored
    python benchmarks/accuracy/peers_report.py scored --ours quicknat

OUTPUT/{arm}/{fold} gets Dice, HD95 and volumes of every structure of every scan on its conformed
1 mm grid, of three views and of the coronal one alone. Half a minute of a core for each scan.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from device_data import read_pack

from quicknat.evaluation.metrics import evaluate
from quicknat.files import written_whole
from quicknat.images.labels import Protocol
from quicknat.package_data import label_table

PROTOCOL = label_table("quicknat28")
SUFFIXES = {"three": "", "coronal": "_coronal"}


def scored(found: np.ndarray, truth: np.ndarray, protocol: Protocol, name: str) -> pd.DataFrame:
    """Scores of one label map; its voxels are 1 mm wide."""
    return evaluate(found, truth, np.eye(4), protocol, f"sub-{name}")


def facts_of(stages: dict[str, list[dict]], names: list[str], facts: dict) -> dict:
    """What ``peers_report.py`` tells of a network, from what its views' trainings noted."""
    views = {
        view: {
            "parameters": some[0]["parameters"],
            "steps": sum(stage["steps"] for stage in some),
            "seconds": sum(stage["seconds"] for stage in some),
            "wall_seconds": sum(stage["seconds"] for stage in some),
        }
        for view, some in stages.items()
    }
    persons = {f"sub-{name}": name for name in names}  # in MALC's training scans nobody is twice
    return {
        "views": views,
        "persons": persons,
        "device": facts.get("gpu", ""),
        "torch": facts["torch"],
    }


def main(
    folder: Annotated[Path, typer.Argument(help="OUTPUT of arms_on_gpu.py.")],
    pack: Annotated[Path, typer.Argument(help="What it learnt from.")],
    output: Annotated[Path, typer.Option(help="Results go to OUTPUT/{arm}/{fold}.")],
    cores: Annotated[int, typer.Option()] = os.cpu_count() or 1,
) -> None:
    """Score all arms."""
    results = json.loads((folder / "arms.json").read_text())
    protocol, parts = Protocol.read(PROTOCOL), read_pack(pack)
    with ProcessPoolExecutor(cores) as pool:
        for path in sorted(folder.glob("*.npz")):
            jobs: dict[str, dict[str, list]] = {}
            with np.load(path) as maps:
                for key in maps.files:
                    fold, kind, name = key.split()
                    truth = parts[f"scan {name}"][1]
                    job = pool.submit(scored, maps[key], truth, protocol, name)
                    jobs.setdefault(fold, {}).setdefault(kind, []).append((name, job))
            for fold, kinds in jobs.items():
                place = output / path.stem / fold
                names = [name for name, _ in kinds["three"]]
                stages = results["arms"][f"{path.stem}_{fold}"]
                files = [place / f"metrics{SUFFIXES[kind]}.tsv" for kind in kinds]
                with written_whole(*files, place / "facts.json") as temporaries:
                    for temporary, found in zip(temporaries[:-1], kinds.values(), strict=True):
                        table = pd.concat([job.result() for _, job in found])
                        table.to_csv(temporary, sep="\t", index=False, float_format="%.6g")
                    about = facts_of(stages, names, results)
                    temporaries[-1].write_text(json.dumps(about, indent=2) + "\n")
                print(f"{place}: {len(names)} scans", flush=True)


if __name__ == "__main__":
    typer.run(main)
