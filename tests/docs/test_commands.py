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
    for number, name in enumerate(("one", "two", "three")):
        mri, anat = data / f"SUBJECTS_DIR/{name}/mri", data / f"bids/sub-{name}/anat"
        mri.mkdir(parents=True)
        anat.mkdir(parents=True)
        scan = head.data.astype(np.int16) + np.int16(number)  # not one scan under three names
        nib.save(nib.MGHImage(scan, head.affine), mri / "T1.mgz")
        dseg = demo_dseg.data.astype(np.int16)
        nib.save(nib.MGHImage(dseg, demo_dseg.affine), mri / "aseg.mgz")
        shutil.copy(head_file, anat / f"sub-{name}_T1w.nii.gz")
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
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/activate").touch()

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
