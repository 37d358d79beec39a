"""The workflow labels a raw scan with a program on PATH, of which a stand-in takes the place."""

import nibabel as nib
import numpy as np
import pytest
from project import row

pytestmark = pytest.mark.slow
OUTPUT = "results/scans/sub-p2/anat/sub-p2_space-conformed_desc-auto_dseg.nii.gz"
# run_samseg -i IMAGE -o FOLDER --threads N
STAND_IN = '#!/bin/sh\necho stand-in "$6"; mkdir -p "$4"; cp {} "$4/seg.mgz"\n'


def test_stand_in(project):
    """It labels the scan to pre-train on, once."""
    labels, path = nib.load(project.folder / "data/labels.nii.gz"), project.folder / "labels.mgz"
    nib.save(nib.MGHImage(np.asarray(labels.dataobj).astype(np.int32), labels.affine), path)
    project.program("run_samseg", STAND_IN.format(path))
    project.rows += [row("p2", labels=False)]
    project.settings["auto_labels"] = {"method": "samseg"}
    project.run(OUTPUT)
    assert len(np.unique(np.asarray(nib.load(project.folder / OUTPUT).dataobj))) > 20
    log = (project.results / "logs/auto_label_external/sub-p2.log").read_text()
    assert "stand-in 2" in log  # threads: as many as there are, at most four
    project.set("auto_labels", license="elsewhere.txt")  # changes no label
    assert "Nothing to be done" in project.run("--dry-run", OUTPUT)
