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
from quicknat.report.standalone import write_single_file

WITHIN_S = 5


def written(folder, protocol, scans):
    inputs = made_up_results(folder, scans, protocol, interactive=True)
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


def wait_for_viewer(page):
    page.locator("#viewer").scroll_into_view_if_needed()
    page.wait_for_function("!document.querySelector('[data-viewer=controls]').disabled")


def saved(page, button, path):
    """Rows of cells of the table that a button saves."""
    with page.expect_download() as saving:
        button.click()
    assert saving.value.suggested_filename.endswith(".tsv")
    saving.value.save_as(path)
    return [line.split("\t") for line in path.read_text().splitlines()]


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
    button = page.get_by_role("button", name="Save ratings as TSV")
    head, *ratings = saved(page, button, tmp_path / "ratings.tsv")
    assert head == ["scan", "rating", "note", "model"] and len(ratings) == 3
    assert ratings[0][:3] == ["sub-2", "fail", "leaks into dura"]
    assert ["sub-4", "n/a", "look again"] in [row[:3] for row in ratings]
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


def test_tables_sort_by_number_and_by_keyboard_and_are_saved_as_they_stand(browse, small, tmp_path):
    page = browse(small / "index.html").page
    column = rows(page, "scores_scans").locator("td:nth-child(2)")
    heading = page.locator("table[data-name=scores_scans] thead th:nth-child(2)")
    heading.click()
    page.locator("th[aria-sort=ascending]").wait_for()
    ascending = column.all_inner_texts()
    assert ascending == sorted(ascending, key=float)
    heading.locator("[tabindex='0']").first.press("Enter")
    page.locator("th[aria-sort=descending]").wait_for()
    assert column.all_inner_texts() == ascending[::-1] != ascending
    button = page.get_by_role("button", name="Save as TSV: Test scans")
    head, *lines = saved(page, button, tmp_path / "t.tsv")
    assert head[:2] == ["Scan", "Dice"] and [line[1] for line in lines] == ascending[::-1]


def test_mosaics_are_switched_and_mirrored_without_script(browse, small):
    page = browse(small / "sub-2.html", java_script_enabled=False).page

    def ends(view):
        letters = page.locator(f".{view} .tile").first.locator("b").all()
        boxes = {one.inner_text(): one.bounding_box()["x"] for one in letters}
        return min(boxes, key=boxes.get) + max(boxes, key=boxes.get)

    outlines, safe, reference = (
        page.locator(f".sheets .{layer}").first
        for layer in ("prediction.own", "prediction.safe", "reference")
    )
    assert outlines.is_visible() and not safe.is_visible() and not reference.is_visible()
    page.get_by_label("Colour-blind-safe colours").last.check()
    page.locator("input[value=reference]").check()
    assert safe.is_visible() and not outlines.is_visible() and reference.is_visible()
    page.locator("input[value=prediction]").uncheck()
    assert not safe.is_visible()
    views = ("axial", "coronal", "sagittal")
    mirrored = "getComputedStyle(document.querySelector('.axial .sheets')).transform"
    assert [ends(view) for view in views] == ["LR", "LR", "PA"]
    assert page.evaluate(mirrored) == "none"
    page.locator(".mosaics").get_by_label("Radiological convention").check()
    assert [ends(view) for view in views] == ["RL", "RL", "PA"]
    assert page.evaluate(mirrored) == "matrix(-1, 0, 0, 1, 0, 0)"


def test_page_of_a_scan_enlarges_slices_saves_volumes_and_leads_to_structures(
    browse, small, tmp_path
):
    page = browse(small / "sub-2.html").page
    page.locator(".axial .tile").first.press("Enter")
    large = page.get_by_role("dialog").locator(".tile")
    assert "z = −6 mm" in large.get_attribute("aria-label")
    page.keyboard.press("ArrowRight")
    assert "z = −5 mm" in large.get_attribute("aria-label")
    page.keyboard.press("Escape")
    assert not large.is_visible()
    lines = saved(page, page.get_by_role("button", name="Save as TSV").first, tmp_path / "t.tsv")
    assert lines[0][:3] == ["Structure", "Volume (mm³), left", "Volume (mm³), right"]
    assert len({len(line) for line in lines}) == 1
    table = pd.read_csv(tmp_path / "t.tsv", sep="\t", index_col=0)
    assert table.select_dtypes(exclude="number").empty
    assert table["Asymmetry (%)"].min() < 0
    wait_for_viewer(page)
    page.get_by_role("link", name="Cerebral cortex").click()
    page.wait_for_function(
        "document.querySelector('[data-viewer=where]').textContent.includes('Left cerebral cortex')"
    )


def test_single_file_shows_viewer_and_slices_with_nothing_beside_it(browse, small, tmp_path):
    write_single_file(small / "sub-3.html", mail := tmp_path / "mail.html")
    opened = browse(mail)
    wait_for_viewer(opened.page)
    assert opened.page.locator("a:not([href^='#'])").count() == 0
    files = [one for one in opened.requests if one.startswith("file:")]
    assert files == [mail.resolve().as_uri()]


@pytest.mark.parametrize("name", ["index.html", "sub-1.html"])
@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_its_window_and_has_no_serious_barrier(browse, small, name, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = browse(small / name, viewport={"width": width, "height": 900}).page
    page.wait_for_load_state()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    violations = axe.run(page, options={"preload": False}).response["violations"]
    found = [one for one in violations if one["impact"] in ("serious", "critical")]
    assert [(v["id"], [node["html"][:200] for node in v["nodes"][:3]]) for v in found] == []
