"""Calibration of probabilities, uncertainty against Dice, and what the quality flags find.

    python benchmarks/accuracy/calibration.py cohort.tsv --output out
    python benchmarks/accuracy/calibration.py two_scans.tsv --output out --copy blur --copy noise

The sheet's scans and labels must be local files on one grid. What is in the output folder is not
measured again, and is in the tables. A temperature T replaces probabilities p by p^(1/T), rescaled
to a sum of 1; it is the one with the least mean negative log-likelihood (NLL) on the scans, as they
are, of all other participants.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
import torchio as tio
import typer
from nibabel.affines import voxel_sizes
from scipy import ndimage

from quicknat.cli.app import ModelFolder
from quicknat.cohort.sheet import Scan, read_sheet
from quicknat.evaluation.metrics import count_pairs, overlap
from quicknat.hardware import computes_in_bfloat16
from quicknat.images.labels import Protocol
from quicknat.images.resampling import resample_labels
from quicknat.images.volumes import Grid, Volume, read_volume, save_nifti
from quicknat.model.bundle import Bundle, load_bundle
from quicknat.package_data import MODELS
from quicknat.segmentation import inference
from quicknat.segmentation.batch import segment_file
from quicknat.segmentation.outputs import output_files
from quicknat.segmentation.tasks import Task
from quicknat.segmentation.uncertainty import split_sides

BINS = 15
LEAST = 1e-12  # probability
MARGIN = 2  # voxels of the conformed grid around predicted and reference structures
TEMPERATURES = [round(2 ** (step / 4), 3) for step in range(-4, 9)]  # 0.5 to 4
AS_IT_IS = "as it is"
FAILED = 0.8  # mean Dice


def degraded(volume: Volume, copy: str) -> Volume:
    """Return a worse copy of a scan, the same at each call."""
    torch.manual_seed(0)
    data = volume.data.astype(np.float32)
    high, sides = float(np.percentile(data, 99)), voxel_sizes(volume.affine)
    transforms = {
        "noise": tio.RandomNoise(std=(0.12 * high, 0.12 * high)),
        "blur": tio.RandomBlur(std=(2.5, 2.5)),
        "ghosts": tio.RandomGhosting(6, axes=(1,), intensity=(0.5, 0.5), restore=0.05),
        "bias field": tio.RandomBiasField(coefficients=1.0),
        "thick slices": tio.Resample((*sides[:2], 6.0), antialias=True),
        "inverted": tio.Lambda(
            lambda values: (high - values).clamp(min=0) * (values > 0.05 * high)
        ),
        "low contrast": tio.RandomGamma(log_gamma=(-1.2, -1.2)),
    }
    worse = transforms[copy](tio.ScalarImage(tensor=data[None], affine=volume.affine))
    return Volume(worse.numpy()[0], worse.affine, volume.path)


def calibration(
    probabilities: torch.Tensor, affine: np.ndarray, truth: Volume, protocol: Protocol
) -> list[dict]:
    """Return ECE, NLL and structures' uncertainty, by temperature.

    Voxels count that are within `MARGIN` voxels of a structure, found or in the reference. The
    expected calibration error (ECE) compares the probability of the label that was given, in bins
    of equal width, with the fraction of right ones. Temperature 0 stands for what the sagittal
    network gives to both sides being counted twice, as before November 2026.
    """
    n_classes, x, y, z = probabilities.shape
    reference = torch.from_numpy(resample_labels(truth, Grid((x, y, z), affine))).long()
    found = probabilities.argmax(dim=0)
    near = ndimage.binary_dilation(((reference > 0) | (found > 0)).numpy(), iterations=MARGIN)
    inside = torch.from_numpy(near)
    twice, reference, found = probabilities[:, inside], reference[inside], found[inside]
    once = split_sides(twice, torch.from_numpy(protocol.swapped))
    right, sizes = (found == reference).double(), torch.bincount(found, minlength=n_classes)
    rows = []
    for temperature in [0.0, *TEMPERATURES]:
        logs = (once if temperature else twice).clamp(min=LEAST).log()
        logs = torch.log_softmax(logs / (temperature or 1.0), dim=0)
        entropy = -(logs.exp() * logs).sum(dim=0).double() / np.log(n_classes)
        sure = logs.gather(0, found[None])[0].double().exp()
        gap = torch.bincount((sure * BINS).long().clamp(max=BINS - 1), sure - right)
        rows.append({
            "temperature": temperature,
            "ece": float(gap.abs().sum() / len(found)),
            "nll": float(-logs.gather(0, reference[None]).mean()),
            "uncertainty": (torch.bincount(found, entropy, n_classes) / sizes).tolist(),
        })  # fmt: skip
    return rows


def measure(bundle: Bundle, row: Scan, image: Volume, truth: Volume, copy: str, out: Path) -> None:
    """Segment a scan or a copy of it, and keep what was measured in a JSON file."""
    path, place = image.path, out / copy.replace(" ", "_")
    if copy != AS_IT_IS:
        image, path = degraded(image, copy), place / f"{row.id}_T1w.nii.gz"
        place.mkdir(parents=True, exist_ok=True)
        save_nifti(path, image.data, Grid(image.shape, image.affine))
    with patch.object(inference, "to_native", wraps=inference.to_native) as kept:
        segment_file(bundle, Task(path, row.id), place)
    (probabilities, affine), *_ = kept.call_args.args[0]  # of the first pass
    files, names = output_files(place, row.id), bundle.protocol.names
    there = resample_labels(truth, Grid(image.shape, image.affine))
    pairs = count_pairs(read_volume(files["dseg"]).data, there, len(names), row.id)
    measured = {
        "scan": row.id,
        "participant": row.participant,
        "copy": copy,
        "dice": overlap(pairs)[0].tolist(),
        "view_agreement": [np.nan, *pd.read_csv(files["volumes"], sep="\t")["view_agreement"]],
        "flags": [flag["flag"] for flag in json.loads(files["qc"].read_text())["flags"]],
        "curve": calibration(probabilities, affine, truth, bundle.protocol),
    }
    (place / f"{row.id}.json").write_text(json.dumps(measured))


def report(measured: list[dict]) -> None:
    """Print tables by scan and copy: calibration, uncertainty with flags; correlations."""
    curves = [pd.DataFrame(one["curve"]).set_index("temperature") for one in measured]
    rows, structures = {}, {}
    for one, curve in zip(measured, curves, strict=True):
        others = [
            other["nll"].loc[TEMPERATURES]
            for which, other in zip(measured, curves, strict=True)
            if which["copy"] == AS_IT_IS and which["participant"] != one["participant"]
        ]
        best = sum(others).idxmin() if others else 1.0
        ways, case = {"twice": 0.0, "once": 1.0, "at T": best}, (one["scan"], one["copy"])
        rows[case] = {"T": best, "own T": curve["nll"].loc[TEMPERATURES].idxmin()}
        for score, (way, t) in product(("ece", "nll"), ways.items()):
            rows[case][f"{score} {way}"] = curve.loc[t, score]
        columns = {key: one[key] for key in ("dice", "view_agreement")}
        columns |= {f"uncertainty {way}": curve.loc[t, "uncertainty"] for way, t in ways.items()}
        structures[case] = pd.DataFrame(columns)[1:]
    table = pd.concat(structures, names=["scan", "copy", "structure"])
    scans = table.groupby(["scan", "copy"], sort=False).mean()
    flags = [", ".join(one["flags"]) for one in measured]
    print(pd.DataFrame(rows).T.round(4).to_string())
    print(scans.round(4).assign(flags=flags).to_string())
    for text, groups in (
        ("in a scan, over structures", table.groupby(["scan", "copy"])),
        ("of a structure, over scans", table.groupby("structure")),
        ("of the means of scans", scans.groupby(lambda _: 0)),
    ):
        ranks = [group.corr("spearman")["dice"] for _, group in groups]
        median = pd.concat(ranks, axis=1).median(axis=1).round(2)
        print(f"Spearman with Dice {text}, median of {len(ranks)}: {median.to_dict()}")
    failed, flagged = scans["dice"].to_numpy() < FAILED, np.array(flags) != ""
    print(f"flagged: {(failed & flagged).sum()} of {failed.sum()} with Dice below {FAILED}, "
          f"{(~failed & flagged).sum()} of {(~failed).sum()} others")  # fmt: skip


def main(
    sheet: Annotated[Path, typer.Argument(help="Cohort with labelled scans.")],
    output: Annotated[Path, typer.Option(help="Folder of segmentations and measures.")],
    model: ModelFolder = None,
    copy: Annotated[
        list[str] | None, typer.Option(help="Segment this worse copy, not the scan; repeatable.")
    ] = None,
    single_pass: Annotated[
        bool, typer.Option("--single-pass", help="Without test-time augmentation.")
    ] = False,
) -> None:
    """Segment scans, or worse copies of them, and print tables of all that is in the folder."""
    bundle = load_bundle(model or MODELS["1mm"], bfloat16=computes_in_bfloat16(gpu=False))
    bundle = replace(bundle, flip=False, shift=False) if single_pass else bundle
    for row in read_sheet(sheet):
        image, labels = (
            read_volume(sheet.parent / path, row.orientation) for path in (row.image, row.labels)
        )
        classes = bundle.protocol.remap(labels.data, row.label_convention, labels.path)
        for way in copy or [AS_IT_IS]:
            if not (output / way.replace(" ", "_") / f"{row.id}.json").exists():
                measure(bundle, row, image, replace(labels, data=classes), way, output)
    report([json.loads(path.read_text()) for path in sorted(output.glob("*/*.json"))])


if __name__ == "__main__":
    typer.run(main)
