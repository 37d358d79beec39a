"""Confused structures and the scores of single views, counted by hand."""

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from helpers import LABELS, save
from quicknat.cli.app import app
from quicknat.errors import InputError
from quicknat.evaluation.confusion import confusion_table, count_pairs, overlap, view_table
from quicknat.evaluation.metrics import evaluate

LEFT, RIGHT = 10, 23  # putamen of quicknat28


def maps(*voxels):
    return np.array(voxels, dtype=np.uint8).reshape(1, 1, -1)


def test_pairs_are_counted_by_reference_row_and_predicted_column():
    pairs = count_pairs(maps(0, 1, 1, 2), maps(0, 1, 2, 2), 4, "sub-1")
    assert pairs.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    dice, iou = overlap(pairs)
    np.testing.assert_allclose(dice, [1, 2 / 3, 2 / 3, np.nan])
    np.testing.assert_allclose(iou, [1, 1 / 2, 1 / 2, np.nan])


def test_overlap_agrees_with_the_metrics_table(protocol):
    random = np.random.default_rng(0)
    one, two = random.integers(0, 28, (2, 12, 12, 12))
    table = evaluate(one, two, np.eye(4), protocol, "sub-1")
    dice, iou = overlap(count_pairs(one, two, 28, "sub-1"))
    np.testing.assert_allclose(dice[1:], table["dice"], rtol=1e-6)
    np.testing.assert_allclose(iou[1:], table["iou"], rtol=1e-6)


def test_maps_that_do_not_belong_together_are_refused():
    with pytest.raises(InputError, match=r"sub-1: prediction \(1, 1, 2\), reference \(1, 1, 3\)"):
        count_pairs(maps(0, 1), maps(0, 1, 1), 4, "sub-1")


def test_only_pairs_that_occur_are_listed_and_the_background_is_among_them(protocol):
    pairs = count_pairs(maps(0, LEFT, 0), maps(0, LEFT, LEFT), 28, "sub-1")
    assert confusion_table(pairs, protocol, "sub-1").to_numpy().tolist() == [
        ["sub-1", "Background", "Background", 1],
        ["sub-1", "Left putamen", "Background", 1],
        ["sub-1", "Left putamen", "Left putamen", 1],
    ]


def test_sagittal_view_is_scored_with_sides_merged_and_the_others_as_they_are(protocol):
    reference = maps(LEFT, LEFT, RIGHT, RIGHT, 0, 0)
    one_side = maps(LEFT, LEFT, LEFT, LEFT, LEFT, 0)  # all is left, as the sagittal view says it
    pairs = count_pairs(reference, reference, 28, "sub-1")
    views = {"axial": one_side, "sagittal": one_side}
    table = view_table(pairs, views, reference, protocol, "sub-1")
    assert list(table) == ["subject", "view", "structure", "dice", "iou"]
    scores = table.set_index(["view", "structure"])
    for side, axial in (("Left", 2 * 2 / (5 + 2)), ("Right", 0)):
        found = scores["dice"].xs(f"{side} putamen", level="structure")
        assert found["aggregate"] == 1 and found["axial"] == pytest.approx(axial)
        assert found["sagittal"] == pytest.approx(2 * 4 / (5 + 4))
        assert scores["iou"]["sagittal", f"{side} putamen"] == pytest.approx(4 / 5)
    assert np.isnan(scores["dice"]["sagittal", "Brain stem"])


def evaluate_files(folder, prediction, reference, *more):
    arguments = [
        "evaluate", prediction, reference, "--protocol", LABELS / "quicknat28.tsv",
        "--name", "sub-1", "--output", folder / "sub-1.tsv", *more,
    ]  # fmt: skip
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.parametrize("value", [-1, 28, 2.5])
@pytest.mark.parametrize("part", ["prediction", "reference", "axial"])
def test_command_refuses_values_that_are_no_classes(tmp_path, part, value):
    good = np.ones((12, 12, 12), np.float32)
    bad = good.copy()
    bad[0, 0, 0] = value
    files = {
        name: save(tmp_path / f"{name}.nii.gz", bad if name == part else good)
        for name in ("prediction", "reference", "axial")
    }
    done = evaluate_files(
        tmp_path, files["prediction"], files["reference"], "--axial", files["axial"]
    )
    assert isinstance(done.exception, InputError)
    assert f"{part}.nii.gz: holds {value:g}, but only whole numbers" in str(done.exception)


def test_command_writes_three_tables_or_none(tmp_path, demo_dseg, protocol):
    labels = protocol.remap(demo_dseg.data, "freesurfer", "x")[::2, ::2, ::2]
    reference = save(tmp_path / "reference.nii.gz", labels)
    view = save(tmp_path / "axial.nii.gz", np.roll(labels, 1, axis=0))
    done = evaluate_files(tmp_path, reference, reference, "--axial", view)
    assert done.exit_code == 0, done.output
    views = pd.read_csv(tmp_path / "sub-1_views.tsv", sep="\t").groupby("view")["dice"].mean()
    assert views["aggregate"] == 1 and 0.2 < views["axial"] < 0.9 and len(views) == 2
    confusion = pd.read_csv(tmp_path / "sub-1_confusion.tsv", sep="\t")
    assert confusion["voxels"].sum() == labels.size
    assert (confusion["reference"] == confusion["prediction"]).all()
    away = np.diag([2, 2, 2, 1.0])
    away[0, 3] = 5
    moved = save(tmp_path / "moved.nii.gz", labels, away)
    (tmp_path / "none").mkdir()
    done = evaluate_files(tmp_path / "none", reference, reference, "--sagittal", moved)
    assert isinstance(done.exception, InputError)
    assert "moved.nii.gz: lies elsewhere in space than" in str(done.exception)
    assert not list((tmp_path / "none").iterdir())
