"""The interactive viewer in a real browser: it draws, its controls work, and text stays text."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.image import imread
from scipy.ndimage import binary_erosion

from helpers import save, write_conformed
from quicknat.package_data import TEMPLATES
from quicknat.report.layers import load_layers, write_viewer_volumes
from quicknat.report.standalone import write_libraries
from quicknat.report.structures import colour_blind_colors

NASTY = """x"'<script>document.title = 'harmed'</script><img src=x onerror="alert(1)">"""
SCAN = "sub-1"
CANVAS, SOLID = "[data-viewer=canvas]", "[data-viewer=canvas3d]"
PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>fine</title>
<link rel="stylesheet" href="assets/viewer.css"></head><body><main><h1>{{ scan }}</h1>
{% include "viewer.html.j2" %}
<input type="checkbox" value="radiological" aria-label="of the slices"></main></body></html>
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory, head, demo_dseg, protocol):
    """A page with the viewer of a small synthetic head, and one without reference."""
    folder = tmp_path_factory.mktemp("report")
    table = protocol.table.copy()
    table.loc[8, "name"] = NASTY  # the left thalamus
    protocol = replace(protocol, table=table)
    labels = protocol.remap(demo_dseg.data, "freesurfer", "x")
    prediction = np.roll(labels, 1, axis=1)  # all of it a voxel too far to the front
    unsure = np.where(prediction == labels, 0.0, 0.8).astype(np.float32)
    (folder / "scans").mkdir()
    paths = {
        key: save(folder / "scans" / f"{key}.nii.gz", data, head.affine)
        for key, data in (("image", head.data), ("p", prediction), ("r", labels), ("u", unsure))
    }
    write_conformed(paths["image"], scan := folder / "scans/scan.nii.gz", 2, 128)
    layers = load_layers(scan, *(paths[k] for k in "pru"))
    write_viewer_volumes(folder / "volumes/sub-1.js", SCAN, layers, protocol)
    layers = load_layers(scan, paths["p"], None, None)
    write_viewer_volumes(folder / "volumes/sub-2.js", "sub-2", layers, protocol)
    shutil.copytree(TEMPLATES / "assets", folder / "assets")
    write_libraries(folder / "assets")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
    for name, more in ((SCAN, True), ("sub-2", False)):
        page = environment.from_string(PAGE).render(
            scan=name, has_reference=more, has_uncertainty=more
        )
        (folder / f"{name}.html").write_text(page)
    return folder


@pytest.fixture
def viewer(browse, report):
    """The viewer of a scan, once it shows its volumes."""

    def show(name=SCAN, **context):
        page = browse(report / f"{name}.html", **context).page
        page.wait_for_function("!document.querySelector('[data-viewer=controls]').disabled")
        return page

    return show


def picture(page, canvas=CANVAS):
    """What the canvas shows, (H, W, 3) in 0 … 1."""
    page.wait_for_timeout(100)  # a frame
    return imread(io.BytesIO(page.locator(canvas).screenshot()))[..., :3]


def changed(one, other):
    """Share of the pixels that differ visibly."""
    return float((np.abs(one - other).max(axis=-1) > 0.05).mean())


def share_of(shot, color):
    """Share of the pixels with about this colour."""
    return float((np.abs(shot - np.array(color) / 255).max(axis=-1) < 0.055).mean())


def colourful(shot):
    """Share of the pixels with a colour, as label maps have and images lack."""
    return float((np.ptp(shot, axis=-1) > 0.1).mean())


def where(page):
    return page.locator("[data-viewer=where]").text_content()


def position(page):
    """The point's x, y and z in mm."""
    return [int(number) for number in where(page).split(" · ")[2].split(" mm")[0].split(",")]


def test_layers_are_drawn_switched_off_and_faded(viewer):
    page = viewer()
    shown = picture(page)
    assert shown.std() > 0.1 and colourful(shown) > 0.05
    slider = page.get_by_label("Opacity of the prediction in percent")
    slider.focus()
    for _ in range(11):
        page.keyboard.press("ArrowLeft")
    assert slider.input_value() == "5"
    assert colourful(picture(page)) < colourful(shown) / 2
    page.get_by_label("Prediction", exact=True).uncheck()
    bare = picture(page)
    assert bare.std() > 0.1 and colourful(bare) < 0.001
    for layer in ("Reference", "Uncertainty"):
        page.get_by_label(layer, exact=True).check()
        assert colourful(picture(page)) > 0.02
        page.get_by_label(layer, exact=True).uncheck()
        assert colourful(picture(page)) < 0.001


def test_outlines_cover_less_than_filled_structures_and_follow_the_planes(viewer):
    page = viewer()
    outlines = page.get_by_label("Outlines only")
    for name in ("Brain stem", "Left putamen"):
        outlines.uncheck()
        page.get_by_label("Jump to").select_option(label=name)
        filled = colourful(picture(page))
        outlines.check()
        there = picture(page)
        page.get_by_label("Jump to").select_option(label="Right amygdala")  # other planes
        page.get_by_label("Jump to").select_option(label=name)
        assert 0.2 * filled < colourful(there) < 0.85 * filled, name
        assert changed(there, picture(page)) < 0.001


def test_colours_change_to_the_safe_palette_and_outlines_of_two_layers_differ(viewer, protocol):
    page = viewer()
    page.get_by_label("Opacity of the prediction in percent").fill("100")
    white_matter = colour_blind_colors(protocol)[1]
    usual = share_of(picture(page), white_matter)
    page.get_by_label("Colour-blind-safe colours").check()
    assert usual < 0.001 < 0.01 < share_of(picture(page), white_matter)
    page.get_by_label("Outlines only").check()
    page.get_by_label("Reference", exact=True).check()
    page.get_by_label("Opacity of the reference in percent").fill("100")
    shot = picture(page)
    for color in ((86, 180, 233), (230, 159, 0)):
        assert share_of(shot, color) > 0.001
    assert page.locator("[data-viewer=key]").is_visible()


def test_jump_leads_into_the_structure_and_names_it_with_markup_as_text(viewer):
    page = viewer()
    for name in ("Left hippocampus", "Right putamen", "Brain stem"):
        page.get_by_label("Jump to").select_option(label=name)
        assert where(page).startswith(f"Prediction: {name} · reference: ")
        x = position(page)[0]
        assert {"Left": x < 0, "Right": x > 0, "Brain": abs(x) < 10}[name.split()[0]]
    page.get_by_label("Jump to").select_option("8")
    assert where(page).startswith(f"Prediction: {NASTY} · ")
    assert page.locator("option[value='8']").text_content() == NASTY
    assert page.title() == "fine" and page.locator("#viewer img, #viewer script").count() == 0


def test_arrow_keys_move_the_point_on_the_screen_and_other_keys_change_nothing(viewer):
    page = viewer()
    page.locator(CANVAS).hover()
    page.locator(CANVAS).focus()
    before = picture(page)
    page.keyboard.press("v")  # NiiVue's key for another view
    assert changed(before, picture(page)) == 0
    positions = [position(page)]
    for key in ("ArrowRight", "ArrowUp", "PageUp"):
        page.keyboard.press(key)
        positions.append(position(page))
    assert np.diff(positions, axis=0).tolist() == [[2, 0, 0], [0, 0, 2], [0, 2, 0]]
    page.get_by_label("Jump to").select_option(label="Left putamen")
    neurological, there = picture(page), position(page)
    page.get_by_label("Radiological convention").check()
    assert changed(neurological, picture(page)) > 0.02  # shows the left on the right
    page.locator(CANVAS).press("ArrowLeft")
    assert position(page)[0] > there[0]


def test_radiological_view_of_the_slices_holds_for_a_viewer_that_still_loads(browse, report):
    page = browse(report / f"{SCAN}.html").page
    tick = "document.querySelector('input[value=radiological]').click()"
    page.add_init_script(f"document.addEventListener('DOMContentLoaded', () => {tick})")
    page.reload()
    page.wait_for_function("!document.querySelector('[data-viewer=controls]').disabled")
    early = picture(page)
    page.evaluate(tick)
    assert changed(early, picture(page)) > 0.01
    page.evaluate(tick)
    assert changed(early, picture(page)) == 0


def test_structure_under_the_pointer_is_named_and_a_click_goes_there(viewer):
    page = viewer()
    box = page.locator(CANVAS).bounding_box()
    coloured = np.ptp(picture(page), axis=-1) > 0.1
    inside = np.argwhere(binary_erosion(coloured, iterations=4))  # clear of borders
    row, column = inside[len(inside) // 3].tolist()
    page.mouse.move(box["x"] + column, box["y"] + row)
    pointer = page.locator("[data-viewer=pointer]").text_content()
    assert pointer.startswith("Under the pointer: Prediction: ") and "no structure" not in pointer
    page.mouse.click(box["x"] + column, box["y"] + row)
    found = pointer.removeprefix("Under the pointer: ").split(" · ")[0]
    assert where(page).split(" · ")[0] == found


def test_rendering_in_3d_shows_the_chosen_structures_turns_and_gives_way_to_one_plane(viewer):
    page = viewer()
    whole = picture(page, SOLID)
    assert colourful(whole) > 0.05
    page.get_by_label("3-D of").select_option("deep")
    deep = picture(page, SOLID)
    assert 0.002 < colourful(deep) < colourful(whole)
    page.locator(SOLID).press("ArrowRight")
    assert changed(deep, picture(page, SOLID)) > 0.001
    before = page.locator(CANVAS).bounding_box()["width"]
    page.locator("[data-viewer=view]").select_option("axial")
    assert page.locator(CANVAS).bounding_box()["width"] > 1.2 * before
    assert not page.locator(SOLID).is_visible() and colourful(picture(page)) > 0.05


def test_scan_without_reference_and_uncertainty_has_no_controls_for_them(viewer):
    page = viewer("sub-2")
    assert page.locator("[data-layer]").count() == 1
    page.get_by_label("Jump to").select_option(label="Brain stem")
    assert where(page).startswith("Prediction: Brain stem · ") and "reference" not in where(page)


def test_nothing_is_loaded_before_the_viewer_comes_near_or_is_asked_for(browse, report):
    far = Path(report, "far.html")
    far.write_text(
        (report / "sub-1.html").read_text().replace("<h1>", "<h1 style='height:3000px'>")
    )
    opened = browse(far)
    opened.page.wait_for_timeout(300)
    assert not [r for r in opened.requests if "niivue" in r or "volumes" in r]
    opened.page.evaluate("quicknatViewer.jump(15)")
    assert where(opened.page).startswith("Prediction: Left hippocampus")


def test_browser_without_webgl_says_so_and_points_to_the_pictures(browse, report):
    opened = browse(report / "sub-1.html", "--disable-3d-apis")
    status = opened.page.get_by_role("status")
    assert "needs WebGL 2" in status.text_content() and "pictures" in status.text_content()
    assert not opened.page.locator(CANVAS).is_visible()
    assert not [request for request in opened.requests if "volumes" in request]


def test_volumes_that_are_missing_are_named_in_the_text(browse, report):
    lost = Path(report, "lost.html")
    lost.write_text((report / "sub-1.html").read_text().replace("volumes/sub-1", "volumes/lost"))
    opened = browse(lost)
    text = "volumes/lost.js could not be loaded"
    opened.page.get_by_text(text).wait_for()
    (said,) = opened.errors  # the browser's own line
    opened.errors.clear()
    assert "ERR_FILE_NOT_FOUND" in said


def test_contrast_changes_with_the_right_button_and_comes_back_with_a_double_click(viewer):
    page = viewer()
    page.get_by_label("Prediction", exact=True).uncheck()
    box = page.locator(CANVAS).bounding_box()
    x, y = box["x"] + 200, box["y"] + 200
    page.mouse.dblclick(x, y)
    before = picture(page)
    page.mouse.move(x, y)
    page.mouse.down(button="right")
    page.mouse.move(x, y - 40, steps=8)
    page.mouse.move(x - 40, y - 40, steps=8)
    page.mouse.up(button="right")
    page.mouse.move(x, y)
    assert changed(before, picture(page)) > 0.05
    page.mouse.dblclick(x, y)
    assert changed(before, picture(page)) < 0.001
