"""Quality control of a cohort without reference labels, and its structures in groups and pairs."""

import shlex
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from made_up_results import made_up_results, one_scan, volumes, written
from quicknat.cohort.examine import sides_swapped
from quicknat.images.labels import Protocol
from quicknat.package_data import LABEL_TABLES
from quicknat.report.charts import WIDTH, Axis, strip_chart
from quicknat.report.cohort_page import cohort_content
from quicknat.report.cohort_qc import asymmetries, cohort_quality, robust_z
from quicknat.report.inputs import VOLUMES
from quicknat.report.structures import Structure, brain_volume, paired_order, structures


@pytest.mark.parametrize("name", LABEL_TABLES)
def test_each_structure_of_each_protocol_is_in_the_report_once(name):
    protocol = Protocol.read(LABEL_TABLES[name])
    those = structures(protocol)
    assert sorted(paired_order(those)) == sorted(protocol.names[1:])
    for one in those:
        assert [protocol.names[index] for index in one.indices] == list(one.members)


def test_left_and_right_are_side_by_side_in_groups_and_ventricles_are_no_brain(protocol):
    those = structures(protocol)
    assert [one.name for one in those[:2]] == ["Cerebral white matter", "Cerebral cortex"]
    named = {one.name: one for one in those}
    assert named["Hippocampus"].members == ("Left hippocampus", "Right hippocampus")
    assert named["Hippocampus"].group == "Deep grey matter"
    assert named["3rd ventricle"].group == "Ventricles and CSF"
    wide = pd.DataFrame({name: [1.0] for name in protocol.names[1:]})
    assert brain_volume(wide, those)[0] == len(protocol.names) - 1 - 4


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (("rh thalamus", "lh thalamus"), ("", "")),
        (("Thalamus right", "Thalamus left"), ("", "")),
        (("R_Thalamus", "L_Thalamus"), ("", "")),
        (("Thalamus", "Thalamus 2"), ("49", "10")),
        (("RightThalamus", "LeftThalamus"), ("", "")),
    ],
)
def test_left_is_told_by_number_or_by_name_wherever_it_stands(protocol, names, ids):
    table = protocol.table.iloc[:3].copy()
    table.loc[1:, "name"], table.loc[1:, "freesurfer"] = names, ids
    table["partner"] = [-1, 2, 1]
    own = Protocol("own", table)
    (one,) = structures(own)
    assert one.members == (names[1], names[0]) and one.indices == (2, 1)
    assert one.name.split()[0] == "Thalamus"
    classes = np.zeros((8, 4, 4), np.uint8)
    classes[1], classes[6] = 2, 1
    assert not sides_swapped(classes, np.eye(4), own)
    assert sides_swapped(classes[::-1], np.eye(4), own)


def test_robust_z_is_of_the_median_and_needs_scans_and_spread():
    table = pd.DataFrame({"a": [1, 2, 3, 4, 5, 6, 7, 8, 9, 100.0], "b": [1.0] * 10})
    z = robust_z(table)
    assert z["a"].iloc[-1] == pytest.approx(0.6745 * (100 - 5.5) / 2.5)
    assert z["b"].isna().all() and robust_z(table[1:]).isna().all(axis=None)


def test_asymmetry_is_positive_where_left_is_larger(protocol):
    wide = pd.DataFrame({name: [3.0, 0.0] for name in protocol.names[1:]})
    found = asymmetries(wide.assign(**{"Right putamen": [1.0, 0.0]}), structures(protocol))
    assert found["Putamen"].iloc[0] == 50 and found["Caudate"].iloc[0] == 0
    assert found["Putamen"].isna().iloc[1] and "Brain stem" not in found


SCANS = [f"sub-{number:02d}" for number in range(30)]


def test_outliers_and_the_most_uncertain_scans_are_named_and_linked(protocol):
    table = volumes(SCANS, protocol)
    odd = (table["subject"] == "sub-07") & (table["name"] == "Left putamen")
    table.loc[odd, "volume_mm3"] = 20000
    unsure = (table["subject"] == "sub-21") & (table["name"] == "Right amygdala")
    table.loc[unsure, "uncertainty"] = 0.9
    quality = cohort_quality(table, structures(protocol), SCANS[:-1])
    assert {(row["scan"], row["measure"]) for row in quality["outliers"]} >= {
        ("sub-07", "Left putamen, volume (ml)"), ("sub-07", "Putamen, asymmetry (%)"),
        ("sub-21", "Right amygdala, uncertainty"),
    }  # fmt: skip
    first = quality["first"][0]
    assert first["scan"] == "sub-21" and first["structures"][0] == "Right amygdala"
    strip = next(one for one in quality["volumes"].strips if one.label == "Putamen")
    assert "sub-07" in {dot.scan for dot in strip.dots}
    assert strip.path.count("M") + len(strip.dots) == 2 * 30
    assert quality["with_outliers"] >= {"sub-07", "sub-21"}


def test_absent_structure_has_no_dot_and_is_outlying_where_most_scans_have_it(protocol):
    table = volumes(SCANS[:12], protocol)
    gone = (table["subject"] == "sub-03") & (table["name"] == "Left pallidum")
    gone |= (table["subject"] > "sub-02") & (table["name"] == "3rd ventricle")
    table.loc[gone, ["volume_mm3", "uncertainty", "view_agreement"]] = [0, np.nan, np.nan]
    quality = cohort_quality(table, structures(protocol), [])
    strips = {one.label: one for one in quality["volumes"].strips}
    assert strips["Pallidum"].path.count("M") == 2 * 12 - 1 and strips["Pallidum"].dots == []
    assert strips["3rd ventricle"].path == ""
    first, *others = [(row["scan"], row["measure"]) for row in quality["outliers"]]
    assert first == ("sub-03", "Left pallidum, absent")
    assert not [measure for _, measure in others if measure.startswith("3rd ventricle, ")]


def test_charts_of_many_scans_stay_small_and_keep_their_extremes():
    values = pd.DataFrame({"x": np.random.default_rng(0).normal(0, 1, 20_000)})
    axis = Axis.around(values.to_numpy())
    row = Structure("x", "", "#000000", ("x",))
    (strip,) = strip_chart([row], axis, "", values.median().to_frame(), values).strips
    assert strip.path.count("M") < 3 * WIDTH
    for extreme in (values["x"].min(), values["x"].max()):
        assert f"M{axis.at(extreme)} " in strip.path


@pytest.mark.parametrize("n_scans", [1, 2, 3])
def test_few_scans_are_shown_without_outliers_and_with_how_to_correct_the_first(
    tmp_path, protocol, n_scans
):
    scans = [one_scan(str(k), "segment") for k in range(n_scans)]
    inputs = made_up_results(tmp_path / "my data", scans, protocol, "a b.nii")
    page = written(inputs)
    assert 'id="quality"' in page and 'id="outliers"' not in page
    assert ("of the cohort’s median for that structure" in page) == (n_scans > 2)
    assert "itksnap -g" in page and "quicknat28_freesurfer.txt" in page
    first = cohort_quality(inputs.table(VOLUMES), structures(protocol), [])["first"]
    paged = [one["scan"] for one in first[-2:]]  # of three, the first has no page
    found = cohort_content(replace(inputs, segmented=paged))["correct"]
    assert found["scan"] == paged[0]
    assert found["image"] == "'a b.nii'" and shlex.split(found["freeview"])[0].endswith("0.4")
    assert len(shlex.split(f"itksnap -g {found['image']} -s {found['dseg']}")) == 5


def test_axis_holds_all_values_and_draws_those_beyond_at_its_ends():
    axis = Axis.around(np.array([2.0, np.nan, 8.0]))
    assert 0 < axis.at(2) < axis.at(8) < WIDTH
    assert axis.at(-100) == 0 and axis.at(100) == WIDTH
    assert Axis.around(np.array([np.nan])).at(0.5) == WIDTH / 2
    same = Axis.around(np.array([3.0, 3.0]))
    assert same.low < 3 < same.high
