"""Commands in README and docs that nothing else tests are run, in the order of the pages.

They run in one folder, where small scans lie under the pages' names; what several pages say runs
once. Snakemake only plans: what it would run is tested by tests/e2e.
"""

import os
import shlex
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from documents import blocks, documents, name_of, simple_commands

from helpers import ROOT, save

pytestmark = pytest.mark.long
TO_RUN = {str(simple_commands(b.text)): b for p in documents() for b in blocks(p) if not b.kind}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, head, demo_dseg):
    """A copy of the repository with a model, and scans in data/."""
    tmp_path = tmp_path_factory.mktemp("reader")
    head_file = save(tmp_path / "T1w.nii.gz", head.data.astype(np.int16), head.affine)
    dseg_file = save(tmp_path / "dseg.nii.gz", demo_dseg.data, demo_dseg.affine)
    for name in ("Snakefile", "config.yaml", "workflow", "profiles", "src", "envs"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(model, tmp_path / "results/model")
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
    (data / "bids/dataset_description.json").write_text('{"Name": "three", "BIDSVersion": "1.9.0"}')
    for name in ("mine", "maps", "archives"):
        (data / name).mkdir()
    shutil.copy(head_file, data / "mine/a.nii.gz")
    shutil.copy(dseg_file, data / "mine/a_dseg.nii.gz")
    shutil.copy(dseg_file, data / "maps/m.nii.gz")
    return tmp_path


@pytest.fixture(scope="module")
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


def test_commands_run_in_the_order_of_the_pages(shell):
    for block in TO_RUN.values():
        done = shell(block.text)
        message = f"{name_of(block.page)}: {block.text}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        assert done.returncode == 0, message


def test_block_that_fails_is_noticed(shell):
    assert shell("quicknat check /data/none.tsv\necho done").returncode == 1
