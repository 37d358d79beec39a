"""Many scans are segmented in chunks: what is done stays done, and a bad scan stops no other."""

import pandas as pd
import pytest
from project import Project, row, write_scans

from quicknat.failures import read_failed

pytestmark = pytest.mark.long
SUMMARY = {"volumes": 1, "report": 1}


@pytest.fixture
def cohort(tmp_path, model, head, demo_dseg) -> Project:
    """Five scans to segment, at most four in a job, with a finished model."""
    write_scans(tmp_path / "data", [f"s{k}" for k in range(1, 7)], head, demo_dseg)
    project = Project(tmp_path)
    project.rows = [row(f"s{k}") for k in range(1, 6)]
    project.settings = {"model": str(model), "scans_per_job": 4}
    return project


def statuses(project: Project) -> dict[str, str]:
    """Return what the last job of each scan did."""
    tables = sorted(project.results.glob("chunks/*/scans.tsv"))
    table = pd.concat([pd.read_csv(path, sep="\t") for path in tables])
    return dict(zip(table["name"].str.removeprefix("sub-"), table["status"], strict=True))


def test_chunks(cohort):
    results = cohort.results
    cohort.run()
    assert statuses(cohort) == {f"s{k}": "done" for k in range(1, 6)}
    volumes = pd.read_csv(results / "segmentations/volumes.tsv", sep="\t")
    assert list(volumes["subject"].unique()) == [f"sub-s{k}" for k in range(1, 6)]
    page = results / "report/index.html"
    assert "5 scans with <code>split: segment</code> were segmented" in page.read_text()
    assert 'href="sub-' not in page.read_text() and not list(results.glob("report/sub-*.html"))
    assert cohort.jobs() == {}

    made = {f"s{k}": cohort.dseg(f"sub-s{k}").stat().st_mtime_ns for k in range(1, 6)}
    before = {path: path.stat().st_mtime_ns for path in results.glob("chunks/*/scans.tsv")}
    cohort.rows.append(row("s6"))
    assert cohort.jobs() == SUMMARY | {"segment_chunk": 1}
    cohort.run()
    now = statuses(cohort)
    assert now.pop("s6") == "done" and set(now.values()) == {"done", "skipped"}
    assert [path for path in before if path.stat().st_mtime_ns != before[path]] == [
        path for path in before if "sub-s6" in path.read_text()
    ]

    # other chunks, but no scan is segmented again; one of them has a broken scan
    cohort.settings["scans_per_job"] = 3
    broken = cohort.folder / "data/s2.nii"
    broken.write_bytes(broken.read_bytes()[:20_000])
    cohort.run("--keep-going", fails=True)
    (failure,) = read_failed(results / "failed.tsv")
    assert failure.stage == "segment_chunk" and "sub-s2: " in failure.reason
    assert "1 job failed" in (results / "report/incomplete.html").read_text()
    cohort.settings["on_bad_scan"] = "skip"
    cohort.run()
    now = statuses(cohort)
    assert now.pop("s2") == "failed" and now["s4"] == now["s3"] == "skipped"
    assert "is truncated" in page.read_text() and len(list(results.glob("chunks/*"))) == 3
    assert made == {name: cohort.dseg(f"sub-{name}").stat().st_mtime_ns for name in made}
