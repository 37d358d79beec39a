"""The report's pages: their content, and that names of scans and files cannot change them."""

import json
import re
from dataclasses import replace

import pandas as pd
import pytest

from helpers import ROOT, dead_links
from in_process import quicknat
from made_up_results import made_up_results, one_scan, split_tables, written
from quicknat.cohort.check import Verdict
from quicknat.cohort.participants import read_participants
from quicknat.cohort.sheet import Scan
from quicknat.errors import InputError
from quicknat.evaluation.scores import MEASURES
from quicknat.failures import Failure
from quicknat.files import write_records
from quicknat.flags import FLAGS, raised
from quicknat.images.slices import VIEWS
from quicknat.package_data import TEMPLATES
from quicknat.report.cohort_page import demographics, run_times
from quicknat.report.inputs import ReportInputs, read_note
from quicknat.report.pages import with_percentiles
from quicknat.report.standalone import (
    BUNDLES,
    classic_script,
    write_libraries,
    write_single_file,
)
from quicknat.segmentation.tasks import Outcome

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(1)>"""


def hostile_scans():
    """What a sheet with other rules might let through; no slash, for these are names of files."""
    return [
        Scan(subject="""<img src=x onerror=alert(1)>"'ü""", image=HOSTILE, split="test",
             participant=HOSTILE),
        one_scan("2", "segment"),
    ]  # fmt: skip


def test_scores_and_what_they_mean_are_shown_only_where_scans_are_tested(tmp_path, protocol):
    inputs = made_up_results(tmp_path, [one_scan("1"), one_scan("2")], protocol, "of the scores")
    page = written(inputs)
    assert "mean Dice of 2 participants<" in page and "A note of the scores" in page
    assert "nothing to score against" not in page
    (tmp_path / "report/volumes").mkdir()
    (own := tmp_path / "report/figures/paper.png").touch()  # a figure that is not ours
    for name in ("sub-1.js", "sub-2.js"):
        (tmp_path / "report/volumes" / name).touch()
    now = [one_scan("1", "segment")]  # and the other one is gone; the scores lie there still
    page = written(replace(inputs, scans=now, segmented=["sub-1"]))
    assert "mean Dice of" not in page and "A note of the scores" not in page
    assert "nothing to score against" in page
    assert "mean Dice" not in (tmp_path / "report/sub-1.html").read_text()
    pages = sorted(path.name for path in tmp_path.glob("report/*.html"))
    assert pages == ["index.html", "sub-1.html"]
    # nor are pictures of who is gone in a folder that people mail
    left = [path.name for path in tmp_path.glob("report/*/sub-*")]
    assert sorted(left) == ["sub-1", "sub-1.js"] and own.exists()


@pytest.mark.parametrize("interactive", [True, False])
def test_text_from_outside_cannot_become_markup(tmp_path, protocol, interactive):
    table = protocol.table.copy()
    table.loc[8, "name"] = HOSTILE
    inputs = made_up_results(
        tmp_path, hostile_scans(), replace(protocol, table=table), HOSTILE,
        skipped=[Verdict("sub-3", "test", HOSTILE, "bad", HOSTILE)],
        people=pd.DataFrame({"sex": [HOSTILE]}, index=["sub-2"]),
        interactive=interactive,
    )  # fmt: skip
    assert "were left out" in written(inputs)
    for page in tmp_path.glob("report/*.html"):
        assert dead_links(page) == []
    split_tables(inputs)
    failed = replace(inputs, failed=[Failure("segment", HOSTILE, HOSTILE, HOSTILE, HOSTILE)])
    written(failed, "incomplete.html")
    pages = [path.read_text() for path in tmp_path.glob("report/*.html")]
    assert len(pages) == 4
    assert all("&lt;script&gt;alert(1)" in page for page in pages)
    for page in pages:
        assert "<img src=x" not in page and "<script>" not in page
        assert page.count("<script src=") == (page.count("</script>"))
        assert ("<script" in page) == interactive


def test_scans_of_chunks_have_no_page_and_the_report_says_so(tmp_path, protocol):
    inputs = made_up_results(tmp_path, [one_scan("1"), one_scan("2", "segment")], protocol)
    chunk = tmp_path / "chunks/01"
    outcomes = [
        Outcome("sub-2", "2.nii", "done", "", 1.0, "thick; odd"),
        Outcome("sub-3", HOSTILE, "failed", HOSTILE, 1.0),
    ]
    write_records(chunk / "scans.tsv", Outcome, outcomes)
    page = written(replace(inputs, segmented=["sub-1"], chunks=[chunk]))
    assert "1 scans with <code>split: segment</code> were segmented in jobs of many scans" in page
    assert "thick; odd" in page and "&lt;script&gt;alert(1)" in page and "<img src=x" not in page
    assert not (tmp_path / "report/sub-2.html").exists() and "sub-2.html" not in page
    volumes = pd.read_csv(tmp_path / "segmentations/volumes.tsv", sep="\t")
    volumes[volumes["subject"] == "sub-2"].to_csv(chunk / "volumes.tsv", sep="\t", index=False)
    split_tables(inputs)
    failed = replace(
        inputs, segmented=["sub-1"], chunks=[chunk], failed=[Failure("segment", "", "", "", "")]
    )
    assert len(failed.table("segmentations/volumes.tsv")) == len(volumes)
    assert "2 of 2 scans to segment" in written(failed, "incomplete.html")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "no such file"),
        ("participant_id\tsex\nsub-1\tmännlich\n".encode("latin-1"), "can't decode byte"),
        (b"", "cannot be read as a tab-separated table"),
        (b"participant_id\tage\nsub-1\t30\nsub-2\t31\nsub-1\t32\n", "'sub-1' in two"),
        (b"participant_id\tage\n\t30\n\t31\n", "'n/a' in two"),
        (b"participant_id,age\nsub-1,30\n", "has columns that ',' separates"),
        (b"subject\tage\nsub-1\t30\n", "has no column 'participant_id'"),
        (b"participant_id\tage\nsub-1\t30\tF\n", "more cells than its header"),
    ],
)
def test_participants_that_cannot_be_used_are_refused_with_what_to_do(tmp_path, content, problem):
    path = tmp_path / "participants.tsv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=problem) as caught:
        read_participants(path)
    assert caught.value.where == str(path) and caught.value.fix


def test_participants_are_text_by_id_wherever_the_column_stands(tmp_path, protocol):
    path = tmp_path / "participants.tsv"
    path.write_bytes("\ufeffage\tparticipant_id\tsex\tsite\n007\tsub-1\t\tx\n".encode())
    people = read_participants(path)
    inputs = ReportInputs("", "", tmp_path, (), (), protocol, people=people)
    assert inputs.known(one_scan("1")) == {"age": "007", "sex": "n/a"}
    assert inputs.known(one_scan("2")) == {"age": "n/a", "sex": "n/a"}
    described = demographics(people, ["sub-1", "sub-2"])
    assert described == ["age 7 to 7, median 7 (known for 1)"]
    path.write_text("participant_id\tage\nsub-1\t89+\nsub-2\t71\n")  # BIDS: older than 89
    described = demographics(read_participants(path), ["sub-1", "sub-2"])
    assert described == ["age 71 to 89, median 80 (known for 2)"]


def test_note_that_is_missing_or_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "cohort.md"
    with pytest.raises(InputError, match=r"md: cannot be read .*; save it as"):
        read_note(path)
    path.write_bytes("Köpfe".encode("latin-1"))
    with pytest.raises(InputError, match=r"cohort.md: cannot be read as text .*in UTF-8"):
        read_note(path)
    path.write_text(" Köpfe\n", encoding="utf-8")
    assert read_note(path) == "Köpfe"


def test_page_of_a_run_with_failures_shows_them_and_what_is_finished(tmp_path, protocol):
    scans = [
        Scan(subject="1", image="a.nii", split="test", session=s, participant="1") for s in "ab"
    ]
    inputs = made_up_results(tmp_path, scans, protocol)
    assert 'href="assets/change.tsv"' in written(inputs)
    for page in tmp_path.glob("report/sub-*.html"):
        page.unlink()
    (table := tmp_path / "report/assets/change.tsv").write_text("of an earlier run")
    split_tables(inputs)
    dice = f"{inputs.table('metrics.tsv')['dice'].mean():.3f}"
    (tmp_path / "metrics.tsv").write_text("of an earlier run\n")
    failure = Failure("convert", "sub-9", "no head", "results/logs/convert/sub-9.log", "")
    failed = replace(inputs, scans=[*scans, one_scan("9", "segment")], failed=[failure])
    page = written(failed, "incomplete.html")
    assert "1 job failed" in page and 'href="../logs/convert/sub-9.log"' in page
    assert "2 of 3 scans to segment" in page and f"<b>{dice}</b>" in page
    # neither figures and tables of an earlier run nor links to pages that are not there
    assert 'id="change"' in page and "change.tsv" not in page and "figures/dice.png" not in page
    assert not re.findall(r'href="sub-', page) and not list(tmp_path.glob("report/sub-*.html"))
    assert table.read_text() == "of an earlier run"
    (tmp_path / "model/bundle.json").unlink()  # failed before there was a model
    page = written(replace(failed, segmented=[]), "incomplete.html")
    assert "convert" in page and "No scan is finished yet" in page


def with_scans(inputs, views, training, validation):
    """Change the scans that networks of the model were trained and validated on."""
    bundle = inputs.results / "model/bundle.json"
    described = json.loads(bundle.read_text())
    for view in views:
        described["views"][view] |= {"training_scans": training, "validation_scans": validation}
    bundle.write_text(json.dumps(described))


def test_page_names_test_scans_that_the_model_was_trained_on(tmp_path, protocol):
    inputs = made_up_results(tmp_path, [one_scan(name) for name in "123"], protocol)
    assert "may have been trained on" not in written(inputs)
    with_scans(inputs, ["axial"], ["sub-3"], ["sub-1"])
    page = written(inputs)
    assert "2 of the test scans may have been trained on" in page and "sub-1, sub-3. If" in page


def test_page_of_a_given_model_names_its_path_instead_of_showing_a_training(tmp_path, protocol):
    inputs = made_up_results(tmp_path, [one_scan("1")], protocol)
    with_scans(inputs, VIEWS, ["sub-3"], ["sub-4"])
    (sheet := tmp_path / "cohort.tsv").write_text("subject\timage\tsplit\n1\ta.nii\tsegment\n")
    (tmp_path / "list.txt").write_text("sub-1\n")
    page = tmp_path / "report/index.html"
    options = ("--segmented", tmp_path / "list.txt", "--output", page, "--static")
    given = "--given-model=earlier/model"
    assert quicknat("report", sheet, "--results", tmp_path, given, *options).status == 0
    text = " ".join(page.read_text().split())
    assert "the existing model <strong>earlier/model</strong> segmented this cohort" in text
    assert "trained on 1 scan, and its best epoch chosen on 1 other." in text
    for absent in ('id="training"', "figures/curves", "Over-fit", "trained on this cohort"):
        assert absent not in text  # with histories of another run lying there
    assert dead_links(page) == []


def test_protocol_without_cerebrum_has_no_brain_volume_on_the_pages(tmp_path, protocol):
    deep = replace(protocol, table=protocol.table.assign(freesurfer=""))  # no FreeSurfer numbers
    scans = [Scan(subject="1", image="a.nii", split="segment", session=s) for s in "ab"]
    inputs = made_up_results(tmp_path, scans, deep)
    for stats in tmp_path.glob("segmentations/*/anat/*.stats"):
        stats.write_text("# Measure AllStructures, AllStructuresVol, All, 9000.0, mm^3\n")
    pages = [written(inputs), (tmp_path / f"report/{scans[0].id}.html").read_text()]
    assert "Change between sessions" in pages[0]
    assert not any(
        re.search("brain volume|Brain volume|brain, without| ml", page) for page in pages
    )


def test_percentiles_are_of_five_scans_or_more():
    rows = [(f"sub-{k}", structure, 100 + k) for k in range(5) for structure in "AB"]
    table = pd.DataFrame(rows, columns=["subject", "name", "volume_mm3"])
    found = with_percentiles(table)
    assert list(found["percentile"][found["name"] == "A"]) == [20, 40, 60, 80, 100]
    assert with_percentiles(table[:8])["percentile"].isna().all()


def test_every_measure_is_on_the_cohorts_page_and_on_a_scans_and_explained(tmp_path, protocol):
    inputs = made_up_results(tmp_path, [one_scan("1")], protocol)
    pages = written(inputs), (tmp_path / "report/sub-1.html").read_text()
    explained = (ROOT / "docs/explanation/scores.md").read_text()
    for name, measure in MEASURES.items():
        value = f">{inputs.metrics[name].iloc[0]:.{measure.digits}f}</td>"
        assert value in pages[1] and all(f">{measure.title}</th>" in page for page in pages)
        assert f"| {measure.title.removesuffix(' (mm)')} |" in explained


@pytest.mark.parametrize(("name", "column"), [("metrics", "hd95_mm"), ("metrics/views", "iou")])
def test_scores_by_an_earlier_version_are_refused_with_what_to_do(tmp_path, protocol, name, column):
    inputs = made_up_results(tmp_path, [one_scan("1")], protocol)
    path = tmp_path / f"{name}.tsv"
    pd.read_csv(path, sep="\t").drop(columns=column).to_csv(path, sep="\t", index=False)
    with pytest.raises(InputError, match=f"{path}: lacks {column}: an .*with -R evaluate"):
        written(inputs)


def test_templates_ask_for_nothing_outside_the_page():
    for path in sorted(TEMPLATES.rglob("*.*")):
        if path.suffix in (".j2", ".css", ".js"):
            found = r"https?://|@import|\bfetch\(|XMLHttpRequest|\|safe"
            assert not re.search(found, path.read_text()), path.name


def test_every_quality_flag_has_its_advice_and_is_explained():
    with pytest.raises(KeyError, match="'odd' has no advice"):
        raised("odd", "it looks so")
    guide = (ROOT / "docs/howto/segment.md").read_text().partition("## Quality flags")[2]
    assert sorted(re.findall(r"^\| `(\w+)` \|", guide, re.MULTILINE)) == sorted(FLAGS)


def test_run_times_are_of_all_jobs_of_a_rule(tmp_path):
    assert run_times(tmp_path).empty
    for scan, text in (("1", "s\tmax_rss\n1\t10\n"), ("2", "s\tmax_rss\n3\t-\n")):
        (tmp_path / "segment").mkdir(exist_ok=True)
        (tmp_path / f"segment/{scan}.tsv").write_text(text)
    (row,) = run_times(tmp_path).to_dict("records")
    assert row == {"rule": "segment", "jobs": 2, "median_s": 2, "total_s": 4, "peak_mb": 10}


def test_pages_have_scripts_beside_them_or_in_them_and_name_all_licences(tmp_path, protocol):
    inputs = made_up_results(tmp_path, [one_scan("1"), one_scan("2")], protocol, interactive=True)
    index = written(inputs)
    page, volumes = tmp_path / "report/sub-1.html", tmp_path / "report/volumes/sub-1.js"
    for text in (index, page.read_text()):
        assert "own model (p, 2 mm)" in text and "Licence of its weights: not stated" in text
    assert 'href="sub-2.html">sub-2 →' in page.read_text() and dead_links(page) == []
    licences = (tmp_path / "report/assets/LICENSES.txt").read_text()
    assert "Redistribution and use in source and binary forms" in licences  # NiiVue
    assert "Permission is hereby granted" in licences and "SpryMedia" in licences  # DataTables
    volumes.parent.mkdir()
    volumes.write_text('quicknatVolumes({"name": "</script><!--"});')
    write_single_file(page, tmp_path / "mail.html")
    text = (tmp_path / "mail.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!#)|(?:data-\w+)="(?:assets|volumes)/', text)
    assert 'url("figures' not in text and 'url("data:image/webp;base64,' in text
    assert r'{"name": "<\/script><\!--"}' in text
    assert "Redistribution and use in source and binary forms" in text
    for other, problem in (("sub-1", "own page"), ("sub-3", "is missing")):
        with pytest.raises(InputError, match=problem):
            write_single_file(page.with_stem(other), page)


@pytest.mark.parametrize(
    ("package", "path", "problem"),
    [
        ("no-such-package", "x.js", r"needs the package no-such-package; .*interactive"),
        ("itables", "itables/gone.js", r"itables [\d.]+: itables/gone.js: .*requirements.lock"),
        ("itables", "itables/__init__.py", r"one export statement.*requirements.lock"),
    ],
)
def test_package_of_the_viewer_that_is_absent_or_another_is_named(
    tmp_path, monkeypatch, package, path, problem
):
    monkeypatch.setitem(BUNDLES, "niivue", (package, path, ""))
    with pytest.raises(InputError, match=problem):
        write_libraries(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_module_becomes_a_script_with_what_it_exports():
    script, notices = classic_script("var a=1;var b=2;export{a as default,b};\n/*! © */\n", "lib")
    assert script.startswith('"use strict";\nwindow.lib = (() => {\nvar a=1;var b=2;\n')
    assert "return { default: a, b: b };" in script and notices == "/*! © */"
    with pytest.raises(ValueError, match="export"):
        classic_script("var a=1;", "lib")


@pytest.mark.parametrize(("alone", "given", "said"), [(0.9, "", 1), (0.1, "", 0), (0.9, "1mm", 0)])
def test_view_that_is_better_alone_is_pointed_out(tmp_path, protocol, alone, given, said):
    inputs = made_up_results(tmp_path, [one_scan("1")], protocol, given=given)
    path = tmp_path / "metrics/views.tsv"
    table = pd.read_csv(path, sep="\t")
    table.loc[table["view"] == "aggregate", "dice"] = 0.5
    table.loc[table["view"] == "coronal", "dice"] = alone
    table.loc[table["view"] == "axial", "dice"] = 0.503  # less than chance
    table.to_csv(path, sep="\t", index=False)
    assert written(inputs).count("alone is better") == said
