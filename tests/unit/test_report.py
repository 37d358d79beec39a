"""The report page: self-contained, and deaf to what scans are called."""

import json
import re

import numpy as np
import pandas as pd

from helpers import ROOT
from quicknat.cohort import Scan
from quicknat.errors import written_whole
from quicknat.figures import overlay_panel
from quicknat.report import People, ReportInputs, render
from quicknat.verdicts import Verdict
from quicknat.volumes import Volume


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


def test_text_of_the_sheet_cannot_become_markup(tmp_path, protocol):
    hostile = "<script>alert(1)</script>"
    view = {
        "network": {"filters": 4, "squeeze_excitation": "NONE", "dropout": 0.0},
        "training": {"optimizer": hostile, "learning_rate": 1, "epochs": 1},
        "best_epoch": 1, "best_val_dice": None, "sha256": "0" * 64,
    }  # fmt: skip
    bundle = {
        "aggregation": {"axial": 1.0}, "conform": {"spacing_mm": 2}, "slices": {"size": 96},
        "views": {"axial": view},
    }  # fmt: skip
    (tmp_path / "bundle.json").write_text(json.dumps(bundle))
    (tmp_path / "curves.png").write_bytes(b"")
    (tmp_path / "benchmarks").mkdir()
    inputs = ReportInputs(
        title=hostile, note=hostile, protocol=protocol, bundle=tmp_path / "bundle.json",
        scans=[Scan(subject="1", image=hostile, use="segment", person='"><img onerror=alert(1)>')],
        metrics=None, views=None, volumes=pd.DataFrame(), quality={},
        figures={"curves": tmp_path / "curves.png"}, overlays={},
        benchmarks=tmp_path / "benchmarks",
        skipped=[Verdict("sub-2", "test", hostile, "bad", hostile)], waiting=[hostile, "sub-3"],
        people=People(pd.DataFrame({"sex": [hostile]}, index=["sub-1"])),
    )  # fmt: skip
    render(inputs, ROOT / "workflow/report/index.html.j2", tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text()
    assert page.count("&lt;script&gt;alert(1)") >= 7 and "were left out" in page
    assert "2 of the training scans wait" in page and "sub-3." in page
    assert "<script" not in page and "<img onerror" not in page


def test_template_asks_for_nothing_outside_the_page():
    template = (ROOT / "workflow/report/index.html.j2").read_text()
    assert not re.search(r"https?://|<script|@import|<link", template)
    assert "|safe" not in template


def test_failed_write_leaves_neither_final_nor_temporary_file(tmp_path):
    try:
        with written_whole(tmp_path / "a.txt", tmp_path / "b.txt") as (one, _):
            one.write_text("half")
            raise RuntimeError
    except RuntimeError:
        pass
    assert list(tmp_path.iterdir()) == []
