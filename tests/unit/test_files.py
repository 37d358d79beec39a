"""Half-written files go, and nothing else does."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from quicknat.files import folder_written_whole, remove_temporaries, written_whole


def left(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_temporaries_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    anat = tmp_path / "sub-1"
    (anat / ".tmp-01ab_9yzmosaics").mkdir(parents=True)
    (anat / ".tmp-01ab_9yzmosaics/half.png").write_text("half")
    (anat / ".tmp-01ab_9yzT1w.nii.gz").write_text("half")
    for name in ("T1w.nii.gz", ".tmp-notes", ".hidden"):
        (anat / name).write_text("whole")
    assert remove_temporaries(tmp_path) == 2
    assert left(tmp_path) == [".hidden", ".tmp-notes", "T1w.nii.gz", "sub-1"]
    assert remove_temporaries(tmp_path / "absent") == 0


def test_names_of_temporaries_are_those_that_writers_give(tmp_path):
    with written_whole(tmp_path / "a.tsv") as (temporary,):
        temporary.write_text("half")
        assert remove_temporaries(tmp_path) == 1 and not temporary.exists()
        temporary.write_text("whole")
    with folder_written_whole(tmp_path / "folder") as folder:
        assert remove_temporaries(tmp_path) == 1 and left(tmp_path) == ["a.tsv"]
        folder.mkdir(parents=True)
    assert left(tmp_path) == ["a.tsv", "folder"]


def test_file_whose_writing_fails_keeps_its_content_and_leaves_no_other(tmp_path):
    (tmp_path / "a.tsv").write_text("before")
    with pytest.raises(ValueError), written_whole(tmp_path / "a.tsv") as (temporary,):
        temporary.write_text("half")
        raise ValueError
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_file_that_a_library_makes_private_may_be_read_by_whom_the_user_lets_read(tmp_path):
    (tmp_path / "usual").touch()
    with written_whole(tmp_path / "a.safetensors") as (temporary,):
        save_file({"a": np.zeros(3)}, temporary)
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode
