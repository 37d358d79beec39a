"""A run whose jobs share no disk: results are in S3, jobs in folders of their own."""

import os
import socket
import subprocess
import sys
import time

import boto3
import pytest
from project import SETTINGS, SMOKE, row, write_scans

from helpers import ROOT, copy_workflow, run_snakemake

pytestmark = pytest.mark.long
NAMES = ("t1", "v1", "e1")


@pytest.fixture
def s3(tmp_path):
    """Environment and client of an S3 server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "s3.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    url, keys = f"http://127.0.0.1:{port}", {"ACCESS_KEY": "a", "SECRET_KEY": "b"}
    client = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1",
        aws_access_key_id="a", aws_secret_access_key="b",
    )  # fmt: skip
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            assert server.poll() is None, (tmp_path / "s3.log").read_text()
            time.sleep(0.5)
    settings = keys | {"ENDPOINT_URL": url}
    yield {f"SNAKEMAKE_STORAGE_S3_{key}": value for key, value in settings.items()}, client
    server.terminate()
    server.wait()


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
    environment = os.environ | s3[0] | {"ELSEWHERE": str(elsewhere)}
    environment["PYTHONPATH"] = os.pathsep.join(searched)

    def run(*arguments, **settings):
        options = ["--executor", "elsewhere", "--jobs", "2", "--shared-fs-usage", "none"]
        options += ["--default-storage-provider", "s3"]
        options += ["--default-storage-prefix", "s3://bucket/run"]
        return run_snakemake(
            folder, *options, *arguments, overlay=overlay | settings, env=environment, root=folder
        )

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
