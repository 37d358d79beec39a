"""The report's pages in a real browser, from disk: tables, layers, access, a large cohort."""

import time

import numpy as np
import pandas as pd
import pytest

from made_up_results import made_up_results, one_scan
from quicknat.cohort.writing import failed_scans
from quicknat.images.volumes import Grid
from quicknat.report.layers import Layers, write_viewer_volumes
from quicknat.report.pages import write_report
from quicknat.report.single_file import write_single_file

HOSTILE = """<script>document.title = 'harmed'</script>"'<img src=x onerror="alert(1)">"""
NASTY = """<img src=x onerror=alert(1)>"'ü"""  # may be part of a file's name
SERIOUS = ("serious", "critical")
WITHIN_S = 5


def written(folder, protocol, scans, text=""):
    inputs = made_up_results(folder, scans, protocol, text, interactive=True)
    labels = np.zeros((24, 24, 24), np.uint8)
    labels[4:20, 4:20, 4:20], labels[8:16, 8:16, 8:16] = 1, 2
    layers = Layers(Grid(labels.shape, np.eye(4)), labels * 100.0, labels, None, None)
    for scan in scans[:6]:
        write_viewer_volumes(folder / f"report/volumes/{scan.id}.js", scan.id, layers, protocol)
    write_report(inputs, folder / "report/index.html")
    return folder / "report"


@pytest.fixture(scope="module")
def small(tmp_path_factory, protocol):
    scans = [one_scan(str(k)) for k in range(1, 7)]
    return written(tmp_path_factory.mktemp("small"), protocol, scans)


@pytest.fixture(scope="module")
def large(tmp_path_factory, protocol):
    scans = [one_scan(f"{k:03d}") for k in range(200)]
    return written(tmp_path_factory.mktemp("large"), protocol, scans)


def rows(page, name):
    return page.locator(f"table[data-name={name}] tbody tr")


def test_large_cohort_is_there_in_time_and_its_tables_are_paged(browse, large):
    for _ in range(3):  # other tests run beside this one
        start = time.monotonic()
        page = browse(large / "index.html").page
        page.locator(".montage .rate").first.wait_for()
        if (seconds := time.monotonic() - start) < WITHIN_S:
            break
    assert seconds < WITHIN_S  # asked for as such: 200 scans within 5 s
    assert rows(page, "scans").count() == 50
    shown = page.locator(".montage li:visible")
    assert shown.count() == 12
    page.get_by_role("button", name="Show more").click()
    assert shown.count() == 60
    page.get_by_label("Find").fill("sub-123")
    assert shown.count() == 1
    table = page.locator(".dt-container", has=page.locator("table[data-name=scores_scans]"))
    table.get_by_role("searchbox").fill("sub-123")
    assert rows(page, "scores_scans").count() == 1


def test_ratings_are_kept_saved_and_read_again(browse, small, tmp_path):
    page = browse(small / "index.html").page
    rating = page.get_by_role("group", name="Rating of sub-2")
    rating.get_by_role("button", name="fail").click()
    rating.get_by_role("textbox", name="Note on sub-2").fill("leaks\tinto dura")
    page.get_by_role("textbox", name="Note on sub-4").fill("look again")
    page.get_by_role("group", name="Rating of sub-3").get_by_role("button", name="pass").click()
    page.reload()
    assert rating.get_by_role("button", name="fail").get_attribute("aria-pressed") == "true"
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save ratings as TSV").click()
    assert saving.value.suggested_filename == "ratings.tsv"
    saving.value.save_as(tmp_path / "ratings.tsv")
    lines = (tmp_path / "ratings.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["scan", "rating", "note", "model"]
    assert lines[1].startswith("sub-2\tfail\tleaks into dura\t") and len(lines) == 4
    assert "sub-4\tn/a\tlook again" in "\n".join(lines)
    assert failed_scans(tmp_path / "ratings.tsv") == ["sub-2"]
    page.locator("[data-montage=filter]").select_option("fail")
    assert page.locator(".montage li:visible").count() == 1
    rating.get_by_role("button", name="fail").click()  # takes it back
    other = browse(small / "index.html").page
    other.locator("[data-montage=load]").set_input_files(tmp_path / "ratings.tsv")
    other.get_by_text("3 ratings read from ratings.tsv").wait_for()
    assert other.get_by_role("textbox", name="Note on sub-4").input_value() == "look again"
    pressed = other.locator("[aria-pressed=true]").all_inner_texts()
    assert sorted(pressed) == ["fail", "pass"]
    (tmp_path / "old.tsv").write_text("scan\trating\tnote\tmodel\nsub-5\tfail\tn/a\tolder\n")
    other.locator("[data-montage=load]").set_input_files(tmp_path / "old.tsv")
    other.get_by_text("0 ratings read from old.tsv; 1 of another model left out").wait_for()


def test_tables_sort_by_number_and_by_keyboard(browse, small):
    page = browse(small / "index.html").page
    page.get_by_text("Structures as a table").click()
    column = rows(page, "scores_structures").locator("td:nth-child(2)")
    before = column.all_inner_texts()
    heading = page.locator("table[data-name=scores_structures] thead th:nth-child(2)")
    heading.click()
    page.locator("th[aria-sort=ascending]").wait_for()
    ascending = column.all_inner_texts()
    assert ascending == sorted(before, key=float) != before
    heading.locator("[tabindex='0']").first.press("Enter")
    page.locator("th[aria-sort=descending]").wait_for()
    assert column.all_inner_texts() == ascending[::-1]


def test_table_is_saved_as_tsv_as_it_stands(browse, small, tmp_path):
    page = browse(small / "index.html").page
    page.locator("table[data-name=scores_scans] thead th:nth-child(1)").click()
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save as TSV: Test scans").click()
    assert saving.value.suggested_filename == "scores_scans.tsv"
    saving.value.save_as(tmp_path / "t.tsv")
    lines = (tmp_path / "t.tsv").read_text().splitlines()
    assert lines[0].split("\t")[:2] == ["Scan", "Dice"]
    assert [line.split("\t")[0] for line in lines[1:]] == [f"sub-{k}" for k in range(1, 7)]


def test_layers_of_the_mosaics_are_switched_without_script(browse, small):
    page = browse(small / "sub-2.html", java_script_enabled=False).page
    outlines = page.locator(".sheets .prediction.own").first
    safe = page.locator(".sheets .prediction.safe").first
    reference = page.locator(".sheets .reference").first
    assert outlines.is_visible() and not safe.is_visible() and not reference.is_visible()
    page.get_by_label("Colour-blind-safe colours").last.check()
    page.locator("input[value=reference]").check()
    assert safe.is_visible() and not outlines.is_visible()
    assert reference.is_visible()
    page.locator("input[value=prediction]").uncheck()
    assert not safe.is_visible()


def test_radiological_view_mirrors_slices_and_letters_but_no_sagittal_one(browse, small):
    page = browse(small / "sub-2.html", java_script_enabled=False).page

    def letters(view):
        tile = page.locator(f".{view} .tile").first
        boxes = {one.inner_text(): one.bounding_box()["x"] for one in tile.locator("b").all()}
        return "".join(sorted(boxes, key=boxes.get))

    before = {view: letters(view) for view in ("axial", "coronal", "sagittal")}
    mirrored = "getComputedStyle(document.querySelector('.axial .sheets')).transform"
    assert page.evaluate(mirrored) == "none"
    page.locator(".mosaics").get_by_label("Radiological convention").check()
    after = {view: letters(view) for view in before}
    assert [(one[0], one[-1]) for one in before.values()] == [("L", "R"), ("L", "R"), ("P", "A")]
    assert [(one[0], one[-1]) for one in after.values()] == [("R", "L"), ("R", "L"), ("P", "A")]
    assert page.evaluate(mirrored) == "matrix(-1, 0, 0, 1, 0, 0)"


def test_slice_is_enlarged_by_keyboard_and_arrow_keys_lead_to_the_next(browse, small):
    page = browse(small / "sub-2.html").page
    page.locator(".axial .tile").first.press("Enter")
    large = page.get_by_role("dialog").locator(".tile")
    assert "z = −6 mm" in large.get_attribute("aria-label")
    page.keyboard.press("ArrowRight")
    assert "z = −5 mm" in large.get_attribute("aria-label")
    page.keyboard.press("Escape")
    assert not large.is_visible()


def test_table_of_volumes_is_saved_with_a_column_for_each_side(browse, small, tmp_path):
    page = browse(small / "sub-2.html").page
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save as TSV").first.click()
    saving.value.save_as(tmp_path / "t.tsv")
    rows = [line.split("\t") for line in (tmp_path / "t.tsv").read_text().splitlines()]
    assert rows[0][:3] == ["Structure", "Volume (mm³), left", "Volume (mm³), right"]
    assert len({len(row) for row in rows}) == 1
    table = pd.read_csv(tmp_path / "t.tsv", sep="\t", index_col=0)
    assert table.select_dtypes(exclude="number").empty
    assert table["Asymmetry (%)"].min() < 0


def test_single_file_shows_viewer_and_slices_with_nothing_beside_it(browse, small, tmp_path):
    write_single_file(small / "sub-3.html", tmp_path / "mail.html")
    opened = browse(tmp_path / "mail.html")
    page = opened.page
    page.locator("#viewer").scroll_into_view_if_needed()
    page.wait_for_function("!document.querySelector('[data-viewer=controls]').disabled")
    assert page.locator("a:not([href^='#'])").count() == 0
    assert [one for one in opened.requests if one.startswith("file:")] == [
        (tmp_path / "mail.html").resolve().as_uri()
    ]


def test_name_in_the_table_of_volumes_leads_to_the_structure_in_the_viewer(browse, small):
    page = browse(small / "sub-1.html").page
    page.locator("#viewer").scroll_into_view_if_needed()
    page.wait_for_function("!document.querySelector('[data-viewer=controls]').disabled")
    page.get_by_role("link", name="Cerebral cortex").click()
    page.wait_for_function(
        "document.querySelector('[data-viewer=where]').textContent.includes('Left cerebral cortex')"
    )


def test_scans_lead_from_one_to_the_next_and_back_to_the_cohort(browse, small):
    page = browse(small / "index.html").page
    page.locator(".montage li").nth(1).get_by_role("link").last.click()
    name = page.locator("h1").inner_text()
    page.locator(".steps").get_by_role("link", name="→").click()
    assert page.locator("h1").inner_text() not in (name, "")
    page.get_by_role("navigation").get_by_role("link", name="Cohort").click()
    assert page.url.endswith("index.html")


def test_hostile_names_and_texts_do_no_harm(browse, tmp_path, protocol):
    scans = [one_scan(NASTY), one_scan("2", "segment")]
    folder = written(tmp_path, protocol, scans, HOSTILE)
    page = browse(folder / "index.html").page
    assert "harmed" not in page.title() or "<script>" in page.title()
    page.get_by_role("link", name=f"sub-{NASTY}").first.click()
    assert page.locator("h1").inner_text() == f"sub-{NASTY}"
    assert page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("name", ["index.html", "sub-1.html"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_serious_barrier_is_found(browse, small, name, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = browse(small / name, viewport={"width": width, "height": 900}).page
    page.wait_for_load_state()
    found = [
        v
        for v in axe.run(page, options={"preload": False}).response["violations"]
        if v["impact"] in SERIOUS
    ]
    assert [(v["id"], [node["html"][:200] for node in v["nodes"][:3]]) for v in found] == []


def test_page_fits_a_phone(browse, small):
    for name in ("index.html", "sub-1.html"):
        page = browse(small / name, viewport={"width": 390, "height": 800}).page
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
