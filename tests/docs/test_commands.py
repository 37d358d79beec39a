"""Commands in README and docs that nothing else tests are run, page by page, as a reader would.

Each page's blocks run in turn in one folder, where small scans lie under the pages' names.
Snakemake only plans: what it would run is tested by tests/e2e.
"""

import os
import shlex
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from documents import blocks, documents, name_of

from helpers import ROOT

pytestmark = pytest.mark.slow
TO_RUN = {
    page: [block for block in blocks(page) if not block.kind]
    for page in documents()
    if any(not block.kind for block in blocks(page))
}


@pytest.fixture
def folder(tmp_path, model, head_file, dseg_file):
    """A copy of the repository with a model, and scans in data/."""
    for name in ("Snakefile", "config.yaml", "workflow", "profiles", "src", "envs"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(model, tmp_path / "results/model")
    shutil.copy(head_file, tmp_path / "T1w.nii.gz")
    data = tmp_path / "data"
    for name in ("one", "two", "three"):
        for kind, file in (("T1.mgz", head_file), ("aseg.mgz", dseg_file)):
            path = data / f"SUBJECTS_DIR/{name}/mri/{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = nib.load(file)
            # otherwise the three would be one scan under three names
            voxels = np.asarray(image.dataobj, np.int16) + (len(name) if kind == "T1.mgz" else 0)
            nib.save(nib.MGHImage(voxels.astype(np.int16), image.affine), path)
        folder = data / f"bids/sub-{name}/anat"
        folder.mkdir(parents=True)
        shutil.copy(head_file, folder / f"sub-{name}_T1w.nii.gz")
    for name in ("mine", "maps", "archives"):
        (data / name).mkdir()
    shutil.copy(head_file, data / "mine/a.nii.gz")
    shutil.copy(dseg_file, data / "mine/a_dseg.nii.gz")
    shutil.copy(dseg_file, data / "maps/m.nii.gz")
    return tmp_path


@pytest.fixture
def shell(folder):
    """Run a script in the folder, with the commands of this environment."""
    programs = folder / "bin"
    programs.mkdir()
    for name, arguments in (("quicknat", ""), ("snakemake", "--dry-run")):
        (programs / name).write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {name} "$@" {arguments}\n'
        )
        (programs / name).chmod(0o755)
    path = {"PATH": os.pathsep.join([str(programs), os.environ["PATH"]])}
    activate = folder / ".venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.write_text("")

    def run(text):
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text.replace("/data/", f"{folder}/data/")],
            cwd=folder, capture_output=True, text=True, env={**os.environ, **path},
        )  # fmt: skip

    return run


@pytest.mark.parametrize("page", TO_RUN, ids=name_of)
def test_commands_of_a_page_run_one_after_the_other(page, shell):
    for block in TO_RUN[page]:
        done = shell(block.text)
        assert done.returncode == 0, f"{block.text}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"


def test_block_that_fails_is_noticed(shell):
    assert shell("quicknat check /data/none.tsv\necho done").returncode == 1
