"""A cohort as it comes from its archive, from download to report."""

import os
import tarfile

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from monai.transforms import ResizeWithPadOrCrop
from project import SETTINGS

from helpers import LABELS, ROOT, run_snakemake
from quicknat.files import sha256
from quicknat.images.labels import Protocol
from quicknat.images.volumes import read_volume

pytestmark = pytest.mark.long
SHAPE = (176, 208, 176)
OASIS = {1: 1000, 2: 1001, 4: 1002, 7: 1006, 14: 1007}  # number on disc 1 -> MALC scan used for it


def save_analyze(path, data):
    """As on the OASIS-1 discs: a big-endian pair, a trailing axis, nothing about orientation."""
    data = np.asarray(ResizeWithPadOrCrop(SHAPE)(data[None])[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    header = nib.AnalyzeHeader(endianness=">")
    header.set_data_dtype(">i2")
    header.set_data_shape((*data.shape, 1))
    header.set_zooms((1, 1, 1, 1))
    nib.AnalyzeImage(data.astype(">i2")[..., None], None, header).to_filename(path)


def oasis_disc(shared, folder):
    """`disc1` in the layout of OASIS-1, of MALC scans; the tissues stand for FSL's."""
    tissues = Protocol.read(LABELS / "tissues4.tsv")
    for number, source in OASIS.items():
        files = [shared / f"data/malc/{source}_{end}.nii.gz" for end in ("SS", "glm")]
        image, labels = map(read_volume, files)  # a real scan with its manual labels
        assert nib.aff2axcodes(image.affine) == ("L", "A", "S")
        name = f"OAS1_{number:04d}_MR1"
        stem = f"{name}_mpr_{'n3' if number == 7 else 'n4'}_anon_111_t88_masked_gfc"
        # letter case varies between mirrors
        subject = folder / "disc1" / (name.lower() if number == 14 else name)
        scan = subject / f"PROCESSED/MPRAGE/T88_111/{stem}.img"
        save_analyze(scan, image.data)
        classes = tissues.remap(labels.data, "neuromorphometrics", labels.path)
        save_analyze(subject / f"FSL_SEG/{stem}_fseg.img", classes)
        (subject / f"{name}.txt").write_text("SESSION ID: not needed\n")


def test_oasis_disc(shared, tmp_path):
    """It goes from its archive to the report, with raw data where MONAI keeps them."""
    oasis_disc(shared, tmp_path)
    archive = tmp_path / "oasis_cross-sectional_disc1.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(tmp_path / "disc1", "disc1")
    table = pd.read_csv(ROOT / "workflow/sources.tsv", sep="\t", dtype=str, keep_default_na=False)
    disc = ["kind", "url", "checksum"]
    found = "file", archive.as_uri(), f"sha256:{sha256(archive)}"
    table.loc[table["source"] == "oasis1-disc1", disc] = found
    table.to_csv(tmp_path / "sources.tsv", sep="\t", index=False)
    lines = (ROOT / "workflow/cohorts/oasis1.tsv").read_text().splitlines(keepends=True)
    kept = tuple(f"OAS1{number:04d}\t" for number in OASIS)
    rows = [line for line in lines if line.startswith((*kept, "subject"))]
    assert len(rows) == 1 + len(OASIS)
    (tmp_path / "cohort.tsv").write_text("".join(rows))
    files = {"sheet": str(tmp_path / "cohort.tsv"), "sources": str(tmp_path / "sources.tsv")}
    (tmp_path / "own.yaml").write_text(
        yaml.safe_dump(SETTINGS | {"report": {"interactive": False}} | files)
    )
    done = run_snakemake(
        tmp_path, "--configfile", str(ROOT / "workflow/configs/oasis.yaml"), "own.yaml",
        env=os.environ | {"MONAI_DATA_DIRECTORY": str(tmp_path / "monai data")},
    )  # fmt: skip
    assert done.returncode == 0, done.text[-5000:]
    metrics = pd.read_csv(tmp_path / "results/metrics.tsv", sep="\t")
    name = "sub-OAS10004_ses-MR1"
    assert set(metrics["subject"]) == {name} and len(metrics) == 3
    path = tmp_path / f"results/segmentations/{name}/anat/{name}_desc-quicknat_dseg.nii.gz"
    dseg = nib.load(path)
    assert dseg.shape == SHAPE and nib.aff2axcodes(dseg.affine) == ("L", "A", "S")
    raw = {path.suffix for path in (tmp_path / "monai data/oasis1-disc1").rglob("*.*")}
    assert not (tmp_path / "results/raw").exists()
    assert raw == {".img", ".hdr"}  # the text files stayed in the archive
    assert "OAS10007" in (tmp_path / "results/report/index.html").read_text()
