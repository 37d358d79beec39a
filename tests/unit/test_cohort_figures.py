"""Figures of trainings and scores: drawn from any number of scans, the same bytes each time."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import made_up_results
from quicknat.cohort.sheet import Scan
from quicknat.files import sha256
from quicknat.images.slices import VIEWS
from quicknat.package_data import SCORE_FIGURES
from quicknat.report import cohort_figures
from quicknat.report.cohort_page import scored_content
from quicknat.report.figures import plt, save, training_curves

STRUCTURES = ["Left putamen", "Right putamen", "Brain stem"]


def metrics(n_scans):
    return made_up_results.scores([f"sub-{i}" for i in range(n_scans)], STRUCTURES)


FIGURES = {
    "dice": lambda table, protocol: cohort_figures.dice(table, STRUCTURES),
    "bland_altman": cohort_figures.bland_altman,
    "uncertainty": lambda table, protocol: cohort_figures.uncertainty(
        table.assign(uncertainty=1 - table["dice"]).dropna(subset="dice").reset_index(drop=True),
        protocol,
    ),
}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
@pytest.mark.parametrize("n_scans", [1, 9])
def test_every_scan_and_structure_is_drawn_for_one_and_for_many_scans(draw, n_scans, protocol):
    axis = draw(metrics(n_scans), protocol).axes[0]
    drawn = [len(line.get_xdata()) for line in axis.lines if line.get_marker() == "o"]
    assert sum(drawn) == len(STRUCTURES) * n_scans


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_structures_that_nobody_has_leave_a_figure_without_them(draw, protocol, tmp_path):
    table = metrics(2)
    table[["dice", "iou", "hd95_mm"]] = np.nan
    table[["volume_mm3", "reference_mm3"]] = 0.0
    save(draw(table, protocol), tmp_path / "x.png", dpi=30)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("n_scans", "names"),  # a mean of one would hide it
    [(1, ["sub-0"]), (2, ["sub-0", "sub-1", "mean"]),
     (3, ["sub-0", "sub-1", "sub-2", "mean, 95 % interval"])],
)  # fmt: skip
def test_interval_is_given_from_three_people_on(n_scans, names):
    figure = cohort_figures.dice(metrics(n_scans), STRUCTURES)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    assert ("95 % interval" in figure.axes[0].get_title("left")) == (n_scans == 3)


def test_figures_and_page_take_the_same_means_over_the_people_of_the_sheet(
    tmp_path, protocol, monkeypatch
):
    scans = [
        Scan(subject=subject, image="a.nii", split="test", participant=participant)
        for subject, participant in zip("1234", ("anna", "anna", "ben", "cleo"), strict=True)
    ]
    inputs = made_up_results.made_up_results(tmp_path, scans, protocol)
    drawn = {}
    monkeypatch.setattr(
        cohort_figures, "save", lambda figure, png, *_, **__: drawn.update({png.stem: figure})
    )
    cohort_figures.write_figures(inputs, tmp_path)
    assert list(drawn) == ["curves", *SCORE_FIGURES]
    page = scored_content(inputs)
    dice = inputs.table("metrics.tsv").groupby("subject")["dice"].mean().to_list()
    average, low, high = page["mean"]
    assert average == pytest.approx((sum(dice[:2]) / 2 + dice[2] + dice[3]) / 3)
    title = drawn["dice"].axes[0].get_title("left")
    assert title == f"Mean Dice {average:.3f} (95 % interval {low:.3f} to {high:.3f})"
    # the tables of the page agree with each other, too
    means = [row["dice"] for row in page["structures"]]
    np.testing.assert_allclose([row["aggregate"] for row in page["by_view"]], means)
    assert page["views"][0]["dice"] == pytest.approx(average)


def test_farthest_points_are_named_by_abbreviation_and_scan(protocol):
    table = metrics(2)
    table.loc[4, "volume_mm3"] = 3 * table.loc[4, "reference_mm3"]
    axis = cohort_figures.bland_altman(table, protocol).axes[0]
    names = [text.get_text() for text in axis.texts]
    points = next(line for line in axis.lines if line.get_marker() == "o")
    assert points.get_zorder() > max(text.get_zorder() for text in axis.texts)
    assert "R-Put, sub-1" in names and len(names) <= cohort_figures.NAMED


def test_title_of_uncertainty_tells_the_rank_correlation(protocol):
    draw = FIGURES["uncertainty"]
    title = draw(metrics(4), protocol).axes[0].get_title("left")
    assert "ρ = -1.00 over all points" in title and "-1.00 (median)" in title
    few = draw(metrics(1).head(2), protocol).axes[0].get_title("left")
    assert few == "too few points for a rank correlation"


def test_confusion_matrix_writes_large_shares_and_leaves_absent_classes_out(protocol):
    pairs = {"reference": ["Background", "Brain stem", "Brain stem"],
             "prediction": ["Background", "Brain stem", "Background"]}  # fmt: skip
    table = pd.DataFrame({"subject": "sub-1", **pairs, "voxels": [900, 90, 10]})
    axis = cohort_figures.confusion(table, protocol).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["BG", "BS"]
    assert [text.get_text() for text in axis.texts] == ["100", "10", "90"]


def test_stages_follow_each_other_and_a_star_marks_the_best_epoch(tmp_path):
    def history(dice):
        losses = dict.fromkeys(("train_loss", "val_loss"), np.linspace(2, 1, len(dice)))
        return pd.DataFrame({"epoch": range(1, len(dice) + 1), **losses, "val_dice": dice})

    histories = {("pretrain", view): history([0.1, 0.4, 0.3]) for view in VIEWS}
    histories |= {("finetune", view): history([0.5, 0.6]) for view in VIEWS}
    for axis in training_curves(histories).axes:
        stars = {line.get_xdata()[0] for line in axis.lines if line.get_marker() == "*"}
        assert stars == {2, 3 + 2}
        labels = [label.get_text() for label in axis.get_xticklabels()]
        assert labels == ["1", "2", "3", "1", "2"]
    short = {("finetune", "axial"): history([0.5])[["epoch", "train_loss"]]}  # not validated
    save(training_curves(short), tmp_path / "curves.png", dpi=30)
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_files_are_the_same_each_time_and_say_no_date(tmp_path):
    for name in ("one", "two"):
        figure = cohort_figures.dice(metrics(2), STRUCTURES)
        save(figure, tmp_path / f"{name}.png", tmp_path / f"{name}.svg", dpi=30)
    for kind in ("png", "svg"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()
    text = (tmp_path / "one.svg").read_text()
    assert text.lstrip().startswith("<?xml") and "dc:date" not in text


def test_pretraining_of_an_earlier_configuration_is_left_out(tmp_path, protocol):
    """The networks were trained again without it; what it left in the folder is not theirs."""
    scans = [made_up_results.one_scan("1", "segment")]
    inputs = made_up_results.made_up_results(tmp_path, scans, protocol)
    fine = [("finetune", view) for view in VIEWS]
    shutil.copytree(tmp_path / "models/finetune", tmp_path / "models/pretrain")
    for folder in (tmp_path / "models/pretrain").iterdir():
        (folder / "model.safetensors").write_bytes(b"weights")
    assert list(inputs.histories) == fine
    bundle = json.loads((tmp_path / "model/bundle.json").read_text())
    for entry in bundle["views"].values():
        entry["initial_sha256"] = sha256(tmp_path / "models/pretrain/axial/model.safetensors")
    (tmp_path / "model/bundle.json").write_text(json.dumps(bundle))
    assert list(replace(inputs).histories) == [("pretrain", view) for view in VIEWS] + fine
