"""Copies of a cohort's training scans in the shapes of other people's label maps.

    python benchmarks/accuracy/warp_cohort.py malc.tsv --maps old_maps --copies 2 \
        --output /scratch/warped

Writes the copies, and ``cohort.tsv``: the given sheet and a row for each copy. The maps are used in
turn, each as often as any other. What exists is kept.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from quicknat.package_data import label_table

PROTOCOL = label_table("quicknat28")


def main(
    cohort: Annotated[Path, typer.Argument(help="Sheet of labelled scans, local files.")],
    maps: Annotated[Path, typer.Option(help="Folder of label maps (freesurfer).")],
    output: Annotated[Path, typer.Option(help="Folder of the copies and their sheet.")],
    copies: Annotated[int, typer.Option(min=1, help="Of each scan.")] = 2,
    spacing: Annotated[float, typer.Option(help="Voxel side, mm.")] = 1.5,
    cores: Annotated[int, typer.Option()] = os.cpu_count() or 1,
) -> None:
    """Make the copies, several at a time."""
    table = pd.read_csv(cohort, sep="\t", dtype=str, keep_default_na=False, comment="#")
    participant = table["participant"]
    table["participant"] = participant.where(participant != "", table["subject"])
    shapes = sorted(maps.glob("*.nii.gz"))
    if copies > len(shapes):
        raise SystemExit(f"{maps}: {len(shapes)} label maps do not give {copies} shapes each")
    output.mkdir(parents=True, exist_ok=True)
    step, rows, commands = max(1, len(shapes) // copies), [], []
    for number, scan in enumerate(table[table["split"] == "train"].to_dict("records")):
        for copy in range(copies):
            name = f"{scan['subject']}x{copy + 1:02d}"
            files = {kind: output / f"{name}_{kind}.nii.gz" for kind in ("T1w", "dseg")}
            rows.append(
                scan
                | {"subject": name, "image": str(files["T1w"]), "labels": str(files["dseg"])}
                | {"label_convention": PROTOCOL.stem}
            )
            if all(path.exists() for path in files.values()):
                continue
            commands.append(
                [sys.executable, "-m", "quicknat", "warp", scan["image"],
                 "--labels", scan["labels"], "--label-convention", scan["label_convention"],
                 "--like", str(shapes[(number + copy * step) % len(shapes)]),
                 "--protocol", str(PROTOCOL), "--spacing", str(spacing),
                 "--output", str(files["T1w"]), "--labels-output", str(files["dseg"])]
            )  # fmt: skip
    with ThreadPoolExecutor(cores) as pool:
        done = list(pool.map(lambda command: subprocess.run(command).returncode, commands))
    if any(done):
        raise SystemExit(f"{sum(map(bool, done))} of {len(done)} copies failed, see above")
    pd.concat([table, pd.DataFrame(rows)]).to_csv(output / "cohort.tsv", sep="\t", index=False)


if __name__ == "__main__":
    typer.run(main)
