"""The workflow as a module of another one, in a folder of its own."""

import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from helpers import ROOT, tiny_cohort

OURS = """
configfile: "ours.yaml"


module quicknat:
    snakefile:
        "{root}/Snakefile"
    config:
        config["quicknat"]
    pathvars:
        results="derived/quicknat",


use rule * from quicknat as quicknat_*


rule volumes_of_the_left_side:
    default_target: True
    input:
        volumes=rules.quicknat_volumes.output.volumes,
        report=rules.quicknat_report.output.page,
    output:
        "left.tsv",
    shell:
        "(head -n 1 {{input.volumes}}; grep Left {{input.volumes}}) > {{output}}"
"""


@pytest.mark.long
def test_another_workflow_segments_with_our_rules_and_uses_the_volumes(tmp_path, model):
    tiny_cohort(tmp_path, a="segment", b="test", c="segment")
    (tmp_path / "c.nii.gz").write_text("no scan")
    settings = {"sheet": "cohort.tsv", "model": str(model), "on_bad_scan": "skip"}
    (tmp_path / "ours.yaml").write_text(json.dumps({"quicknat": settings}))
    (tmp_path / "Snakefile").write_text(OURS.format(root=ROOT))
    before = {path.name for path in tmp_path.iterdir()}
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(tmp_path / "left.tsv", sep="\t")
    assert set(table.subject) == {"sub-a", "sub-b"} and table["name"].str.contains("Left").all()
    assert (tmp_path / "derived/quicknat/report/sub-a.html").is_file()
    page = (tmp_path / "derived/quicknat/report/index.html").read_text()
    assert "left out" in page and "c.nii.gz" in page
    shutil.rmtree(tmp_path / ".snakemake")
    assert {path.name for path in tmp_path.iterdir()} == before | {"derived", "left.tsv"}
