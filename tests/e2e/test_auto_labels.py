"""The workflow labels a raw scan with a program on PATH, of which a stand-in takes the place."""

import os

import nibabel as nib
import numpy as np
import pytest

from helpers import run_snakemake

pytestmark = pytest.mark.slow
OUTPUT = "results/scans/sub-p1/anat/sub-p1_space-conformed_desc-auto_dseg.nii.gz"
# run_samseg -i IMAGE -o FOLDER --threads N
STAND_IN = '#!/bin/sh\necho stand-in "$6"; mkdir -p "$4"; cp LABELS "$4/seg.mgz"\n'


def test_stand_in_labels_the_pretraining_scan_once(tmp_path, head_file, dseg_file):
    labels = nib.load(dseg_file)
    values = np.asarray(labels.dataobj).astype(np.int32)
    nib.save(nib.MGHImage(values, labels.affine), tmp_path / "labels.mgz")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "run_samseg"
    program.write_text(STAND_IN.replace("LABELS", str(tmp_path / "labels.mgz")))
    program.chmod(0o755)
    image, rows = nib.load(head_file), [["subject", "image", "labels", "label_convention", "split"]]
    for number, use in enumerate(("pretrain", "train", "val"), start=1):
        path = tmp_path / f"p{number}.nii.gz"  # one image in two splits would be refused
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + number, image.affine), path)
        given = ["", ""] if use == "pretrain" else [dseg_file, "freesurfer"]
        rows.append([f"p{number}", path, *given, use])
    sheet = tmp_path / "sheet.tsv"
    sheet.write_text("\n".join("\t".join(map(str, row)) for row in rows) + "\n")
    overlay = {
        "sheet": str(sheet),
        "auto_labels": {"method": "samseg"},
        "conform": {"spacing_mm": 4.0, "size": 64},
        "slices": {"size": 48},
    }
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = run_snakemake(tmp_path, OUTPUT, overlay=overlay, env=environment)
    assert done.returncode == 0, done.text[-3000:]
    assert len(np.unique(np.asarray(nib.load(tmp_path / OUTPUT).dataobj))) > 20
    log = (tmp_path / "results/logs/auto_label_external/sub-p1.log").read_text()
    assert "stand-in 2" in log  # threads: as many as there are, at most four
    overlay["auto_labels"]["license"] = "elsewhere.txt"  # changes no label
    done = run_snakemake(tmp_path, "--dry-run", OUTPUT, overlay=overlay, env=environment)
    assert "Nothing to be done" in done.text, done.text[-3000:]
