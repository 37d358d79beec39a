"""What is said about a cohort's scores, on tables small enough to check by hand."""

import numpy as np
import pandas as pd
import pytest

from quicknat.errors import InputError
from quicknat.evaluation import scores
from quicknat.evaluation.scores import stack_tables

NAN = np.nan


def metrics(*rows):
    """Of (subject, structure, dice) and, where given, hd95, predicted and reference volume."""
    full = [(*row, *(NAN, 100.0, 100.0)[len(row) - 3 :]) for row in rows]
    columns = ["subject", "structure", "dice", "hd95_mm", "volume_mm3", "reference_mm3"]
    table = pd.DataFrame(full, columns=columns)
    return table.assign(iou=table["dice"] / (2 - table["dice"]))


def test_sessions_of_one_person_count_once_in_the_mean_and_the_interval():
    table = metrics(("sub-1_ses-1", "A", 0.2), ("sub-1_ses-2", "A", 0.4), ("sub-2", "A", 0.9))
    row = scores.by_structure(table, ["A"]).iloc[0]
    assert row["dice"] == pytest.approx((0.3 + 0.9) / 2) and row["scans"] == 3
    assert np.isnan(row["dice_low"]) and np.isnan(row["dice_high"])  # two people say too little
    assert scores.mean_dice(table)[0] == pytest.approx(0.6)
    same = {"sub-2": "P", "sub-1_ses-1": "P", "sub-1_ses-2": "P"}  # as the sheet may say
    assert scores.by_structure(table, ["A"], same)["dice"][0] == pytest.approx(0.5)


def test_interval_holds_the_mean_repeats_itself_and_is_that_of_the_mean():
    many = np.random.default_rng(0).normal(0.8, 0.05, 100)
    low, high = scores.interval(many)
    assert low < many.mean() < high and scores.interval(many) == (low, high)
    expected = 1.96 * many.std(ddof=1) / 10
    assert (high - low) / 2 == pytest.approx(expected, rel=0.15)
    assert scores.interval([0.5, 0.5, 0.5]) == (0.5, 0.5)
    assert np.isnan(scores.interval([0.5, 0.6])).all()


def test_structures_keep_their_order_and_name_their_lowest_scan():
    table = metrics(
        ("sub-1", "A", 0.8, 1.0, 90.0, 100.0), ("sub-2", "A", 0.6, 3.0, 120.0, 100.0),
        ("sub-1", "B", NAN, NAN, 0.0, 0.0), ("sub-2", "B", NAN, NAN, 0.0, 0.0),
        ("sub-1", "C", 0.0, NAN, 50.0, 0.0), ("sub-2", "C", NAN, NAN, 0.0, 0.0),
    )  # fmt: skip
    found = scores.by_structure(table, ["C", "B", "A"])
    assert found["structure"].tolist() == ["C", "B", "A"] and found["scans"].tolist() == [1, 0, 2]
    a = found.set_index("structure").loc["A"]
    assert (a["dice"], a["lowest"], a["lowest_scan"]) == (pytest.approx(0.7), 0.6, "sub-2")
    assert a["hd95_mm"] == 2 and a["volume_error"] == pytest.approx(0.15)
    b, c = (found.set_index("structure").loc[name] for name in "BC")
    assert np.isnan(b["dice"]) and pd.isna(b["lowest_scan"])
    assert c["dice"] == 0 and np.isnan(c["volume_error"])  # a reference of 0 has no share


def test_scans_and_single_structures_come_worst_first():
    table = metrics(
        ("sub-1", "A", 0.9), ("sub-1", "B", 0.7), ("sub-2", "A", 0.5), ("sub-2", "B", 0.6),
        ("sub-3", "A", NAN), ("sub-3", "B", NAN),
    )  # fmt: skip
    found = scores.by_scan(table)
    assert found["subject"].tolist() == ["sub-2", "sub-1", "sub-3"]
    assert found["lowest_structure"].tolist()[:2] == ["A", "B"]
    assert found["dice"].tolist()[:2] == pytest.approx([0.55, 0.8]) and np.isnan(found["dice"][2])
    assert scores.worst_cases(table, count=2)["dice"].tolist() == [0.5, 0.6]
    table = table.assign(hd95_mm=[1, 5, 9, 2, NAN, NAN])
    assert scores.worst_cases(table, "hd95_mm", 2)["hd95_mm"].tolist() == [9, 5]


def views_table(**values):
    """Dice of structures A and B by view, of one scan."""
    parts = [
        pd.DataFrame({"view": view, "structure": ["A", "B"], "dice": pair, "iou": 0.5})
        for view, pair in values.items()
    ]
    return pd.concat(parts, ignore_index=True).assign(subject="sub-1")


def test_gain_is_the_aggregate_less_the_best_single_view():
    table = views_table(aggregate=(0.9, 0.5), axial=(0.7, 0.6), coronal=(0.8, NAN))
    found = scores.by_view(table, ["B", "A", "C"])
    assert list(found) == ["structure", "aggregate", "axial", "coronal", "gain"]
    np.testing.assert_allclose(found["gain"], [-0.1, 0.1, NAN])
    assert scores.view_means(table)["view"].tolist() == ["aggregate", "axial", "coronal"]
    alone = scores.by_view(views_table(aggregate=(0.9, 0.5)), ["A", "B"])
    assert alone["aggregate"].tolist() == [0.9, 0.5] and alone["gain"].isna().all()


def test_bias_and_limits_are_shares_of_the_mean_volume():
    rows = [(f"sub-{i}", "A", 0.9, 1.0, 100 + d, 100 - d) for i, d in enumerate((5.0, 10.0, 15.0))]
    table = metrics(*rows, ("sub-0", "B", 0.9, 1.0, 90.0, 110.0), ("sub-0", "C", 0, NAN, 0.0, 9.0))
    found = scores.bland_altman(table, ["A", "B", "C"])
    a, b, c = found.to_dict("records")
    assert (a["scans"], a["bias"]) == (3, pytest.approx(20))
    assert (a["low"], a["high"]) == (pytest.approx(20 - 19.6), pytest.approx(20 + 19.6))
    assert b["bias"] == pytest.approx(-20) and np.isnan(b["low"])
    assert c["scans"] == 0 and np.isnan(c["bias"])  # missed altogether: no difference of sizes


def test_uncertainty_is_joined_by_scan_and_structure_and_correlated_by_rank():
    table = metrics(
        ("sub-0", "A", 0.9), ("sub-1", "A", 0.8), ("sub-2", "A", 0.7), ("sub-3", "A", 0.6),
        ("sub-0", "B", NAN),
    )  # fmt: skip
    volumes = pd.DataFrame(
        [("sub-3", "A", 0.9), ("sub-2", "A", 0.3), ("sub-1", "A", 0.25), ("sub-0", "A", 0.1),
         ("sub-0", "B", NAN), ("sub-9", "A", 0.5)],
        columns=["subject", "name", "uncertainty"],
    )  # fmt: skip
    points = scores.with_uncertainty(table, volumes)
    assert len(points) == 4 and scores.rank_correlation(points) == pytest.approx(-1)
    assert np.isnan(scores.rank_correlation(points.head(2)))
    assert np.isnan(scores.rank_correlation(points.assign(dice=0.5)))
    assert scores.correlation_by_structure(points).to_dict() == {"A": pytest.approx(-1)}
    assert scores.correlation_by_structure(points[:0]).empty


def test_confused_pairs_are_shares_of_the_reference_in_all_scans():
    rows = [
        ("sub-1", "Background", "Background", 900), ("sub-1", "Background", "A", 100),
        ("sub-1", "A", "A", 50), ("sub-1", "A", "B", 10), ("sub-2", "A", "B", 10),
        ("sub-2", "A", "Background", 30), ("sub-2", "B", "B", 5),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["subject", "reference", "prediction", "voxels"])
    found = scores.confused(table, "Background")
    assert found[["reference", "prediction", "voxels", "fraction"]].to_numpy().tolist() == [
        ["A", "Background", 30, 0.3], ["A", "B", 20, 0.2],
    ]  # fmt: skip
    matrix = scores.confusion_matrix(table, ["Background", "A", "B", "C"])
    assert list(matrix.index) == list(matrix.columns) == ["Background", "A", "B"]
    np.testing.assert_allclose(matrix, [[0.9, 0.1, 0], [0.3, 0.5, 0.2], [0, 0, 1]])


def test_sessions_and_runs_of_a_subject_are_one_person_where_nothing_else_is_known():
    names = pd.Series(["sub-1_ses-2", "sub-1_acq-b_run-2", "sub-1", "sub-2_run-1"])
    assert scores.participants_of(names).tolist() == ["sub-1"] * 3 + ["sub-2"]
    assert scores.participants_of(names, {"sub-2_run-1": "1"}).tolist() == ["sub-1"] * 3 + ["1"]


def test_tables_of_a_list_are_stacked_with_the_names_of_their_files(tmp_path):
    for name, value in (("sub-1", 1), ("sub-2_ses-1", 2)):
        (tmp_path / f"{name}_desc-quicknat_volumes.tsv").write_text(f"voxels\n{value}\n")
    table = stack_tables(sorted(tmp_path.glob("*.tsv")))
    assert table.to_numpy().tolist() == [["sub-1", 1], ["sub-2_ses-1", 2]]
    with pytest.raises(InputError, match="the list of tables: is empty"):
        stack_tables([])
