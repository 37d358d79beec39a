"""Cohorts as they come from their archives and folders, from download to report."""

import functools
import hashlib
import http.server
import os
import subprocess
import sys
import tarfile
import threading

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from monai.transforms import ResizeWithPadOrCrop
from project import SETTINGS

from helpers import LABELS, ROOT, run_snakemake
from quicknat.images.labels import Protocol, stored_values
from quicknat.images.volumes import read_volume

pytestmark = pytest.mark.long
SHAPE = (176, 208, 176)
OASIS = {1: 1000, 2: 1001, 4: 1002, 7: 1006, 14: 1007}  # number on disc 1 -> MALC scan used for it


@pytest.fixture
def server(tmp_path):
    """A local HTTP server of a folder; gives the folder and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def malc(shared, number):
    """A real scan in LAS order with its manual labels: image, label map."""
    return tuple(read_volume(shared / f"data/malc/{number}_{end}.nii.gz") for end in ("SS", "glm"))


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
        image, labels = malc(shared, source)
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


def served_source(server, source, archive):
    """The table of sources with the address and MD5 of one row replaced by those of a file."""
    folder, address = server
    table = pd.read_csv(ROOT / "workflow/sources.tsv", sep="\t", dtype=str, keep_default_na=False)
    row = table["source"] == source
    assert row.sum() == 1
    digest = hashlib.md5((folder / archive).read_bytes()).hexdigest()
    table.loc[row, ["kind", "url", "checksum"]] = "http", f"{address}/{archive}", f"md5:{digest}"
    path = folder.parent / "sources.tsv"
    table.to_csv(path, sep="\t", index=False)
    return path


def run(folder, *configs, **changes):
    """Run configuration overlays, in turn, on a folder; raw data goes to another one."""
    own = SETTINGS | {"report": {"interactive": False}, "sheet": str(folder / "cohort.tsv")}
    (folder / "own.yaml").write_text(yaml.safe_dump(own | changes))
    files = [*(str(ROOT / f"workflow/configs/{name}.yaml") for name in configs), "own.yaml"]
    environment = {**os.environ, "MONAI_DATA_DIRECTORY": str(folder / "monai data")}
    done = run_snakemake(folder, "--configfile", *files, env=environment)
    assert done.returncode == 0, done.text[-5000:]


def test_oasis_disc(shared, server, tmp_path):
    """It goes from its server to the report."""
    served, _ = server
    oasis_disc(shared, tmp_path)
    archive = served / "oasis_cross-sectional_disc1.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(tmp_path / "disc1", "disc1")
    lines = (ROOT / "workflow/cohorts/oasis1.tsv").read_text().splitlines(keepends=True)
    kept = tuple(f"OAS1{number:04d}\t" for number in OASIS)
    rows = [line for line in lines if line.startswith((*kept, "subject"))]
    assert len(rows) == 1 + len(OASIS)
    (tmp_path / "cohort.tsv").write_text("".join(rows))
    sources = served_source(server, "oasis1-disc1", archive.name)
    run(tmp_path, "oasis", sources=str(sources))
    metrics = pd.read_csv(tmp_path / "results/metrics.tsv", sep="\t")
    assert set(metrics["subject"]) == {"sub-OAS10004_ses-MR1"} and len(metrics) == 3
    name = "sub-OAS10004_ses-MR1"
    path = tmp_path / f"results/segmentations/{name}/anat/{name}_desc-quicknat_dseg.nii.gz"
    dseg = nib.load(path)
    assert dseg.shape == SHAPE and nib.aff2axcodes(dseg.affine) == ("L", "A", "S")
    raw = {path.suffix for path in (tmp_path / "monai data/oasis1-disc1").rglob("*.*")}
    assert not (tmp_path / "results/raw").exists()
    assert raw == {".img", ".hdr"}  # the text files stayed in the archive
    assert "OAS10007" in (tmp_path / "results/report/index.html").read_text()


def freesurfer_folder(shared, folder, protocol):
    """A SUBJECTS_DIR of MALC scans; the manual labels in FreeSurfer's numbers stand for its own."""
    numbers = np.array(stored_values(protocol, "freesurfer"))
    for name, source in {"anna": 1008, "ben": 1009, "cora": 1010, "dan": 1011}.items():
        image, labels = malc(shared, source)
        aseg = numbers[protocol.remap(labels.data, "neuromorphometrics", labels.path)]
        (folder / name / "mri").mkdir(parents=True)
        for end, data in {"orig": image.data, "aseg": aseg}.items():
            made = nib.MGHImage(data.astype(np.int32), image.affine)
            nib.save(made, folder / name / f"mri/{end}.mgz")
    (folder / "fsaverage/mri").mkdir(parents=True)


def ixi_tar(shared, path):
    """IXI-T1.tar with two scans."""
    names = {"IXI002-Guys-0828-T1": 1012, "IXI012-HH-1211-T1": 1013}
    with tarfile.open(path, "w") as tar:
        for name, source in names.items():
            tar.add(shared / f"data/malc/{source}_SS.nii.gz", f"{name}.nii.gz")


def sheet(*arguments):
    """The user's command; gives what it says."""
    command = [sys.executable, "-m", "quicknat", "sheet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_freesurfer_and_ixi(shared, server, tmp_path, protocol):
    """A SUBJECTS_DIR and an archive of IXI become a cohort that runs."""
    served, _ = server
    subjects, archive = tmp_path / "subjects", served / "IXI-T1.tar"
    freesurfer_folder(shared, subjects, protocol)
    ixi_tar(shared, archive)
    sources = served_source(server, "ixi-t1", archive.name)
    said = sheet(subjects, "--output", tmp_path / "fs.tsv")
    assert "fsaverage" in said and "4 scans of 4 participants (layout freesurfer)" in said
    said = sheet(archive, "--source", "ixi-t1", "--output", tmp_path / "ixi.tsv")
    assert "2 scans of 2 participants (layout ixi)" in said and "pretrain  2" in said
    tables = [pd.read_csv(tmp_path / f"{name}.tsv", sep="\t", dtype=str) for name in ("fs", "ixi")]
    tables[0]["split"] = ["train", "train", "val", "test"]
    pd.concat(tables).to_csv(tmp_path / "cohort.tsv", sep="\t", index=False)
    atlases = {"method": "atlas", "atlases": ["sub-anna", "sub-ben"]}
    run(tmp_path, sources=str(sources), auto_labels=atlases)
    results = tmp_path / "results"
    for name in ("IXI002", "IXI012"):
        (path,) = results.glob(f"scans/sub-{name}/anat/*desc-auto_dseg.nii.gz")
        assert len(np.unique(nib.load(path).dataobj)) > 20
    metrics = pd.read_csv(results / "metrics.tsv", sep="\t")
    assert set(metrics["subject"]) == {"sub-dan"} and len(metrics) == 27
    model = pd.read_json(results / "models/finetune/axial/model.json", typ="series")
    assert model["initial_sha256"] and model["training_scans"] == ["sub-anna", "sub-ben"]
