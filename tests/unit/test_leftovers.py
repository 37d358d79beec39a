"""What a killed run has left goes when the next begins, and never while anybody is at work."""

import subprocess
import sys

import pytest

from quicknat.files import written_whole
from quicknat.runs import leftovers
from quicknat.runs.leftovers import RunHold, others_at_work, remove_temporaries

WAIT = "import sys; print('here', flush=True); sys.stdin.read()"


@pytest.fixture
def killed(tmp_path):
    """A folder as a killed run leaves it: Snakemake's lock, and temporaries."""
    RunHold(tmp_path)._stream.close()  # which is what the end of the process does
    (tmp_path / ".snakemake/locks").mkdir()
    (tmp_path / ".snakemake/locks/0.input.lock").write_text("a.nii.gz\n")
    anat = tmp_path / "results/scans/sub-1/anat"
    (anat / ".tmp-01ab_9yzmosaics").mkdir(parents=True)
    (anat / ".tmp-01ab_9yzmosaics/half.png").write_text("half")
    (anat / ".tmp-01ab_9yzT1w.nii.gz").write_text("half")
    (anat / "T1w.nii.gz").write_text("whole")
    return tmp_path


def left(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_next_run_removes_lock_and_temporaries_and_nothing_else(killed, caplog):
    RunHold(killed)
    assert left(killed) == ["T1w.nii.gz", "quicknat.lock"]
    assert "The last run was killed: its lock and 2 half-written files removed" in caplog.text


def test_folder_of_a_living_run_is_left_alone(killed):
    with (killed / ".snakemake/quicknat.lock").open() as stream:
        leftovers.fcntl.flock(stream, leftovers.fcntl.LOCK_SH)
        before = left(killed)
        second = RunHold(killed)
        second.end()
        assert left(killed) == before


def test_lock_stays_while_a_job_of_the_killed_run_works_on(killed, caplog):
    script = killed / "quicknat"
    script.write_text(WAIT)
    job = subprocess.Popen(
        [sys.executable, script], cwd=killed, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    job.stdout.readline()
    before = left(killed)
    assert others_at_work(killed) == [job.pid]
    RunHold(killed)
    assert left(killed) == before
    assert f"jobs of a killed run still work here (process {job.pid})" in caplog.text
    job.communicate()
    RunHold(killed)
    assert "0.input.lock" not in left(killed)


def test_lock_of_another_machine_or_of_jobs_elsewhere_stays(killed, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(leftovers.socket, "gethostname", lambda: "another")
        RunHold(killed)
    assert "0.input.lock" in left(killed)
    (killed / ".snakemake/quicknat.lock").unlink()
    locks = killed / ".snakemake/locks"
    locks.rename(killed / "aside")
    RunHold(killed).keep_locks()  # as a run does whose jobs a cluster has
    (killed / "aside").rename(locks)
    RunHold(killed)
    assert "0.input.lock" in left(killed)


def test_end_of_a_run_removes_what_killed_jobs_have_left(killed):
    hold = RunHold(killed)
    half = killed / "results/.tmp-abcdefgha.tsv"
    half.write_text("half")
    hold.end()
    assert not half.exists()


def test_names_of_temporaries_are_those_that_writers_give(tmp_path):
    with written_whole(tmp_path / "a.tsv") as (temporary,):
        temporary.write_text("half")
        assert remove_temporaries(tmp_path) == 1 and not temporary.exists()
        temporary.write_text("whole")
    assert left(tmp_path) == ["a.tsv"]


def test_folder_that_cannot_be_written_to_is_not_held(tmp_path):
    (tmp_path / ".snakemake").write_text("a file")
    RunHold(tmp_path).end()
    assert left(tmp_path) == [".snakemake"]
