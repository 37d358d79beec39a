"""Where things are, and how tests run Snakemake."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import shutil
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import yaml
from scipy import ndimage

from quicknat.config import Network, TrainingSettings
from quicknat.files import sha256
from quicknat.images.conform import conform_file
from quicknat.images.volumes import Volume, read_volume, save_nifti
from quicknat.package_data import DATA

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
LABELS = DATA / "labels"
ORIENTATIONS = [  # all 48
    "".join(axes)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for axes in itertools.product(*order)
]
TINY = {  # settings of a quick run
    "conform": {"spacing_mm": 4.0, "size": 64},
    "slices": {"size": 48},
    "network": {"filters": 4},
    "report": {"interactive": False},
}


def run_snakemake(
    directory: Path, *arguments: str, overlay: dict | None = None, env=None, root: Path = ROOT
):
    """Run on `directory`; returns the finished process with both outputs in one text.

    With settings of its own (`overlay`) a run makes a static report, unless they say otherwise.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")]
    command += ["--directory", str(directory), "--cores", "2", *arguments]
    if overlay is not None:
        path = directory / "overlay.yaml"
        path.write_text(yaml.safe_dump({"report": {"interactive": False}, **overlay}))
        command += ["--configfile", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=directory, env=env, timeout=2400
    )
    done.text = done.stdout + done.stderr
    return done


def add_source(folder: Path, archive: Path, members: str = "*") -> str:
    """Write a table of sources with an archive more, named like the file; return its path."""
    table = (ROOT / "workflow/sources.tsv").read_text().rstrip()
    row = {"source": archive.stem, "kind": "file", "url": archive.as_uri(), "members": members}
    row["checksum"] = f"sha256:{sha256(archive)}"
    line = "\t".join(row.get(column, "") for column in table.splitlines()[0].split("\t"))
    (folder / "sources.tsv").write_text(f"{table}\n{line}\n")
    return str(folder / "sources.tsv")


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Write a NIfTI file whose two transforms are coded; 2 mm voxels unless told."""
    image = nib.Nifti1Image(data, np.diag([2, 2, 2, 1.0]) if affine is None else affine)
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    nib.save(image, path)
    return path


def save_header(path: Path, data: np.ndarray, sform=None, qform=None, **fields) -> Path:
    """Write a NIfTI file with these transforms, if there are any, and then other header fields."""
    image = nib.Nifti1Image(data, np.eye(4) if qform is None else qform)
    image.set_qform(qform, int(qform is not None))
    image.set_sform(sform, int(sform is not None))
    header = image.header.copy()
    for name, value in {"vox_offset": 352, **fields}.items():
        header[name] = value
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4) + data.tobytes("F"), 1))
    return path


def write_conformed(scan: Path, output: Path, spacing_mm: float, size: int):
    """Write a conformed scan (.nii.gz) with its sidecar; return its voxels and its grid."""
    image, grid, record = conform_file(scan, "", spacing_mm, size)
    save_nifti(output, image, grid)
    output.with_name(output.name.replace(".nii.gz", ".json")).write_text(json.dumps(record))
    return image, grid


def reoriented(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    """Return the same voxels with axes that run to these directions, for example RAS."""
    wanted = nib.orientations.axcodes2ornt(codes)
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted)
    return image.as_reoriented(turn)


def changed(settings, **values):
    """Settings of a model in `quicknat.config`, with other values."""
    return type(settings)(**{**dict(settings), **values})


def brief_training(**values) -> TrainingSettings:
    """Settings of a training that takes a second, with other values."""
    usual = {"epochs": 1, "learning_rate": 0.01, "optimizer": "adamw", "batch_size": 4}
    usual |= {"network": Network(filters=4, dropout=0.0)}
    return TrainingSettings(**{**usual, "compile": False, "precision": "32-true", **values})


MODEL = brief_training(learning_rate=1e-3, batch_size=8, augment=False)  # of the fixture `model`


def training_arguments(folder: Path, stacks, output: Path, validation=(), **settings) -> list:
    """Arguments of `quicknat` for a brief training; the lists of stacks are written to a folder."""
    options = ["--settings", brief_training(**settings).model_dump_json()]
    for name, paths in (("stacks", stacks), ("validation", validation)):
        (folder / f"{name}.txt").write_text("".join(f"{path}\n" for path in paths))
        options += [f"--{name}", folder / f"{name}.txt"]
    return ["train", "coronal", *options, "--protocol", "quicknat28", "--output", output]


def tiny_scan(path: Path, side: int = 12) -> Path:
    """Write a small cube of noise, another one for each file name."""
    random = np.random.default_rng(zlib.crc32(path.name.encode()))
    return save(path, random.integers(1, 200, (side, side, side)).astype(np.int16))


def tiny_labels(path: Path, side: int = 12) -> Path:
    """Write its label map: FreeSurfer's left and right white matter, each on its side."""
    data = np.zeros((side, side, side), np.int16)
    data[1 : side // 2], data[side // 2 : -1] = 2, 41
    return save(path, data)


def tiny_cohort(folder: Path, **splits: str) -> str:
    """Write a small scan per name, with labels unless it is to be segmented; return the sheet."""
    lines = ["subject\timage\tlabels\tlabel_convention\tsplit"]
    for name, split in splits.items():
        tiny_scan(folder / f"{name}.nii.gz")
        labels = "\t"
        if split != "segment":
            labels = f"{tiny_labels(folder / f'{name}_dseg.nii.gz').name}\tfreesurfer"
        lines.append(f"{name}\t{name}.nii.gz\t{labels}\t{split}")
    (folder / "cohort.tsv").write_text("\n".join(lines) + "\n")
    return str(folder / "cohort.tsv")


def copy_workflow(folder: Path) -> Path:
    """Copy the workflow, without the library, to a folder; return it."""
    for name in ("workflow", "profiles", "envs"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, folder)
    return folder


def real_dseg(scan: str, step: int = 2) -> Volume:
    """A real label map (FreeSurfer's numbers) that ships with the package, each `step` voxels."""
    volume = read_volume(ROOT / f"src/quicknat/data/demo_labels/{scan}_dseg.nii.gz")
    affine = volume.affine @ np.diag([step, step, step, 1.0])
    return Volume(volume.data[::step, ::step, ::step], affine, volume.path)


def synthetic_head(dseg: Volume, seed: int = 0) -> Volume:
    """A head-like picture of a label map: air, scalp, a grey level per structure, and noise."""
    brain = dseg.data > 0
    scalp = ndimage.binary_dilation(brain, iterations=6) & ~ndimage.binary_dilation(
        brain, iterations=3
    )
    grey = np.where(scalp, 150, 0) + np.where(brain, 60 + dseg.data.astype(int), 0)
    noise = np.random.default_rng(seed).normal(0, 3, grey.shape)
    return Volume((grey + np.abs(noise)).astype(np.float32), dseg.affine, Path("head.nii.gz"))


def make_scan(path: Path, scan: str, seed: int, step: int = 2) -> Path:
    """Write a head synthesized from a real label map; return the path of that map, beside it."""
    dseg = real_dseg(scan, step)
    save(path, synthetic_head(dseg, seed).data.astype(np.int16), dseg.affine)
    labels = path.with_name(path.name.replace(".nii", "_dseg.nii"))
    return save(labels, dseg.data.astype(np.int16), dseg.affine)


def dead_links(page: Path) -> list[str]:
    """Where a page's links and pictures lead to that is not there; the page must have some."""
    links = [
        unquote(one) for one in re.findall(r'(?:(?:src|href)=|url\()"([^"#]+)"', page.read_text())
    ]
    assert len(links) > 10
    return [link for link in links if not (page.parent / link).exists()]


def job_counts(text: str) -> Counter:
    """Jobs per rule out of the table that a dry run prints."""
    table = re.search(r"Job stats:\njob +count\n-+ +-+\n(.*?)\ntotal", text, re.DOTALL)
    rows = (line.split() for line in table[1].splitlines()) if table else ()
    return Counter({rule: int(count) for rule, count in rows if rule != "all"})
