"""Tables of volumes: FreeSurfer's numbers and form, one row per scan; label tables of viewers."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from helpers import LABELS
from in_process import quicknat
from quicknat.errors import InputError
from quicknat.images.labels import Protocol, freesurfer_structures, stored_values
from quicknat.images.volumes import Grid
from quicknat.segmentation.outputs import lookup_tables, write_lookup_tables
from quicknat.segmentation.volumes import (
    LONG,
    TOTALS,
    WIDE,
    column_name,
    find_volume_tables,
    read_totals,
    stats_text,
    totals,
    volume_table,
    wide_row,
    write_volume_tables,
)


def write(folder, name, protocol, seed=0):
    """Write the tables of a scan of random labels, and return those and the labels."""
    labels = np.random.default_rng(seed).integers(0, len(protocol.names), (10, 11, 12))
    labels[labels == 5] = 0  # a structure that was not found
    uncertainty = {"uncertainty": np.linspace(0, 1, len(protocol.names))}
    grid = Grid(labels.shape, np.diag([1, 1, 1.5, 1]))
    found = SimpleNamespace(labels=labels, grid=grid, uncertainty=uncertainty)
    table = volume_table(found, protocol)
    sums = totals(table, protocol, None if seed == 1 else 1.4e6)
    folder.mkdir(parents=True, exist_ok=True)
    start = f"{folder}/{name}_desc-quicknat"
    table.to_csv(f"{start}_volumes.tsv", sep="\t", index=False, na_rep="n/a")
    Path(f"{start}_dseg.stats").write_text(stats_text(name, table, sums, protocol))
    return table, sums, labels


@pytest.fixture
def cohort(tmp_path, protocol):
    write(tmp_path / "sub-02/anat", "sub-02", protocol)
    write(tmp_path / "sub-01/ses-b/anat", "sub-01_ses-b_run-1", protocol, 1)
    write(tmp_path / "sub-01/ses-b/anat", "sub-01_ses-b_run-2", protocol, 2)
    write_volume_tables(find_volume_tables(tmp_path), tmp_path)
    return tmp_path


def test_tables_of_a_scan_count_voxels_and_have_the_form_of_aseg_stats(tmp_path, protocol):
    """Read here as FreeSurfer's asegstats2table reads the second: by columns, between spaces."""
    table, sums, labels = write(tmp_path, "sub-1", protocol)
    counts = [int((labels == k).sum()) for k in range(1, 28)]
    assert list(table["voxels"]) == counts and list(table["index"]) == list(range(1, 28))
    assert list(table["volume_mm3"]) == [1.5 * count for count in counts]
    fluid = [1.5 * counts[k - 1] for k in (5, 12, 13, 18)]  # the ventricles
    assert sums["all_structures"] == 1.5 * sum(counts)
    assert sums["brain"] == sums["all_structures"] - sum(fluid)
    path = tmp_path / "sub-1_desc-quicknat_dseg.stats"
    assert {key: float(value) for key, value in read_totals(path).items()} == sums
    lines = path.read_text().splitlines()
    measures = [line.split(", ") for line in lines if line.startswith("# Measure")]
    assert {name: float(value) for _, name, _, value, _ in measures} == {
        "BrainVol": sums["brain"], "AllStructuresVol": sums["all_structures"], "eTIV": 1.4e6,
    }  # fmt: skip
    (header,) = (line.split()[2:] for line in lines if line.startswith("# ColHeaders"))
    cells = [line.split() for line in lines if not line.startswith("#")]
    rows = pd.DataFrame(cells, columns=header).set_index("StructName")
    assert rows.loc["Right-Thalamus", "SegId"] == "49" and "# subjectname sub-1" in lines
    assert rows["SegId"].astype(int).is_monotonic_increasing
    voxels = table.set_index("freesurfer_id")["voxels"]
    assert list(rows["NVoxels"].astype(int)) == list(voxels.sort_index())


def test_stats_of_a_table_without_freesurfers_numbers_have_its_own(tmp_path, protocol):
    own = Protocol("own", protocol.table.assign(freesurfer=""))
    table, _, _ = write(tmp_path, "sub-1", own)
    lines = (tmp_path / "sub-1_desc-quicknat_dseg.stats").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    assert [row[1:3] for row in rows] == table[["index", "voxels"]].astype(str).to_numpy().tolist()
    assert rows[0][4] == table["name"][0].replace(" ", "-")


def test_tables_of_all_are_long_with_freesurfers_numbers_and_wide_for_pandas_and_r(cohort):
    long = pd.read_csv(cohort / LONG, sep="\t")
    assert list(long)[:4] == ["subject", "index", "name", "freesurfer_id"]
    assert long["index"].dtype.kind == long["freesurfer_id"].dtype.kind == "i" and len(long) == 81
    assert list(long["subject"].unique()) == ["sub-01_ses-b_run-1", "sub-01_ses-b_run-2", "sub-02"]
    assert set(long[long["name"] == "Right thalamus"]["freesurfer_id"]) == {49}
    wide = pd.read_csv(cohort / WIDE, sep="\t", dtype={"run": str})
    entities = ["participant_id", "session_id", "run"]
    assert list(wide)[:6] == [*entities, *(f"{key}_mm3" for key in TOTALS)]
    assert list(wide["participant_id"]) == ["sub-01", "sub-01", "sub-02"]
    assert list(wide["session_id"].fillna("")) == ["ses-b", "ses-b", ""]
    hippocampi = long[long["name"] == "Left hippocampus"]["volume_mm3"]
    assert list(wide["left_hippocampus_mm3"]) == list(hippocampi)
    assert list(wide["intracranial_mm3"].fillna(0)) == [0, 1.4e6, 1.4e6]  # n/a where none is known
    structures = wide.drop(columns=[f"{key}_mm3" for key in TOTALS]).filter(like="_mm3")
    assert list(structures.sum(axis=1)) == list(wide["all_structures_mm3"])


def test_tables_of_chunks_and_of_scans_are_put_together(cohort, tmp_path, protocol):
    write(tmp_path / "more", "sub-00", protocol)
    (tmp_path / "list.txt").write_text(
        f"{cohort / LONG}\n{next((tmp_path / 'more').glob('*.tsv'))}\n"
    )
    assert quicknat("volumes", tmp_path / "list.txt", "--output", tmp_path / "all").status == 0
    assert pd.read_csv(tmp_path / "all" / WIDE, sep="\t")["participant_id"][0] == "sub-00"
    assert pd.read_csv(tmp_path / "all" / LONG, sep="\t")["subject"].nunique() == 4
    write_volume_tables([], tmp_path / "none")  # all scans of a chunk are bad
    write_volume_tables([tmp_path / "none" / LONG, cohort / LONG], tmp_path / "some")
    assert (tmp_path / "some" / WIDE).read_text() == (cohort / WIDE).read_text()
    (tmp_path / "none" / LONG).write_bytes(b"\xff")
    with pytest.raises(InputError, match="is not a table"):
        write_volume_tables([tmp_path / "none" / LONG], tmp_path / "some")


def test_each_scan_counts_once_and_hidden_files_never(cohort, protocol):
    before = (cohort / WIDE).read_text()
    folder = cohort / "sub-01_ses-b_run-1/anat"  # as a workflow writes it
    write(folder, "sub-01_ses-b_run-1", protocol, 3)
    for end in ("volumes.tsv", "dseg.stats"):
        (cohort / f"sub-02/anat/._sub-02_desc-quicknat_{end}").write_bytes(b"\0\5\x16\7")
    write_volume_tables(find_volume_tables(cohort), cohort)
    assert (cohort / WIDE).read_text() == before


def test_columns_are_names_in_r_and_differ_where_names_of_structures_are_alike():
    for path in LABELS.glob("*.tsv"):
        names = list(map(column_name, Protocol.read(path).names))
        assert len(set(names)) == len(names), path.stem
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*_mm3", name) for name in names), path.stem
    assert column_name("3rd ventricle") == "third_ventricle_mm3"
    names = ["Nucleus A", "nucleus-a", "脑", "Brain"]
    volumes = pd.DataFrame({"index": [1, 2, 5, 6], "name": names, "volume_mm3": list("1234")})
    row = wide_row("sub-1", volumes, {"brain": "9"}).iloc[0]
    expected = {"nucleus_a_mm3": "1", "structure_2_mm3": "2", "structure_5_mm3": "3"}
    expected |= {"brain_mm3": "9", "structure_6_mm3": "4"}
    assert row[list(expected)].to_dict() == expected


def test_class_of_several_structures_has_no_freesurfer_number():
    tissues = Protocol.read(LABELS / "tissues4.tsv")
    known = freesurfer_structures(tissues)
    assert known["freesurfer_id"].isna().tolist() == [False, True, True, True]
    assert known["brain"].tolist() == [False, False, True, True]  # CSF is none
    for parcels in ("1001-1035,2001-2035", "11101-11175,12101-12175"):  # aparc, aparc.a2009s
        table = tissues.table.assign(freesurfer=["0", "4", parcels, "2,41"])
        brain = freesurfer_structures(Protocol("own", table))["brain"]
        assert brain.tolist() == [False, False, True, True]
    with pytest.raises(InputError, match="CSF has no single FreeSurfer number"):
        stored_values(tissues, "freesurfer")


@pytest.mark.parametrize("lacking", [["Left cerebral cortex"], ["Right cerebral white matter"]])
def test_protocol_without_the_whole_cerebrum_has_no_brain_volume(tmp_path, protocol, lacking):
    table = protocol.table[~protocol.table["name"].isin(lacking)].reset_index(drop=True)
    own = Protocol("own", table.assign(partner=-1))
    _, sums, _ = write(tmp_path / "sub-1/anat", "sub-1", own)
    assert set(sums) == {"all_structures", "intracranial"}
    write_volume_tables(find_volume_tables(tmp_path), tmp_path)
    wide = pd.read_csv(tmp_path / WIDE, sep="\t", dtype=str, keep_default_na=False)
    assert wide["brain_mm3"][0] == "n/a" and float(wide["all_structures_mm3"][0]) > 0
    assert "BrainVol" not in next(tmp_path.rglob("*.stats")).read_text()


def test_every_viewer_gets_each_structure_with_its_number_and_colour(protocol, tmp_path):
    write_lookup_tables(protocol, tmp_path)
    paths = {end: tmp_path / f"quicknat28_{end}" for end in lookup_tables(protocol)}
    rows = {end: path.read_text().splitlines() for end, path in paths.items()}
    putamen = protocol.names.index("Left putamen")
    red, green, blue = map(int, protocol.colors[putamen])
    assert rows["freesurfer.txt"][putamen] == f"{putamen} Left_putamen {red} {green} {blue} 0"
    assert rows["slicer.ctbl"][0] == "# Color table file"
    assert rows["slicer.ctbl"][putamen + 1] == f"{putamen} Left_putamen {red} {green} {blue} 255"
    assert rows["itksnap.txt"][putamen] == (f'{putamen} {red} {green} {blue} 1 1 1 "Left putamen"')
    assert rows["itksnap.txt"][0].startswith("0 0 0 0 0 0 0 ")
    niivue = json.loads(paths["niivue.json"].read_text())
    assert {len(values) for values in niivue.values()} == {len(protocol.names)}
    assert [niivue[key][putamen] for key in "RGBAI"] == [red, green, blue, 255, putamen]
    assert niivue["A"][0] == 0
    paths["niivue.json"].write_text("edited")  # they are written once
    write_lookup_tables(protocol, tmp_path)
    assert paths["niivue.json"].read_text() == "edited" and len(list(tmp_path.iterdir())) == 4
