"""Conda and Apptainer are wired into every rule; stand-ins take their places on PATH.

What conda resolves and what is in an image, no test here can say: neither has a place to come from.
"""

import os
import re
import sys

import pytest

from helpers import ROOT, TINY, run_snakemake, tiny_cohort

CONVERTED = "results/scans/sub-t1/anat/sub-t1_space-conformed_T1w.nii.gz"

CONDA = """#!/bin/sh
case "$*" in
  "info --json") echo '{"conda_prefix": "BASE", "platform": "linux-64"}' ;;
  "--version") echo "conda 25.1.0" ;;
  "config --get channel_priority --json") echo '{"get": {"channel_priority": "strict"}}' ;;
  "clean "*) ;;
  "env create "*)
    for prefix; do :; done  # the last argument is --prefix PATH or --prefix=PATH
    mkdir -p "${prefix#--prefix=}/bin"
    cp BASE/python "${prefix#--prefix=}/bin/python" ;;
  *) echo "conda $*?" >&2; exit 1 ;;
esac
"""
ACTIVATE = 'export CONDA_PREFIX="$1" PATH="$1/bin:$PATH"\n'
# `python -m pip install … SOURCE` leaves a quicknat that says which folder it is of
PYTHON = """#!/bin/sh
for source; do :; done
cat > "$CONDA_PREFIX/bin/quicknat" <<END
#!/bin/sh
echo "quicknat of $source"
PYTHONPATH="$source/src" exec INTERPRETER -m quicknat "\\$@"
END
chmod +x "$CONDA_PREFIX/bin/quicknat"
"""
APPTAINER = """#!/bin/bash
[ "$1" = --version ] && { echo "apptainer version 1.3.0"; exit; }
while [ "$1" != bash ]; do image=$1; shift; done
echo "in $image" >> "$PWD/containers.txt"
exec "$@"
"""


@pytest.fixture
def environment(tmp_path):
    """Variables with stand-ins for conda and apptainer first on PATH."""
    base = tmp_path / "base"
    (base / "bin").mkdir(parents=True)
    programs = {
        "bin/conda": CONDA, "bin/activate": ACTIVATE, "bin/apptainer": APPTAINER, "python": PYTHON,
    }  # fmt: skip
    for name, text in programs.items():
        text = text.replace("BASE", str(base)).replace("INTERPRETER", sys.executable)
        (base / name).write_text(text)
        (base / name).chmod(0o755)
    return os.environ | {"PATH": f"{base / 'bin'}{os.pathsep}{os.environ['PATH']}"}


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
        if "{" not in path[1]:
            assert (ROOT / path[1]).is_file(), name


def test_environment_of_our_own_code_gets_our_own_code():
    """The one of SAMSEG does not: there the `quicknat` of the outer environment starts it."""
    script = (ROOT / "envs/torch.post-deploy.sh").read_text()
    assert "pip install" in script and '"${QUICKNAT_SOURCE:-.}"' in script


@pytest.mark.slow
def test_job_under_conda_runs_this_workflows_code_in_the_new_environment(
    tmp_path, environment, cohort
):
    environment["QUICKNAT_SOURCE"] = str(ROOT)  # Snakemake runs in another folder here
    done = run_snakemake(tmp_path, CONVERTED, "--sdm", "conda", overlay=cohort, env=environment)
    assert done.returncode == 0 and (tmp_path / CONVERTED).exists(), done.text
    log = (tmp_path / "results/logs/convert/sub-t1.log").read_text()
    assert log.startswith(f"quicknat of {ROOT}\n")


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
