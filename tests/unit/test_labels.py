"""Label protocols: what they contain, and what they refuse."""

import numpy as np
import pandas as pd
import pytest

from helpers import LABELS
from quicknat.errors import InputError
from quicknat.images.labels import Protocol, parse_ids


@pytest.mark.parametrize(
    ("name", "classes", "sagittal"),
    [("quicknat28", 28, 16), ("quicknat33", 33, 19), ("tissues4", 4, 4), ("seed4", 4, 4)],
)
def test_each_protocol_has_the_published_number_of_classes(name, classes, sagittal):
    protocol = Protocol.read(LABELS / f"{name}.tsv")
    assert protocol.n_classes("coronal") == protocol.n_classes("axial") == classes
    assert protocol.n_classes("sagittal") == sagittal
    assert len(protocol.class_names("sagittal")) == sagittal


def test_left_and_right_swap_roles_between_freesurfer_and_neuromorphometrics(protocol):
    hippocampi = {"freesurfer": (17, 53), "neuromorphometrics": (48, 47)}
    for convention, (left, right) in hippocampi.items():
        mapped = protocol.remap(np.array([left, right]), convention, "x")
        assert [protocol.names[i] for i in mapped] == ["Left hippocampus", "Right hippocampus"]


def test_neuromorphometrics_cortex_is_left_when_odd_and_right_when_even(protocol):
    mapped = protocol.remap(np.array([101, 207, 100, 206]), "neuromorphometrics", "x")
    assert [protocol.names[i] for i in mapped] == ["Left cerebral cortex"] * 2 + [
        "Right cerebral cortex"
    ] * 2


def test_cerebellar_vermis_and_unlisted_regions_become_background(protocol):
    mapped = protocol.remap(np.array([71, 72, 73, 63, 45]), "neuromorphometrics", "x")
    assert mapped.tolist() == [0, 0, 0, 0, 1]


def test_sagittal_classes_merge_the_two_sides(protocol):
    left, right = protocol.names.index("Left thalamus"), protocol.names.index("Right thalamus")
    assert protocol.sagittal[left] == protocol.sagittal[right]
    assert "Thalamus" in protocol.class_names("sagittal")


def test_reference_remapping_of_the_authors_is_reproduced(golden):
    golden = np.load(golden / "aux.npz")
    protocol = Protocol.read(LABELS / "quicknat33.tsv")
    values = golden["remap_in"]
    ours = protocol.remap(values, "neuromorphometrics", "golden")
    np.testing.assert_array_equal(ours, golden["remap_neo"])
    # newer FreeSurfer has numbers for the thalamus that the authors' release did not know
    ids = np.isin(values, [9, 48]) | (values > 99)
    ours = protocol.remap(np.where(ids, 0, values), "freesurfer", "golden")
    np.testing.assert_array_equal(ours, np.where(ids, 0, golden["remap_fs"]))


def test_files_that_hold_class_indices_pass_unchanged(protocol):
    indices = np.arange(28)
    assert protocol.remap(indices, "quicknat28", "x").tolist() == indices.tolist()


def test_unknown_convention_is_refused_with_the_allowed_ones(protocol):
    with pytest.raises(InputError, match="allowed: freesurfer, neuromorphometrics, quicknat28"):
        protocol.remap(np.array([0, 1]), "talairach", "x")


@pytest.mark.case(32)
@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("index", 3, 7, "without gaps"),
        ("name", 3, "Background", "two rows"),
        ("freesurfer", 3, "2", "two classes"),
        ("color", 3, "red", "RRGGBB"),
        ("partner", 3, "", "partners"),
        ("sagittal", 27, "40", "partners|gaps"),
    ],
)
def test_inconsistent_table_is_refused(tmp_path, column, row, value, message):
    table = pd.read_csv(LABELS / "quicknat28.tsv", sep="\t", dtype=str, keep_default_na=False)
    table.loc[row, column] = str(value)
    path = tmp_path / "broken.tsv"
    table.to_csv(path, sep="\t", index=False)
    with pytest.raises(InputError, match=message):
        Protocol.read(path)


def test_written_table_reads_back_the_same(tmp_path, protocol):
    protocol.write(tmp_path / "quicknat28.tsv")
    again = Protocol.read(tmp_path / "quicknat28.tsv")
    pd.testing.assert_frame_equal(again.table, protocol.table)


def test_ranges_of_ids_expand():
    assert parse_ids("3,10-12,100-106:2") == [3, 10, 11, 12, 100, 102, 104, 106]
