"""The BIDS App: all runs and sessions, the usual options, a valid derivative, tables of a group."""

import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import pandas as pd
import pytest
from typer.testing import CliRunner

from quicknat import cli
from quicknat.cli.bids import app, separated
from quicknat.cohort.naming import Selection
from quicknat.errors import InputError
from quicknat.images.conform import conform_file
from quicknat.segmentation import batch


def run(*arguments):
    return CliRunner().invoke(app, separated([str(argument) for argument in arguments]))


def folder_of(root, name):
    """The folder of a scan in a BIDS data set."""
    session = [part for part in name.split("_") if part.startswith("ses-")]
    return root.joinpath(name.split("_")[0], *session, "anat")


@pytest.fixture
def data_set(head_file, tmp_path):
    """Make a BIDS data set of scans by their names."""

    def make(*names):
        root = tmp_path / "bids"
        for name in names:
            folder_of(root, name).mkdir(parents=True, exist_ok=True)
            shutil.copy(head_file, folder_of(root, name) / f"{name}_T1w.nii.gz")
            (folder_of(root, name) / f"{name}_T1w.json").write_text("{}")
        description = {"Name": "heads", "BIDSVersion": "1.10.0", "DatasetDOI": "doi:10.1/x"}
        (root / "dataset_description.json").write_text(json.dumps(description))
        return root

    return make


SCANS = [
    ["sub-01_run-1", "sub-01_run-2", "sub-02_acq-mprage_ce-gd_rec-norm"],
    ["sub-01_ses-a", "sub-01_ses-b_acq-mprage_run-02", "sub-02_ses-a"],
]


@pytest.mark.slow
@pytest.mark.parametrize("names", SCANS, ids=["without sessions", "with sessions"])
def test_every_run_and_session_is_segmented_into_a_valid_derivative(
    data_set, model, tmp_path, names
):
    root, output = data_set(*names), tmp_path / "derivatives"
    options = ("--model", model, "--uncertainty", 0, "--views", "--mgz", "--threads", 1)
    done = run(root, output, "participant", "--participant_label", "01", "02", *options)
    assert done.exit_code == 0, done.output
    found = sorted(output.rglob("*_desc-quicknat_dseg.nii.gz"))
    assert found == [
        folder_of(output, name) / f"{name}_desc-quicknat_dseg.nii.gz" for name in names
    ]
    assert run(root, output, "group").exit_code == 0
    wide = pd.read_csv(output / "volumes_wide.tsv", sep="\t", dtype=str)
    assert list(wide["participant_id"]) == ["sub-01", "sub-01", "sub-02"]
    described = json.loads((output / "dataset_description.json").read_text())
    assert described["GeneratedBy"][0]["Name"] == "quicknat"
    assert described["SourceDatasets"] == [{"URL": root.as_uri(), "DOI": "doi:10.1/x"}]
    command = ["bids-validator-deno", output, "--json"]
    checked = subprocess.run(command, capture_output=True, text=True)
    issues = json.loads(checked.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert checked.returncode == 0


@pytest.mark.parametrize("command", ["segment", "quicknat-bids"])
def test_tables_after_ctrl_c_are_of_the_scans_that_ended_before(
    data_set, model, tmp_path, monkeypatch, command
):
    root, output = data_set("sub-01", "sub-02", "sub-03", "sub-04"), tmp_path / "out"
    (root / "sub-01/anat/sub-01_T1w.nii.gz").write_bytes(b"damaged")

    def until_the_third(path, *arguments):
        if "sub-03" in path.name:
            raise KeyboardInterrupt
        return conform_file(path, *arguments)

    monkeypatch.setattr(batch, "conform_file", until_the_third)
    options = ["--model", str(model), "--threads", "1"]
    if command == "segment":
        arguments = ["segment", str(root), "--output", str(output), *options]
        stopped = CliRunner().invoke(cli.app, arguments)
    else:
        stopped = run(root, output, "participant", *options)
    assert stopped.exit_code != 0
    scans = pd.read_csv(output / "scans.tsv", sep="\t", index_col="name")
    assert scans["status"].to_dict() == {"sub-01": "failed", "sub-02": "done"}
    for name, column in (("volumes", "subject"), ("volumes_wide", "participant_id")):
        assert set(pd.read_csv(output / f"{name}.tsv", sep="\t")[column]) == {"sub-02"}


def test_group_without_participants_and_data_sets_that_are_not_bids_are_refused(data_set, tmp_path):
    root = data_set("sub-01")
    empty = run(root, tmp_path / "out", "group")
    assert "run the level participant first" in str(empty.exception)
    (root / "dataset_description.json").write_text('{"Name": "heads"}')
    refused = run(root, tmp_path / "out", "participant")
    assert "lacks BIDSVersion" in str(refused.exception)
    absent = run(root, tmp_path / "out", "participant", "--skip_bids_validation",
                 "--participant-label", "03")  # fmt: skip
    assert "no T1w scan of participant 03" in str(absent.exception)
    assert not (tmp_path / "out").exists()


def test_lists_of_labels_are_understood_and_a_list_without_any_selects_nothing():
    given = ["in", "out", "participant", "--participant_label", "01", "02", "--mgz"]
    apart = ["--participant-label", "01", "--participant-label", "02"]
    assert separated(given) == [*given[:3], *apart, "--mgz"]
    # of a variable that is not set: refused, since an option needs a value
    for given in (["--participant-label=01", "in"], ["--session-label", "--mgz"]):
        assert separated(given) == given
    for labels, option in ((([""], []), "participant"), ((["01"], [" , "]), "session")):
        with pytest.raises(InputError, match=f"--{option}-label: is empty"):
            Selection.read(*labels, None)


NAMES = ["sub-01_ses-a_run-01", "sub-01_ses-a_run-02", "sub-01_ses-b_acq-mprage", "sub-1_ce-gd"]
FILTERS = {  # what is selected, or why it is refused
    '{"t1w": {"run": 1}}': NAMES[:1],
    '{"t1w": {"run": [1, "02"], "datatype": "anat", "suffix": "T1w"}}': NAMES[:2],
    '{"t1w": {"acquisition": ["mprage", null], "run": null}}': NAMES[2:],
    '{"t1w": {"acq": "*"}, "bold": {"task": "rest"}}': NAMES[2:3],
    '{"t1w": {"subject": "1", "ceagent": "Query.ANY"}}': NAMES[3:],
    '{"bold": {"task": "rest"}}': NAMES,
    "{": "cannot be read as JSON",
    '{"t1w": 1}': "no object 't1w'",
    '{"t1w": {"acquistion": "x"}}': "unknown entity 'acquistion'; allowed: subject, session",
    '{"t1w": {"suffix": "T2w"}}': "asks for suffix T2w",
    '{"t1w": {"run": 7}}': "none of 4 scans is selected",
}


@pytest.mark.parametrize("text", FILTERS)
def test_filter_file_selects_by_entities_or_is_refused(tmp_path, text):
    path, expected = tmp_path / "filter.json", FILTERS[text]
    path.write_text(text)
    if isinstance(expected, list):
        assert Selection.read([], [], path).of(NAMES, str, "bids") == expected
    else:
        with pytest.raises(InputError, match=expected):
            Selection.read([], [], path).of(NAMES, str, "bids")


def test_labels_select_with_or_without_their_keys_and_between_commas():
    def chosen(*labels):
        return Selection.read(*labels, None).of(NAMES, str, "bids")

    assert chosen(["sub-01"], ["ses-b"]) == chosen(["01"], ["b"]) == NAMES[2:3]
    assert chosen(["1,01"], []) == NAMES
    with pytest.raises(InputError, match="bids: has no T1w scan of participant 04"):
        chosen(["01", "04"], [])


def test_mgz_and_numbers_of_freesurfer_are_written_where_wanted(data_set, model, tmp_path):
    arguments = [data_set("sub-01"), tmp_path / "out", "participant", "--model", model]
    assert run(*arguments, "--mgz", "--label-convention", "freesurfer").exit_code == 0
    stem = f"{tmp_path}/out/sub-01/anat/sub-01_desc-quicknat_dseg"
    nifti, mgz = nib.load(f"{stem}.nii.gz"), nib.load(f"{stem}.mgz")
    assert (nifti.get_fdata() == mgz.get_fdata()).all()
    assert abs(nifti.affine - mgz.affine).max() < 1e-3
    table = pd.read_csv(f"{stem}.tsv", sep="\t")
    assert (table["index"] == table["freesurfer_id"]).all()
    assert set(nifti.get_fdata().ravel()) <= set(table["index"])
    assert {10, 49} <= set(table["index"]) and not {9, 48} & set(table["index"])
    made = json.loads(Path(f"{stem}.json").read_text())
    assert made["how"]["label_convention"] == "freesurfer"
    colours = (tmp_path / "out/labels/quicknat28-freesurfer_freesurfer.txt").read_text()
    assert "\n49 Right_thalamus " in colours
    assert run(*arguments).exit_code == 0  # not skipped: other numbers are wanted
    assert set(nib.load(f"{stem}.nii.gz").get_fdata().ravel()) <= set(range(28))
    assert not Path(f"{stem}.mgz").exists()
    refused = run(*arguments, "--label-convention", "neuromorphometrics")
    assert "allowed: freesurfer, quicknat28" in str(refused.exception)
