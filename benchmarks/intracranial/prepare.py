"""Make the training slices of the intracranial model from SynthSeg's label maps of whole heads.

    python benchmarks/intracranial/prepare.py maps/training_seg_*.nii.gz --output slices

``train.sh`` calls it. Of each map it writes tissue stacks, from which images are synthesized during
training, and stacks of synthetic T1w heads made at 2 mm, whose 3 mm voxels mix tissues as those of
a scan do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from nibabel.affines import from_matvec
from scipy import ndimage

from quicknat.images.conform import conform, head_window
from quicknat.images.labels import Protocol
from quicknat.images.resampling import canonical, resample_labels
from quicknat.images.slices import write_stacks
from quicknat.images.volumes import Volume, read_volume
from quicknat.synthesis.tissues import tissue_table, to_tissues

SPACING, SIZE, SLICE_SIZE = 3.0, 96, 80
CSF, VESSELS, CEREBELLUM = 24, (502, 514), (7, 8, 46, 47)
PLEXUS = (136, 137, 163, 164)
CLOSING = 5  # voxels, radius: what lies in sulci and between hemispheres and cerebellum
FACE = 5  # voxels kept of the face in front of the cranial cavity in defaced heads
TABLE = Path(__file__).with_name("intracranial.tsv")


def closed(mask: np.ndarray, radius: int) -> np.ndarray:
    """Return a morphological closing by a ball."""
    inside = ndimage.distance_transform_edt(~np.pad(mask, radius + 1)) <= radius
    result = ndimage.distance_transform_edt(inside) > radius
    return result[(slice(radius + 1, -radius - 1),) * 3] | mask


def intracranial(labels: np.ndarray) -> np.ndarray:
    """Return the cranial cavity of a map: brain, ventricles, CSF and the vessels among them.

    It ends at the level of the cerebellum's lowest voxels, which lie at the foramen magnum.

    Args:
        labels: of SynthSeg's training maps, RAS+ axes, every second voxel.
    """
    cavity = (labels > 0) & (labels < 100) | np.isin(labels, PLEXUS)
    bottom = np.flatnonzero(np.isin(labels, CEREBELLUM).sum(axis=(0, 1)) > 2)[0]
    cavity[:, :, :bottom] = False
    vessels = np.isin(labels, VESSELS)
    vessels[:, :, :bottom] = False
    cavity |= vessels & closed(cavity, CLOSING)
    parts, _ = ndimage.label(cavity)
    largest = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    return ndimage.binary_fill_holes(ndimage.gaussian_filter(largest.astype(np.float32), 0.7) > 0.5)


def synthetic_head(
    tissues: np.ndarray, cavity: np.ndarray, random: np.random.Generator, defaced: bool
) -> np.ndarray:
    """Return a T1w-like image of a tissue map, float32; tissues outside are arbitrary."""
    usual = tissue_table()["t1w"].to_numpy() / 255
    mean = np.where(np.isfinite(usual), random.normal(usual, 0.06), random.uniform(size=len(usual)))
    mean, spread = mean.clip(0, 1), random.uniform(0, 0.08, len(usual))
    mean[0] = spread[0] = 0
    noise = random.standard_normal(tissues.shape, dtype=np.float32)
    image = mean.astype(np.float32)[tissues] + spread.astype(np.float32)[tissues] * noise
    if defaced:
        _, y, z = np.ogrid[tuple(map(slice, tissues.shape))]
        forward = y - 0.8 * z
        edge = forward[0][cavity.any(axis=0)].max() + FACE * np.hypot(1, 0.8)
        image[np.broadcast_to(forward, image.shape) > edge] = 0
    knots = random.uniform(0, 0.3) * random.standard_normal((4, 4, 4))
    bias = ndimage.zoom(knots, np.array(tissues.shape) / 4, order=1, mode="nearest", grid_mode=True)
    image *= np.exp(bias.astype(np.float32))
    image = ndimage.gaussian_filter(image, random.uniform(0.2, 0.5))
    sd = random.uniform(0, 0.04)
    one, two = (random.standard_normal(image.shape, dtype=np.float32) for _ in range(2))
    image = np.hypot(image + sd * one, sd * two)
    return (image.clip(0) ** np.exp(random.normal(0, 0.15))).astype(np.float32)


def main(
    maps: Annotated[list[Path], typer.Argument(help="SynthSeg's training maps.")],
    output: Annotated[Path, typer.Option(help="Folder of the stacks.")],
    heads: Annotated[int, typer.Option(help="Synthetic heads of each map.")] = 3,
    seed: Annotated[int, typer.Option(help="Of their random numbers.")] = 0,
) -> None:
    table = Protocol.read(TABLE)
    for path in maps:
        volume = canonical(read_volume(path))
        labels = volume.data[::2, ::2, ::2].astype(np.int16)
        number = int(path.name.split("_")[-1].split(".")[0])
        box = ndimage.find_objects((labels > 0).astype(np.uint8))[0]
        box = tuple(slice(max(0, part.start - 4), part.stop + 4) for part in box)
        start = [2 * part.start for part in box]
        affine = volume.affine @ from_matvec(2 * np.eye(3), start)
        labels = labels[box]
        tissues, cavity = to_tissues(labels, "freesurfer", table, path), intracranial(labels)
        classes = cavity.astype(np.uint8)
        print(path.name, f"{8 * cavity.sum() / 1000:.0f} ml", flush=True)
        for head in range(heads):
            random = np.random.default_rng((seed, number, head))
            image = synthetic_head(tissues, cavity, random, defaced=head % 3 == 1)
            data, grid, _ = conform(Volume(image, affine, path), SPACING, SIZE)
            found = resample_labels(Volume(classes, affine, path), grid)
            first = head_window(data, SPACING, SLICE_SIZE)
            name = f"map{number:02d}_head{head}"
            write_stacks(data, found, first, SLICE_SIZE, table, output / "heads", name)
        both = resample_labels(Volume(tissues.astype(np.uint16) << 8 | classes, affine, path), grid)
        parts, name = (both >> 8, both & 255), f"map{number:02d}"
        tissue, found = (part.astype(np.uint8) for part in parts)
        first = head_window(np.where(tissue > 0, np.uint8(255), np.uint8(0)), SPACING, SLICE_SIZE)
        write_stacks(tissue, found, first, SLICE_SIZE, table, output / "tissues", name)


if __name__ == "__main__":
    typer.run(main)
