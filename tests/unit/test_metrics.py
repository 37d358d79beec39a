"""Scores of a segmentation, counted by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou

from helpers import save
from in_process import quicknat
from quicknat.errors import InputError
from quicknat.evaluation.metrics import (
    confusion_table,
    count_pairs,
    evaluate,
    hausdorff95,
    overlap,
    view_table,
)
from quicknat.evaluation.scores import COLUMNS
from quicknat.reruns import SCORES_FORMAT

LEFT, RIGHT = 10, 23  # putamen of quicknat28


@pytest.mark.case(36)
def test_structure_absent_from_both_is_empty_and_from_one_scores_zero():
    nothing, mask = np.zeros((2, 24, 24, 24), np.uint8)
    mask[5:10, 5:10, 5:10] = 1
    for prediction, expected in ((nothing, np.nan), (mask, 0)):
        dice, iou = overlap(count_pairs(prediction, nothing, 2, "sub-1"))
        np.testing.assert_equal([dice[1], iou[1]], [expected] * 2)
        assert np.isnan(hausdorff95(prediction > 0, nothing > 0, np.ones(3)))


def test_table_has_the_scores_of_structures_at_the_border_shifted_and_absent(protocol):
    one, two = np.zeros((2, 24, 24, 24), np.uint8)
    one[:6, :6, :6] = two[:6, :6, :6] = 1
    one[10:15, 10:15, 10:15], two[10:15, 10:15, 14:19] = 2, 2
    one[20:, 20:, 20:] = 3
    sheared = np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
    for affine in (np.diag([1, 1, 2, 1.0]), sheared):
        table = evaluate(one, two, affine, protocol, "sub-1")
        found = table[["dice", "iou", "hd95_mm", "volume_mm3", "reference_mm3"]].to_numpy(float)
        np.testing.assert_allclose(found[0], [1, 1, 0, 432, 432])
        np.testing.assert_allclose(found[1], [0.2, 1 / 9, 8, 250, 250])
        np.testing.assert_allclose(found[2], [0, 0, np.nan, 128, 0])
        np.testing.assert_allclose(found[3], [np.nan, np.nan, np.nan, 0, 0])


def test_scores_agree_with_monai(protocol):
    random = np.random.default_rng(0)
    maps = random.integers(0, 28, (2, 12, 12, 12))
    table = evaluate(*maps, np.eye(4), protocol, "sub-1")
    assert list(table.columns) == COLUMNS["metrics"] and len(table) == 27
    row = table.iloc[4]
    ours, true = (torch.from_numpy((part == 5).astype(np.uint8))[None, None] for part in maps)
    assert row["dice"] == pytest.approx(compute_dice(ours, true).item(), rel=1e-6)
    assert row["iou"] == pytest.approx(compute_iou(ours, true).item(), rel=1e-6)
    distance = compute_hausdorff_distance(ours, true, include_background=True, percentile=95)
    assert row["hd95_mm"] == pytest.approx(distance.item())


def test_tables_are_those_of_their_format():
    """With another column SCORES_FORMAT must be raised, or finished runs keep their tables."""
    assert (SCORES_FORMAT, list(COLUMNS.values())) == (1, [
        ["subject", "structure", "dice", "iou", "hd95_mm", "volume_mm3", "reference_mm3"],
        ["subject", "view", "structure", "dice", "iou"],
        ["subject", "reference", "prediction", "voxels"],
    ])  # fmt: skip


def maps(*voxels):
    return np.array(voxels, dtype=np.uint8).reshape(1, 1, -1)


def test_maps_that_do_not_belong_together_are_refused():
    with pytest.raises(InputError, match=r"sub-1: prediction \(1, 1, 2\), reference \(1, 1, 3\)"):
        count_pairs(maps(0, 1), maps(0, 1, 1), 4, "sub-1")


def test_only_pairs_that_occur_are_listed_and_the_background_is_among_them(protocol):
    pairs = count_pairs(maps(0, LEFT, 0), maps(0, LEFT, LEFT), 28, "sub-1")
    table = confusion_table(pairs, protocol, "sub-1")
    assert list(table) == COLUMNS["confusion"] and table.to_numpy().tolist() == [
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
    assert list(table) == COLUMNS["views"]
    scores = table.set_index(["view", "structure"])
    for side, axial in (("Left", 2 * 2 / (5 + 2)), ("Right", 0)):
        found = scores["dice"].xs(f"{side} putamen", level="structure")
        assert found["aggregate"] == 1 and found["axial"] == pytest.approx(axial)
        assert found["sagittal"] == pytest.approx(2 * 4 / (5 + 4))
        assert scores["iou"]["sagittal", f"{side} putamen"] == pytest.approx(4 / 5)
    assert np.isnan(scores["dice"]["sagittal", "Brain stem"])


def evaluate_files(folder, prediction, reference, *more):
    return quicknat(
        "evaluate", prediction, reference, "--protocol", "quicknat28", "--name", "sub-1",
        "--output", folder / "sub-1.tsv", *more,
    )  # fmt: skip


@pytest.mark.parametrize("value", [-1, 28, 2.5])
@pytest.mark.parametrize("part", ["prediction", "reference", "axial"])
def test_command_refuses_values_that_are_no_classes(tmp_path, part, value):
    bad = np.ones((12, 12, 12), np.float32)
    good, bad[0, 0, 0] = bad.copy(), value
    prediction, reference, axial = (
        save(tmp_path / f"{name}.nii.gz", bad if name == part else good)
        for name in ("prediction", "reference", "axial")
    )
    done = evaluate_files(tmp_path, prediction, reference, "--axial", axial)
    done.refused(f"{part}.nii.gz: holds {value:g}, but only whole numbers")


def test_command_writes_three_tables_or_none(tmp_path, demo_dseg, protocol):
    labels = protocol.remap(demo_dseg.data, "freesurfer", "x")[::2, ::2, ::2]
    reference = save(tmp_path / "reference.nii.gz", labels)
    view = save(tmp_path / "axial.nii.gz", np.roll(labels, 1, axis=0))
    done = evaluate_files(tmp_path, reference, reference, "--axial", view)
    assert done.status == 0, str(done)
    views = pd.read_csv(tmp_path / "sub-1_views.tsv", sep="\t").groupby("view")["dice"].mean()
    assert views["aggregate"] == 1 and 0.2 < views["axial"] < 0.9 and len(views) == 2
    confusion = pd.read_csv(tmp_path / "sub-1_confusion.tsv", sep="\t")
    assert confusion["voxels"].sum() == labels.size
    assert (confusion["reference"] == confusion["prediction"]).all()
    aseg = save(tmp_path / "aseg.nii.gz", demo_dseg.data[::2, ::2, ::2])  # FreeSurfer's numbers
    evaluate_files(tmp_path / "aseg", reference, aseg, "--label-convention", "freesurfer")
    assert (pd.read_csv(tmp_path / "aseg/sub-1.tsv", sep="\t")["dice"] == 1).sum() == 27
    (tmp_path / "aseg.json").write_text('{"how": {"label_convention": "freesurfer"}}')
    evaluate_files(tmp_path / "ours", aseg, reference)  # as `segment --label-convention` writes it
    assert (pd.read_csv(tmp_path / "ours/sub-1.tsv", sep="\t")["dice"] == 1).sum() == 27
    away = np.diag([2, 2, 2, 1.0])
    away[0, 3] = 5
    moved = save(tmp_path / "moved.nii.gz", labels, away)
    (tmp_path / "none").mkdir()
    done = evaluate_files(tmp_path / "none", reference, reference, "--sagittal", moved)
    done.refused("moved.nii.gz: is not aligned with its image", folder=tmp_path / "none")
    # the prediction has the scan's grid: the reference is the map to correct
    done = evaluate_files(tmp_path / "none", reference, save(tmp_path / "cut.nii.gz", labels[1:]))
    done.refused("cut.nii.gz: has shape", folder=tmp_path / "none")
