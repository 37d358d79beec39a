"""Compare settings on unseen participants, by cross-validation over participants.

    python benchmarks/accuracy/cross_validate.py cohort.tsv --arm scratch=a.yaml \
        --arm synthetic=b.yaml --maps maps --folds 3 --folder /scratch/cv

Each arm is an overlay of ``config.yaml``. For each arm and fold the workflow runs in a folder of
its own: the fold's participants are tested, all others trained on, with no validation scans, so
that nothing is chosen by looking at who is tested. Call it again to resume, or with
``--report-only`` to see what is finished. Arms are compared on the participants that both have, in
``FOLDER/scores.tsv``; with ``--known`` also with runs elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from itertools import combinations
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
import yaml

from quicknat.evaluation.scores import by_scan, interval

ROOT = Path(__file__).parents[2]
MEASURES = ["dice", "hd95_mm", "volume_error"]
ATLASES = 4  # training scans that label those without labels


def fold_of(participants: list[str], folds: int) -> dict[str, int]:
    """Fold of each participant, of equal sizes but for one, whatever the order of rows."""
    shuffled = sorted(set(participants), key=lambda participant: zlib.crc32(participant.encode()))
    return {participant: number % folds for number, participant in enumerate(shuffled)}


def write_fold(
    cohort: pd.DataFrame, source: str, maps: list[Path], fold: int, folds: int, place: Path
) -> None:
    """Write the fold's sheet: some to test, all others to train on, and what to pre-train on.

    That is, as an arm's ``pretrain.source`` has it, the cohort's own rows of ``split pretrain``
    (automatic), label maps to synthesize from (synthetic), or nothing (''). Rows without labels get
    them from some of the fold's training scans: that is a configuration of its own.
    """
    automatic = cohort[cohort["split"] == "pretrain"]
    by_hand = cohort.drop(automatic.index)
    participant = by_hand["participant"].where(by_hand["participant"] != "", by_hand["subject"])
    tested = participant.map(fold_of(participant.tolist(), folds)) == fold
    rows = by_hand.assign(split=np.where(tested, "test", "train"))
    synthetic = [
        {"subject": f"map{number}", "labels": str(file.resolve()),
         "label_convention": "freesurfer", "split": "pretrain"}
        for number, file in enumerate(maps)
    ]  # fmt: skip
    given = {"automatic": automatic, "synthetic": pd.DataFrame(synthetic)}
    table = pd.concat([rows, given[source]]) if source else rows
    place.mkdir(parents=True, exist_ok=True)
    table.fillna("").to_csv(place / "cohort.tsv", sep="\t", index=False)
    atlases = [f"sub-{name}" for name in rows["subject"][~tested][:ATLASES]]
    (place / "fold.yaml").write_text(yaml.safe_dump({"auto_labels": {"atlases": atlases}}))


def run(folder: Path, overlay: Path, cores: int) -> None:
    """The workflow up to the scores; its output goes to a log."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(folder), "--cores", str(cores), "--rerun-incomplete"]
    command += ["--configfile", str(overlay.resolve()), str(folder / "fold.yaml")]
    command += ["--config", f"sheet={folder / 'cohort.tsv'}", "--", "results/metrics.tsv"]
    with (folder / "log.txt").open("a") as log:
        done = subprocess.run(command, stdout=log, stderr=log)
    if done.returncode:
        raise SystemExit(f"{folder}: failed, see its log.txt")


def scores(folder: Path, arms: list[str], folds: int) -> pd.DataFrame:
    """A row per scan of each finished run: arm, fold, subject, means over structures, hours."""
    parts = [pd.DataFrame()]
    for arm in arms:
        for fold in range(folds):
            results = folder / arm / str(fold) / "results"
            if (results / "metrics.tsv").exists():
                people = by_scan(pd.read_csv(results / "metrics.tsv", sep="\t"))
                histories = results.glob("models/*/*/history.tsv")
                hours = sum(pd.read_csv(p, sep="\t")["seconds"].sum() for p in histories) / 3600
                people = people[["subject", *MEASURES]].sort_values("subject")
                parts.append(people.assign(arm=arm, fold=fold, hours=hours))
    return pd.concat(parts, ignore_index=True)


def tell(table: pd.DataFrame) -> None:
    """A row per arm, then the paired differences over the scans that both arms have."""
    dice = table.pivot(index="subject", columns="arm", values="dice")
    print("| arm | scans | mean Dice | 95 % interval | HD95, mm | volume error | training, h |")
    print("|-|-|-|-|-|-|-|")
    for arm in dice:
        low, high = interval(dice[arm].dropna())
        own = table[table["arm"] == arm]
        hours = own.groupby("fold")["hours"].first().mean()
        print(
            f"| {arm} | {len(own)} | {own['dice'].mean():.4f} | {low:.4f} to {high:.4f} "
            f"| {own['hd95_mm'].mean():.2f} | {own['volume_error'].mean():.1%} | {hours:.2f} |"
        )
    print("\n| difference | scans | Dice | 95 % interval |\n|-|-|-|-|")
    for one, other in combinations(dice, 2):
        gain = (dice[other] - dice[one]).dropna()
        if len(gain):
            low, high = interval(gain)
            inside = f"{low:+.4f} to {high:+.4f}"
            print(f"| {other} − {one} | {len(gain)} | {gain.mean():+.4f} | {inside} |")


def main(
    cohort: Annotated[Path, typer.Argument(help="Sheet of labelled scans, local files.")],
    arm: Annotated[list[str], typer.Option(help="NAME=overlay.yaml; repeatable.")],
    folder: Annotated[Path, typer.Option(help="Where the runs are and stay.")],
    maps: Annotated[
        Path | None, typer.Option(help="Folder of label maps (freesurfer) to synthesize from.")
    ] = None,
    folds: Annotated[int, typer.Option(min=2)] = 3,
    only: Annotated[
        list[int] | None, typer.Option(help="Run this fold, from 0; repeatable; default: all.")
    ] = None,
    cores: Annotated[int, typer.Option()] = os.cpu_count() or 1,
    report_only: Annotated[bool, typer.Option(help="Run nothing.")] = False,
    known: Annotated[
        list[Path] | None,
        typer.Option(help="scores.tsv of other runs, to compare with too; repeatable."),
    ] = None,
) -> None:
    """Run every fold of every arm, fold by fold, and compare the arms."""
    overlays = {name: Path(path) for name, _, path in (text.partition("=") for text in arm)}
    table = pd.read_csv(cohort, sep="\t", dtype=str, keep_default_na=False, comment="#")
    files = sorted(maps.glob("*.nii.gz")) if maps else []
    for fold in () if report_only else only or range(folds):
        for name, overlay in overlays.items():
            place = (folder / name / str(fold)).resolve()
            source = yaml.safe_load(overlay.read_text()).get("pretrain", {}).get("source", "")
            write_fold(table, source, files, fold, folds, place)
            run(place, overlay, cores)
    found = scores(folder, list(overlays), folds)
    if len(found):
        found.to_csv(folder / "scores.tsv", sep="\t", index=False, float_format="%.6g")
    found = pd.concat([found, *[pd.read_csv(file, sep="\t") for file in known or ()]])
    if found.empty:
        raise SystemExit(f"{folder}: no run is finished yet")
    tell(found.drop_duplicates(["arm", "subject"]))  # a known run may be here too


if __name__ == "__main__":
    typer.run(main)
