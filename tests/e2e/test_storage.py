"""A run whose jobs share no disk: results are in S3, jobs in folders of their own."""

import os

import boto3
import pytest
from moto.server import ThreadedMotoServer
from project import SETTINGS, SMOKE, row, write_scans

from helpers import ROOT, copy_workflow, run_snakemake

pytestmark = pytest.mark.long
NAMES = ("t1", "v1", "e1")


@pytest.fixture
def s3():
    """Environment and client of an S3 server."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    url, keys = "http://{}:{}".format(*server.get_host_and_port()), ("a", "b")
    client = boto3.client("s3", "us-east-1", endpoint_url=url, aws_access_key_id=keys[0],
                          aws_secret_access_key=keys[1])  # fmt: skip
    names = ("ENDPOINT_URL", "ACCESS_KEY", "SECRET_KEY")
    yield {f"SNAKEMAKE_STORAGE_S3_{n}": v for n, v in zip(names, (url, *keys), strict=True)}, client
    server.stop()


@pytest.fixture
def cloud(tmp_path, s3, head, demo_dseg):
    """A function that runs the workflow on a small cohort, with all jobs elsewhere."""
    folder, elsewhere = copy_workflow(tmp_path / "project"), tmp_path / "elsewhere"
    elsewhere.mkdir()  # sources must be below the folder
    write_scans(folder / "data", NAMES, head, demo_dseg)
    (folder / "cohort.tsv").write_text("\n".join([SMOKE[0], *map(row, NAMES)]) + "\n")
    overlay = SETTINGS | {"sheet": "cohort.tsv"}
    overlay.pop("pretrain")
    searched = [str(ROOT / "tests/elsewhere"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | s3[0] | {"ELSEWHERE": str(elsewhere)}
    env["PYTHONPATH"] = os.pathsep.join(searched)

    def run(*arguments):
        options = ["--executor", "elsewhere", "--jobs", "2", "--shared-fs-usage", "none"]
        options += ["--default-storage-provider", "s3"]
        options += ["--default-storage-prefix", "s3://bucket/run", *arguments]
        return run_snakemake(folder, *options, overlay=overlay, env=env, root=folder)

    return run, folder, elsewhere


@pytest.mark.timeout(3600)
def test_runs_to_its_report_without_a_shared_disk(cloud, s3):
    run, folder, elsewhere = cloud
    done = run()
    assert done.returncode == 0, done.text[-5000:]
    pages = s3[1].get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix="run/results/")
    keys = {item["Key"].removeprefix("run/results/") for page in pages for item in page["Contents"]}
    expected = (
        "report/index.html", "report/sub-e1.html", "metrics.tsv", "model/bundle.json",
        "segmentations/sub-e1/anat/sub-e1_desc-quicknat_dseg.nii.gz", "logs/finetune/axial.log",
    )  # fmt: skip
    assert set(expected) <= keys
    assert any(key.startswith("report/assets/") for key in keys)
    rules = {path.name.rpartition("-")[0] for path in elsewhere.glob("*/")}
    assert {"slice", "finetune", "bundle", "segment", "evaluate", "metrics"} <= rules
    assert not {"convert", "convert_labels", "pictures", "report"} & rules
    assert not (folder / "results/models").exists()
    again = run("--dry-run")
    assert "Nothing to be done" in again.text, again.text[-3000:]
