"""A run of the whole workflow on small real heads: its cohort, and what a user may change."""

from __future__ import annotations

import copy
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml

from helpers import ROOT, job_counts, run_snakemake, save
from quicknat.images.volumes import Volume
from quicknat.package_data import DATA

# label maps come from `data`, since those beside the workflow move with it
SMOKE = [re.sub(r"(sub-\w+_dseg.nii.gz)\tdemo-labels", r"data/\1\tlocal", line)
         for line in (ROOT / "workflow/cohorts/smoke.tsv").read_text().splitlines()
         if not line.startswith(("#", "CSI1x01"))]  # fmt: skip
SETTINGS = yaml.safe_load((ROOT / "workflow/configs/smoke.yaml").read_text())
SETTINGS["training"]["compile"] = False  # takes longer than such a training; the demo is compiled
SPLITS = {"t": "train", "v": "val", "p": "pretrain", "e": "test", "s": "segment", "m": "pretrain"}
FILES = ("t2", "s1", "t3", "t4", "v2", "p2", "e2", "s2")  # scans in the folder `data`


def row(name: str, labels: bool = True, image: str | None = None, source: str = "") -> str:
    """Return a line of the sheet; the first letter of the name says the split.

    Args:
        name: one of `FILES`; `m…` has a label map and no image.
        labels: whether the label map is named; never for scans to segment.
        image: another file than ``data/{name}.nii``.
        source: archive that it is in.
    """
    given = labels and name[0] not in "sb"
    default = "" if name[0] == "m" else f"data/{name}.nii"
    values = dict.fromkeys(SMOKE[0].split("\t"), "")
    values |= {"subject": name, "source": source, "image": default if image is None else image}
    values |= {"labels": "data/labels.nii.gz" * given, "label_convention": "freesurfer" * given}
    return "\t".join((values | {"split": SPLITS.get(name[0], "segment")}).values())


class Project:
    """A folder with results, and what its user may change about it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.sheet = folder, ROOT, folder / "cohort.tsv"
        self.results, self.env, self.header = folder / "results", None, SMOKE[0]
        self.rows, self.settings = [*SMOKE[1:], row("t2"), row("s1")], copy.deepcopy(SETTINGS)

    def set(self, section: str, **values: object) -> None:
        self.settings.setdefault(section, {}).update(values)

    def run(self, *arguments: str, fails: bool = False) -> str:
        """Run Snakemake, which must succeed unless it is to fail; return what it says."""
        self.sheet.parent.mkdir(exist_ok=True)
        self.sheet.write_text("\n".join([self.header, *self.rows]) + "\n")
        overlay = {**self.settings, "sheet": str(self.sheet)}
        done = run_snakemake(self.folder, *arguments, overlay=overlay, root=self.root, env=self.env)
        assert (done.returncode != 0) == fails, done.text[-5000:]
        return done.text

    def jobs(self, *arguments: str) -> Counter:
        """Return the jobs per rule that a run would start."""
        return job_counts(self.run("--dry-run", *arguments))

    def program(self, name: str, script: str) -> None:
        """Put a program first on PATH."""
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)
        self.env = os.environ | {"PATH": f"{path.parent}{os.pathsep}{os.environ['PATH']}"}

    def dseg(self, name: str) -> Path:
        return self.results / f"segmentations/{name}/anat/{name}_desc-quicknat_dseg.nii.gz"


def write_scans(folder: Path, names: Iterable[str], head: Volume, dseg: Volume) -> None:
    """Write a label map, and the head with other noise under each name."""
    folder.mkdir(parents=True)
    save(folder / "labels.nii.gz", dseg.data.astype(np.uint8), dseg.affine)
    for seed, name in enumerate(names):
        noise = np.random.default_rng(seed).normal(0, 3, head.shape)
        scan = (head.data + noise).astype(np.float32)
        save(folder / f"{name}.nii", scan, head.affine)  # over 1 MB, as real ones are


def finish_run(folder: Path, head: Volume, dseg: Volume) -> None:
    """Run the workflow from the downloads to the report; no job but these has a network."""
    write_scans(folder / "data", FILES, head, dseg)
    for name in ("CSI1", "ds240"):
        shutil.copy(DATA / f"demo_labels/sub-{name}_dseg.nii.gz", folder / "data")
    project = Project(folder)
    path = [str(ROOT / "tests/no_network"), *filter(None, [os.environ.get("PYTHONPATH")])]
    project.env = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    project.run()
