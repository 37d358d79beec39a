"""Every rule names its conda environment, and jobs run in the container that a user names.

What conda resolves and what is in an image, no test here can say: neither has a place to come from.
"""

import os
import re
import subprocess

import pytest

from helpers import ROOT, TINY, run_snakemake, tiny_cohort

CONVERTED = "results/scans/sub-t1/anat/sub-t1_space-conformed_T1w.nii.gz"

APPTAINER = """#!/bin/bash
[ "$1" = --version ] && { echo "apptainer version 1.3.0"; exit; }
while [ "$1" != bash ]; do image=$1; shift; done
echo "in $image" >> "$PWD/containers.txt"
exec "$@"
"""


@pytest.fixture
def environment(tmp_path):
    """Variables with a stand-in for apptainer, first on PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "apptainer").write_text(APPTAINER)
    (programs / "apptainer").chmod(0o755)
    return os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def cohort(tmp_path):
    """An overlay for two scans to train on."""
    return TINY | {"sheet": tiny_cohort(tmp_path, t1="train", t2="train")}


def rules():
    """The text of every rule that runs a command, by name."""
    text = "".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    parts = re.split(r"^ *rule (\w+):$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_rule_names_an_environment_that_is_there():
    found = rules()
    assert len(found) > 15
    for name, body in found.items():
        path = re.search(r'conda:\n\s+f?"\.\./\.\./(envs/.*\.yaml)"', body)
        assert path, name
        for choice in ("samseg", "torch"):  # of auto_label
            assert (ROOT / re.sub(r"\{.*\}", choice, path[1])).is_file(), name


@pytest.mark.parametrize("source", ["", "/data/quicknat"])
def test_environment_of_our_own_code_gets_our_own_code(tmp_path, environment, source):
    """The one of SAMSEG does not: there the `quicknat` of the outer environment starts it."""
    (tmp_path / "bin/python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "bin/python").chmod(0o755)
    environment |= {"QUICKNAT_SOURCE": source} if source else {}
    script = ROOT / "envs/torch.post-deploy.sh"
    said = subprocess.check_output(["bash", script], env=environment, text=True)
    assert said.startswith("-m pip install ") and said.split()[-1] == (source or ".")


@pytest.mark.slow
def test_apptainer_without_an_image_is_refused_with_what_to_do(tmp_path, environment, cohort):
    done = run_snakemake(tmp_path, "-n", "--sdm", "apptainer", overlay=cohort, env=environment)
    assert done.returncode != 0 and "needs 'container'" in done.text
    assert "Dockerfile" in done.text


@pytest.mark.slow
def test_job_runs_in_the_container(tmp_path, environment, cohort):
    (tmp_path / "image.sif").touch()
    overlay = {**cohort, "container": str(tmp_path / "image.sif")}
    done = run_snakemake(
        tmp_path, CONVERTED, "--sdm", "apptainer", overlay=overlay, env=environment
    )
    assert done.returncode == 0 and (tmp_path / CONVERTED).exists(), done.text
    assert set((tmp_path / "containers.txt").read_text().splitlines()) == {
        f"in {tmp_path / 'image.sif'}"
    }
