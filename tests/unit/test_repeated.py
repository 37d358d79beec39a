"""Change within participants: which visits are compared, over which time, in which per cent."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from made_up_results import made_up_results, written
from quicknat.cohort.sheet import Scan
from quicknat.errors import InputError
from quicknat.report.inputs import NO_TIMES, session_tables
from quicknat.report.repeated import change_content, changes, read_times, visits
from quicknat.report.structures import structures


def scan(subject, session="", entities="", participant=""):
    return Scan(subject=subject, session=session, entities=entities, image="a.nii",
                split="segment", participant=participant or subject)  # fmt: skip


def volumes(protocol, scans, sizes):
    """Volumes of scans, all structures of the same size."""
    parts = [
        pd.DataFrame({"subject": one.id, "name": protocol.names[1:], "volume_mm3": float(size)})
        for one, size in zip(scans, sizes, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def visits_of(protocol, scans, sizes, known=NO_TIMES):
    return visits(volumes(protocol, scans, sizes), scans, structures(protocol), known)


def content_of(protocol, table, scans, paged=()):
    return change_content(table, scans, structures(protocol), NO_TIMES, paged)


def times(text, tmp_path, scans=()):
    path = tmp_path / "sessions.tsv"
    path.write_text(text)
    return read_times({path: list(scans)}, {})


def test_change_is_per_cent_of_the_first_visit_and_per_year_where_ages_are_known(
    tmp_path, protocol
):
    scans = [scan("1", "a"), scan("1", "b"), scan("2", "a"), scan("2", "b"), scan("3", "a")]
    ages = "participant_id\tsession_id\tage\nsub-1\tses-a\t70\nsub-1\tses-b\t72\n2\ta\tn/a\n"
    table = visits_of(protocol, scans, (1000, 900, 1000, 1100, 1000), times(ages, tmp_path))
    assert list(table["participant"]) == ["1", "1", "2", "2"]
    change = changes(table).set_index(["participant", "structure"])
    assert change.at[("1", "Brain"), "percent"] == pytest.approx(-10)
    assert change.at[("1", "Putamen"), "percent_per_year"] == pytest.approx(-5)
    assert change.at[("1", "Putamen"), "first_mm3"] == 2000  # left and right
    assert change.at[("2", "Brain"), "percent"] == pytest.approx(10)
    assert np.isnan(change.at[("2", "Brain"), "percent_per_year"])


def test_dates_order_visits_and_come_before_ages_in_whole_years(tmp_path, protocol):
    dates = (
        "participant_id\tsession_id\tacq_time\tage\n"
        "sub-1\tses-a\t2021-07-01T10:00:00\t70\nsub-1\tses-b\t2021-01-01T10:00:00Z\t70\n"
    )
    scans = [scan("1", "a"), scan("1", "b")]
    table = visits_of(protocol, scans, (900, 1000), times(dates, tmp_path))
    assert list(table["visit"]) == ["b", "a"]
    assert table["years"].iloc[1] == pytest.approx(181 / 365.25, abs=1e-3)
    assert changes(table)["percent"].iloc[0] == pytest.approx(-10)


def test_visits_without_times_are_in_the_order_of_their_numbers_and_runs_are_averaged(protocol):
    scans = [scan("1", "10"), scan("1", "2", "run-1"), scan("1", "2", "run-2")]
    table = visits_of(protocol, scans, (1000, 900, 1100))
    assert list(table["visit"]) == ["2", "10"] and list(table["Putamen"]) == [2000, 2000]
    assert table["years"].isna().all()


@pytest.mark.parametrize("names", [("pre", "post"), ("base", "M06"), ("bl", "12"), ("BL2", "A")])
def test_first_session_by_name_is_first_and_the_page_says_how_sessions_are_ordered(
    tmp_path, protocol, names
):
    scans = [scan("1", name) for name in sorted(names)]
    table = visits_of(protocol, scans, (1000, 900))
    assert list(table["visit"]) == list(names)
    inputs = made_up_results(tmp_path, scans, protocol)
    assert "are ordered by name" in written(inputs)
    dates = "participant_id\tsession_id\tacq_time\n"
    dates += "".join(f"1\t{name}\t2020-01-0{k}\n" for k, name in enumerate(names, start=1))
    assert "ordered by name" not in written(replace(inputs, times=times(dates, tmp_path)))


def test_two_subjects_of_one_participant_are_visits_and_two_runs_are_not(protocol):
    subjects = [scan("X1", participant="X"), scan("X2", participant="X")]
    runs = [scan("Y", entities="run-1"), scan("Y", entities="run-2")]
    table = visits_of(protocol, [*subjects, *runs], (1000, 1001, 1002, 1003))
    assert list(table["visit"]) == ["X1", "X2"]
    assert content_of(protocol, volumes(protocol, runs, (1, 2)), runs) == {}


def test_absent_structure_has_no_per_cent(protocol):
    scans = [scan("1", "a"), scan("1", "b")]
    table = volumes(protocol, scans, (1000, 1000))
    table.loc[table["name"] == "3rd ventricle", "volume_mm3"] = 0
    summary = content_of(protocol, table, scans)["summary"]
    row = next(row for row in summary if row["structure"] == "3rd ventricle")
    assert row["n"] == 0 and np.isnan(row["mean"])


@pytest.mark.parametrize("cell", ["", "N/A", "unknown", "64y", "last spring"])
def test_age_or_date_that_is_none_is_unknown(tmp_path, cell, caplog):
    text = f"participant_id\tsession_id\tage\tacq_time\nsub-1\ta\t{cell}\t{cell}\n"
    found = times(text, tmp_path)
    assert found.isna().all(axis=None) and list(found.index) == [("1", "a")]
    assert caplog.text.count("is not used") == (0 if cell in ("", "N/A") else 2)
    assert times("participant_id\tage\nsub-1\t70\n", tmp_path).empty  # without sessions


def test_ids_are_matched_as_those_of_participants_are(tmp_path):
    text = "participant_id\tsession_id\tage\n1\t1\t70\n002_S_0413\tses-m12\t71\n3\tA\t72\n"
    scans = [scan("01", "01"), scan("01", "02"), scan("002S0413", "m12"), scan("3", "a")]
    found = times(text, tmp_path, scans)["age"]
    assert found.to_dict() == {("01", "01"): 70, ("002S0413", "m12"): 71, ("3", "a"): 72}


def test_times_in_the_folders_of_a_bids_data_set_are_read_unless_others_are_given(tmp_path):
    (tmp_path / "bids/sub-01/ses-a/anat").mkdir(parents=True)
    own, given = tmp_path / "bids/sub-01/sub-01_sessions.tsv", tmp_path / "sessions.tsv"
    own.write_text("session_id\tage\nses-a\t64.2\nses-b\t66.2\n")
    given.write_text("participant_id\tsession_id\tage\nrenamed\tb\t67\n")
    image = "bids/sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz"
    scans = [replace(scan("renamed", visit), image=image) for visit in ("a", "b", "")]
    tables = session_tables([*scans, scan("2", "a")], tmp_path / "cohort.tsv")
    assert tables == {own: scans[:2]}
    found = read_times({given: scans}, tables)["age"]
    assert found.to_dict() == {("renamed", "a"): 64.2, ("renamed", "b"): 67}
    downloaded = [replace(one, source="openneuro") for one in scans]
    assert not session_tables(downloaded, tmp_path / "cohort.tsv")
    own.write_text("session_id\tage\tage \nses-a\t64.2\t64.2\n")  # nobody named it: a notice
    assert read_times({given: scans}, tables)["age"].to_dict() == {("renamed", "b"): 67}
    own.rename(given)
    with pytest.raises(InputError, match="two columns named 'age'"):
        read_times({given: scans}, {})


def test_dots_lead_to_last_scans_with_a_page_only(protocol):
    scans = [scan("1", "a"), scan("1", "b"), scan("2", "a"), scan("2", "b")]
    table = volumes(protocol, scans, (1000, 1001, 1002, 1003))
    for strip in content_of(protocol, table, scans, ["sub-1_ses-b"])["chart"].strips:
        assert [dot.scan for dot in strip.dots] == ["sub-1_ses-b"] and strip.path.count("M") == 1


def test_page_shows_change_only_where_there_are_several_sessions(tmp_path, protocol):
    scans = [scan("1", "a"), scan("1", "b"), scan("2")]
    inputs = made_up_results(tmp_path, scans, protocol)
    page = written(inputs)
    assert "1 participant has several sessions" in page and "SD (%)" not in page
    change = pd.read_csv(tmp_path / "report/assets/change.tsv", sep="\t")
    assert set(change["participant"]) == {1} and "Hippocampus" in set(change["structure"])
    one = made_up_results(tmp_path, scans[1:], protocol)
    assert 'id="change"' not in written(one)
    assert not (tmp_path / "report/assets/change.tsv").exists()
