"""Put all that ``on_gpu.py`` learns from into one file, for a GPU that is somewhere else.

    python benchmarks/accuracy/gpu/pack.py cohort.tsv --fields fields --maps label_maps \
        --heads heads.tsv --output pack.npz.xz

Holds, as the networks see them: every scan of the sheet, conformed to 1 mm, in its window of 192
voxels, with its labels; the displacement fields; at 2 mm the label maps' tissues and classes, and
the heads without what is outside the brain, labelled by registration of four training scans of each
fold; and the label table. Only numpy is needed to read it.
"""

from __future__ import annotations

import io
import lzma
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from quicknat.autolabel.atlas import label_by_atlases
from quicknat.files import written_whole
from quicknat.images.conform import conform, conform_labels, head_window
from quicknat.images.labels import Protocol
from quicknat.images.resampling import resample_labels
from quicknat.images.slices import crop
from quicknat.images.volumes import Volume, read_volume
from quicknat.package_data import label_table
from quicknat.synthesis.tissues import conformed_tissues
from quicknat.synthesis.warping import BOX_MM

sys.path.insert(0, str(Path(__file__).parents[1]))
from cross_validate import ATLASES, fold_of

PROTOCOL = label_table("quicknat28")
SPACING_MM, CONFORM_SIZE, WINDOW = 1.0, 256, 192
COARSE_MM, COARSE_SIZE, COARSE_WINDOW = 2.0, 128, 96
FOLDS, FIELD_UNIT_MM, UNIT_MM = 2, 0.1, 0.25  # of shape_fields.py, of a pack: it compresses better

Pair = tuple[np.ndarray, np.ndarray]


def coarse(scan: dict, protocol: Protocol, stripped: bool) -> Pair:
    """A scan of a sheet and its classes at 2 mm, in its window."""
    image, grid, _ = conform(read_volume(Path(scan["image"])), COARSE_MM, COARSE_SIZE)
    labels = read_volume(Path(scan["labels"]))
    _, classes = conform_labels(labels, scan["protocol"], protocol, grid)
    if stripped:
        inside = Volume((labels.data > 0).astype(np.uint8), labels.affine, labels.path)
        image = image * resample_labels(inside, grid)
    start = head_window(image, COARSE_MM, COARSE_WINDOW)
    return crop(image, start, COARSE_WINDOW), crop(classes, start, COARSE_WINDOW)


def labelled(image: np.ndarray, atlases: list[Pair]) -> np.ndarray:
    """A head with the labels that registration carries over to it."""
    return np.stack([image, label_by_atlases(image, atlases, COARSE_MM)])


def main(
    cohort: Annotated[Path, typer.Argument(help="Sheet of labelled scans, local files.")],
    fields: Annotated[Path, typer.Option(help="Folder of shape_fields.py.")],
    maps: Annotated[Path, typer.Option(help="Folder of label maps (freesurfer).")],
    output: Annotated[Path, typer.Option(help="The file.")],
    heads: Annotated[Path | None, typer.Option(help="Sheet of heads to label by atlases.")] = None,
    cores: Annotated[int, typer.Option()] = 2,
) -> None:
    """Write the file."""
    table = pd.read_csv(cohort, sep="\t", dtype=str, keep_default_na=False, comment="#")
    protocol = Protocol.read(PROTOCOL)
    parts: dict[str, np.ndarray] = {}
    origins = {}
    for scan in table.to_dict("records"):
        image, grid, _ = conform(read_volume(Path(scan["image"])), SPACING_MM, CONFORM_SIZE)
        labels = read_volume(Path(scan["labels"]))
        _, classes = conform_labels(labels, scan["protocol"], protocol, grid)
        start = head_window(image, SPACING_MM, WINDOW)
        origins[scan["subject"]] = grid.affine[:3, 3] + SPACING_MM * np.array(start)
        lost = int((classes > 0).sum())
        image, classes = (crop(data, start, WINDOW) for data in (image, classes))
        lost -= int((classes > 0).sum())
        parts[f"scan {scan['subject']}"] = np.stack([image, classes])
        print(f"{scan['subject']}: window {start}, {lost} labelled voxels outside", flush=True)
    for path in sorted(fields.glob("*.npz")):
        subject, shape = path.stem.split("_", 1)
        with np.load(path) as found:
            whole = np.rint(found["field"] * (FIELD_UNIT_MM / UNIT_MM)).astype(np.int16)
            # from the window's first voxel to where the field's cube begins, in voxels of 1 mm
            begin = found["cube"] - BOX_MM / 2 - origins[subject]
            parts[f"field {subject} {shape}"] = np.diff(whole, axis=0, prepend=np.int16(0))
            parts[f"begin {subject} {shape}"] = begin.astype(np.float32)
    for path in sorted(maps.glob("*.nii.gz")):
        drawn, classes, head = conformed_tissues(
            read_volume(path), "freesurfer", protocol, COARSE_MM, COARSE_SIZE
        )
        start = head_window(head, COARSE_MM, COARSE_WINDOW)
        both = [crop(data, start, COARSE_WINDOW).astype(np.uint8) for data in (drawn, classes)]
        parts[f"map {path.name.removesuffix('.nii.gz')}"] = np.stack(both)
    by_hand = table[table["label_convention"] == "neuromorphometrics"]
    folds = fold_of(by_hand["participant"].tolist(), FOLDS)
    parts["persons"] = np.array(list(folds))
    parts["folds"] = np.array(list(folds.values()))
    if heads:
        rows = pd.read_csv(heads, sep="\t", dtype=str, keep_default_na=False, comment="#")
        with ProcessPoolExecutor(cores) as pool:
            jobs = {}
            for fold in range(FOLDS):
                training = by_hand[by_hand["participant"].map(folds) != fold]
                atlases = [
                    coarse(scan, protocol, stripped=False)
                    for scan in training[:ATLASES].to_dict("records")
                ]
                for head in rows.to_dict("records"):
                    image, _ = coarse(head, protocol, stripped=True)
                    jobs[f"atlas {fold} {head['subject']}"] = pool.submit(labelled, image, atlases)
            parts |= {name: job.result() for name, job in jobs.items()}
    parts["sagittal"], parts["swapped"] = protocol.sagittal, protocol.swapped
    raw = io.BytesIO()
    np.savez(raw, **parts)  # type: ignore[arg-type]
    with written_whole(output) as (temporary,):
        temporary.write_bytes(lzma.compress(raw.getvalue()))
    print(f"{output}: {output.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    typer.run(main)
