"""The report's pages: what they say, and that they are deaf to what scans are called."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from helpers import ROOT, dead_links
from made_up_results import made_up_results, split_tables
from quicknat.cohort import Scan
from quicknat.errors import written_whole
from quicknat.failures import Failure
from quicknat.figures import overlay_panel
from quicknat.report import ADVICE, write_report
from quicknat.report_tables import People, volumes_in_cohort
from quicknat.verdicts import Verdict
from quicknat.volumes import Volume

TEMPLATES = ROOT / "workflow/report"


def test_left_of_the_patient_is_drawn_on_the_left(head, demo_dseg, protocol):
    labels = protocol.remap(demo_dseg.data, "freesurfer", "x")
    left, right = (protocol.names.index(f"{side} cerebral cortex") for side in ("Left", "Right"))
    turned = head.affine @ np.diag([-1, 1, 1, 1.0])  # the same scan, stored right to left
    turned[:3, 3] = head.affine[:3, 3] + head.affine[:3, 0] * (head.shape[0] - 1)
    for step, affine in ((1, head.affine), (-1, turned)):
        image, dseg = (Volume(data[::step], affine, head.path) for data in (head.data, labels))
        figure = overlay_panel(image, dseg, None, protocol, "t")
        axial = next(axis for axis in figure.axes if axis.get_title() == "prediction")
        drawn = np.ma.filled(axial.get_images()[1].get_array(), 0)
        columns = [np.argwhere(drawn == index)[:, 1].mean() for index in (left, right)]
        assert columns[0] < columns[1]


HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(1)>"""


def hostile_scans():
    """What a sheet with other rules might let through; no slash, for these are names of files."""
    return [
        Scan(subject="""<img src=x onerror=alert(1)>"'ü""", image=HOSTILE, use="test",
             person=HOSTILE),
        Scan(subject="2", image="b.nii", use="segment", person="2"),
    ]  # fmt: skip


@pytest.mark.parametrize("interactive", [True, False])
def test_text_from_outside_cannot_become_markup(tmp_path, protocol, interactive):
    table = protocol.table.copy()
    table.loc[8, "name"] = HOSTILE
    for name in ("niivue.js", "datatables.js"):
        (tmp_path / name).write_text("")
    libraries = {name: tmp_path / f"{name}.js" for name in ("niivue", "datatables")}
    inputs = made_up_results(
        tmp_path / "results", hostile_scans(), replace(protocol, table=table), HOSTILE,
        skipped=[Verdict("sub-3", "test", HOSTILE, "bad", HOSTILE)], waiting=[HOSTILE, "sub-4"],
        people=People(pd.DataFrame({"sex": [HOSTILE]}, index=["sub-2"])),
        libraries=libraries if interactive else None,
    )  # fmt: skip
    output = tmp_path / "results/report/index.html"
    write_report(inputs, TEMPLATES, output)
    split_tables(inputs)
    failed = replace(inputs, failed=[Failure("segment", HOSTILE, HOSTILE, HOSTILE, HOSTILE)])
    write_report(failed, TEMPLATES, output.with_name("incomplete.html"))
    pages = [path.read_text() for path in output.parent.glob("*.html")]
    assert len(pages) == 4
    assert all("&lt;script&gt;alert(1)" in page for page in pages)
    for page in pages:
        assert "<img src=x" not in page and "<script>" not in page
        assert page.count("<script src=") == (page.count("</script>"))
        assert ("<script" in page) == interactive


def test_page_says_what_was_left_out_and_what_waits(tmp_path, protocol):
    inputs = made_up_results(
        tmp_path, [Scan(subject="1", image="a.nii", use="test", person="1")], protocol,
        skipped=[Verdict("sub-8", "test", "c.nii", "bad", "is damaged")],
        waiting=["sub-2", "sub-3"],
    )  # fmt: skip
    write_report(inputs, TEMPLATES, tmp_path / "report/index.html")
    page = (tmp_path / "report/index.html").read_text()
    assert "were left out" in page and "is damaged" in page
    assert "2 of the training scans wait" in page and "sub-2, sub-3." in page


def test_page_of_a_run_with_failures_shows_them_and_what_is_finished(tmp_path, protocol):
    scans = [
        Scan(subject=name, image="a.nii", use=use, person=name)
        for name, use in (("1", "test"), ("2", "segment"), ("9", "segment"))
    ]
    inputs = made_up_results(tmp_path, scans[:2], protocol)
    output = tmp_path / "report/incomplete.html"
    split_tables(inputs)
    dice = f"{inputs.table('metrics.tsv')['dice'].mean():.3f}"
    (tmp_path / "metrics.tsv").write_text("of an earlier run\n")
    failure = Failure("convert", "sub-9", "no head", "results/logs/convert/sub-9.log", "")
    write_report(replace(inputs, scans=scans, failed=[failure]), TEMPLATES, output)
    page = output.read_text()
    assert "1 job failed" in page and 'href="../logs/convert/sub-9.log"' in page
    assert "2 of 3 scans to segment" in page and f"<b>{dice}</b>" in page
    # neither figures of an earlier run nor links to pages that are not there
    assert "figures/dice.png" not in page and "sub-1.html" not in page
    assert list(output.parent.glob("sub-*.html")) == []


def test_page_of_a_run_that_failed_before_there_was_a_model(tmp_path, protocol):
    scan = Scan(subject="1", image="a.nii", use="test", person="1")
    inputs = made_up_results(tmp_path, [scan], protocol)
    (tmp_path / "model/bundle.json").unlink()
    failed = [Failure("finetune", "axial", "killed", "results/logs/finetune/axial.log", "")]
    output = tmp_path / "report/incomplete.html"
    write_report(replace(inputs, segmented=[], failed=failed), TEMPLATES, output)
    assert "finetune" in output.read_text() and "None is finished yet" in output.read_text()


def test_page_of_a_finished_model_says_so_instead_of_showing_a_training(tmp_path, protocol):
    scan = Scan(subject="1", image="a.nii", use="test", person="1")
    inputs = made_up_results(tmp_path, [scan], protocol, given="malc")
    output = tmp_path / "report/index.html"
    write_report(inputs, TEMPLATES, output)  # with histories of another run lying there
    page = output.read_text()
    assert "the finished model <strong>malc</strong> segmented this cohort" in page
    assert 'id="training"' not in page and "figures/curves" not in page and "Over-fit" not in page
    assert "trained on this cohort" not in page and dead_links(output) == []


def test_page_names_test_scans_that_the_model_may_have_learnt(tmp_path, protocol):
    scans = [Scan(subject=name, image="a.nii", use="test", person=name) for name in "123"]
    inputs = made_up_results(tmp_path, scans, protocol)
    bundle = tmp_path / "model/bundle.json"
    described = json.loads(bundle.read_text())
    described["views"]["axial"] |= {"training_scans": ["sub-3"], "validation_scans": ["sub-1"]}
    output = tmp_path / "report/index.html"
    write_report(inputs, TEMPLATES, output)
    assert "may have been learnt" not in output.read_text()
    bundle.write_text(json.dumps(described))
    write_report(inputs, TEMPLATES, output)
    page = output.read_text()
    assert "2 of the test scans may have been learnt" in page and "sub-1, sub-3. If" in page


def test_page_of_a_scan_that_is_gone_goes_too(tmp_path, protocol):
    scans = [Scan(subject=name, image="a.nii", use="segment", person=name) for name in "12"]
    output = tmp_path / "report/index.html"
    inputs = made_up_results(tmp_path, scans, protocol)
    write_report(inputs, TEMPLATES, output)
    write_report(replace(inputs, scans=scans[:1], segmented=["sub-1"]), TEMPLATES, output)
    assert sorted(p.name for p in output.parent.glob("*.html")) == ["index.html", "sub-1.html"]


def test_percentiles_are_said_of_five_scans_or_more():
    names = [f"sub-{k}" for k in range(5)]
    rows = [(n, s, 100 + k) for k, n in enumerate(names) for s in ("A", "All structures")]
    table = pd.DataFrame(rows, columns=["subject", "name", "volume_mm3"])
    found = volumes_in_cohort(table)
    assert list(found["percentile"][found["name"] == "A"]) == [20, 40, 60, 80, 100]
    assert list(found["share"]) == [1] * 10
    assert volumes_in_cohort(table[:8])["percentile"].isna().all()


def test_templates_ask_for_nothing_outside_the_page():
    for path in sorted(TEMPLATES.rglob("*.*")):
        if path.suffix in (".j2", ".css", ".js"):
            text = path.read_text()
            assert not re.search(r"https?://|@import|\bfetch\(|XMLHttpRequest", text), path.name
            assert "|safe" not in text


def test_failed_write_leaves_neither_final_nor_temporary_file(tmp_path):
    try:
        with written_whole(tmp_path / "a.txt", tmp_path / "b.txt") as (one, _):
            one.write_text("half")
            raise RuntimeError
    except RuntimeError:
        pass
    assert list(tmp_path.iterdir()) == []


def test_every_quality_flag_has_its_advice():
    sources = [ROOT / f"src/quicknat/{name}.py" for name in ("outputs", "population")]
    found = [re.findall(r'(?:"flag": |flag\(\s*)"(\w+)"', path.read_text()) for path in sources]
    assert {name for names in found for name in names} == set(ADVICE)
