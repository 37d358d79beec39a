"""Locales, names, CPUs, home folders and clusters that differ from ours (cases 82 to 91)."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import yaml
from urllib3.util import Retry

from helpers import run_snakemake, tiny_cohort, tiny_scan
from in_process import quicknat
from quicknat import files, hardware
from quicknat.cohort.examine import open_cache
from quicknat.cohort.sheet import read_sheet
from quicknat.download import fetch
from quicknat.errors import InputError, for_users
from quicknat.segmentation.batch import is_done
from quicknat.segmentation.outputs import output_files
from quicknat.segmentation.tasks import Options, Task
from quicknat.training.checkpoint import only_process
from quicknat.training.train_step import keep_compiled_code

ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}  # files have ASCII names
ODD = "a'\"$&;#%`é"


def command(*arguments, cwd, stdout=subprocess.PIPE, **environment):
    """Run `quicknat` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "quicknat", *map(str, arguments)],
        cwd=cwd, stdout=stdout, stderr=subprocess.PIPE, env=os.environ | environment,
    )  # fmt: skip


@pytest.mark.case(82)
@pytest.mark.slow
@pytest.mark.parametrize("locale", [ASCII, {"PYTHONIOENCODING": "ascii"}])
def test_locale_without_utf_8_changes_neither_names_nor_output(tmp_path, locale):
    tiny_scan(tmp_path / "Müller 扫描.nii.gz")
    rows = "subject\timage\tsplit\n1\tMüller 扫描.nii.gz\tsegment\n"
    (tmp_path / "sheet.tsv").write_text(rows, "utf-8-sig")
    done = command("check", "sheet.tsv", cwd=tmp_path, **locale)
    assert done.returncode == 0, done.stderr
    assert "Müller 扫描" in (tmp_path / "check.tsv").read_text("utf-8")
    assert "Müller 扫描" in done.stdout.decode() or b"\\u626b" in done.stdout
    assert command("--help", cwd=tmp_path, **locale).returncode == 0


@pytest.mark.case(82)
def test_snakemake_in_another_locale_is_told_what_to_set(tmp_path, monkeypatch):
    (tmp_path / "sheet.tsv").write_text("subject\timage\tsplit\n1\té.nii\tsegment\n", "utf-8")
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    with pytest.raises(InputError, match="in iso8859-1; export PYTHONUTF8=1"):
        read_sheet(str(tmp_path / "sheet.tsv"))


@pytest.mark.case(83)
def test_escapes_in_names_do_not_reach_the_terminal(tmp_path):
    scan = tmp_path / "a\x1b[31m\x07.nii.gz"
    scan.write_bytes(b"")
    done = quicknat("check", scan, "--output", tmp_path / "check.tsv")
    assert done.status == 1
    done = quicknat("segment", scan, "--output", tmp_path / "out")
    assert done.status == 1 and r"a\x1b[31m\x07.nii.gz" in done.err[-1]
    assert all(line.isprintable() for line in done.err)


@pytest.mark.case(83)
def test_name_that_is_not_utf_8_is_left_out_of_a_sheet_and_named(tmp_path):
    (tmp_path / "scans").mkdir()
    tiny_scan(tmp_path / "scans/p2.nii.gz")
    tiny_scan(tmp_path / "scan.nii.gz").rename(tmp_path / "scans" / os.fsdecode(b"p1\xff.nii.gz"))
    done = quicknat("sheet", tmp_path / "scans", "--output", tmp_path / "sheet.tsv")
    assert done.status == 0 and any(r"p1\udcff.nii.gz" in line for line in done.err)
    assert "p2.nii.gz" in (tmp_path / "sheet.tsv").read_text("utf-8")
    odd = tmp_path / "scans" / os.fsdecode(b"p1\xff.nii.gz")
    assert quicknat("check", odd, "--output", tmp_path / "check.tsv").status == 0
    assert r"p1\udcff" in (tmp_path / "check.tsv").read_text("utf-8")


def test_text_that_cannot_be_written_as_utf_8_is_an_error_of_one_line():
    with pytest.raises(UnicodeEncodeError) as caught:
        "sub-1\ta\udcff.nii\t\n".encode()
    assert "a\udcff.nii: is a file name that is not UTF-8" in str(for_users(caught.value))


@pytest.mark.case(84)
@pytest.mark.slow
def test_quotes_and_shell_characters_in_paths_do_no_harm_to_a_run(tmp_path):
    folder = tmp_path / ODD
    (folder / "run").mkdir(parents=True)
    tiny_scan(folder / f"{ODD}.nii.gz")
    sheet = folder / f"{ODD}.tsv"
    done = command("sheet", folder, "--output", sheet, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    settings = {"sheet": str(sheet), "model": "small", "conform": {"size": 64}}
    done = run_snakemake(folder / "run", "--until", "convert", overlay=settings)
    assert done.returncode == 0, done.text
    assert len(list((folder / "run").glob("results/scans/*/anat/*_T1w.nii.gz"))) == 1


@pytest.mark.case(85)
def test_cpus_are_those_that_the_process_may_use(tmp_path, monkeypatch):
    for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    group = tmp_path / "slice/job"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("max 100000\n")
    (own := tmp_path / "own").write_text("4:cpuset:/x\n0::/slice/job\n")
    count = lambda: hardware.available_cpus(str(own), str(tmp_path))  # noqa: E731
    assert count() == 16
    (group.parent / "cpu.max").write_text("250000 100000\n")
    assert count() == 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    assert count() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert count() == 1
    own.write_text("0::/../elsewhere\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "0")
    assert count() == 1


@pytest.mark.case(86)
@pytest.mark.slow
def test_names_of_digits_in_a_profile_are_refused_since_groups_add_them_up(tmp_path):
    profile, overlay = tmp_path / "profile", {"sheet": tiny_cohort(tmp_path, a="segment")}
    profile.mkdir()
    options = ("--workflow-profile", str(profile), "--dry-run")
    resources = {"default-resources": {"slurm_partition": 20}}
    text = yaml.safe_dump(resources | {"set-resources": {"convert": {"slurm_account": 7}}})
    for name in ("20", "7"):
        (profile / "config.yaml").write_text(text)
        done = run_snakemake(tmp_path, *options, overlay=overlay | {"model": "small"})
        assert done.returncode != 0, done.text
        assert f"{name}' is a name of digits; write \"'{name}'\"" in done.text, done.text
        text = text.replace(name, f"\"'{name}'\"")
    (profile / "config.yaml").write_text(text)
    done = run_snakemake(tmp_path, *options, overlay=overlay | {"model": "small"})
    assert done.returncode == 0, done.text


@pytest.mark.case(87)
def test_full_folder_of_temporary_files_is_named(tmp_path, monkeypatch):
    full = mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    files.check_temporary_folder()
    monkeypatch.setattr(files.tempfile, "TemporaryFile", full)
    with pytest.raises(InputError, match=f"{tmp_path}: holds no temporary files .No space"):
        files.check_temporary_folder()
    monkeypatch.undo()
    monkeypatch.setenv("TMPDIR", "/no/such/folder")
    files.check_temporary_folder()  # programs use another


@pytest.mark.case(87)
@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "ENAMETOOLONG", "EMFILE", "EIO"])
def test_error_of_the_system_comes_with_advice_that_fits(name):
    number = getattr(errno, name)
    for error in (OSError(number, os.strerror(number)), OSError(number, "reason", "file")):
        found = for_users(error)
        assert isinstance(found, InputError) and "permission" not in found.fix, found


@pytest.mark.case(87)
def test_full_output_of_a_command_is_an_error_of_one_line(tmp_path):
    tiny_scan(tmp_path / "a.nii.gz")
    with Path("/dev/full").open("w") as full:
        done = command("check", "a.nii.gz", cwd=tmp_path, stdout=full)
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1 and b"make room" in done.stderr


@pytest.mark.case(88)
def test_second_training_in_one_folder_is_refused(tmp_path):
    with (
        only_process(tmp_path / "state"),
        pytest.raises(InputError, match="another process trains there"),
        only_process(tmp_path / "state"),
    ):
        raise AssertionError("two at once")
    with only_process(tmp_path / "state"):  # on NFS a folder with an open file cannot be removed
        assert [path.name for path in tmp_path.iterdir()] == ["state.lock"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.case(88)
def test_folder_without_locks_is_trained_in_and_not_downloaded_to(tmp_path, monkeypatch):
    none = mock.Mock(side_effect=OSError(errno.ENOLCK, "No locks available"))
    monkeypatch.setattr("fcntl.flock", none)
    with only_process(tmp_path / "state"):
        pass
    (tmp_path / "a.tar").write_bytes(b"a")
    with pytest.raises(InputError, match="cannot be locked .No locks available"):
        fetch.download((tmp_path / "a.tar").as_uri(), "unpublished", tmp_path / "b.tar")


@pytest.mark.case(89)
@pytest.mark.parametrize("text", ["", "null", "[]", '{"source": null}', '{"source": []}', "{"])
def test_damaged_provenance_makes_a_scan_be_segmented_again(tmp_path, text):
    for path in output_files(tmp_path, "sub-1").values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    scan = tiny_scan(tmp_path / "scan.nii.gz")
    assert not is_done(Task(scan, "sub-1"), None, tmp_path, Options())


@pytest.mark.case(89)
def test_cache_of_a_check_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    refuse = mock.Mock(side_effect=InputError("check.cache.json", "cannot be written"))
    monkeypatch.setattr("quicknat.cohort.examine.write_cache", refuse)
    with open_cache(tmp_path / "check.tsv") as cache:
        cache["new"] = None
    refuse.assert_called_once()


@pytest.mark.case(90)
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HTTPS_PROXY", "http://127.0.0.1:9", "check URL, network and the proxy in HTTPS_PROXY"),
        ("REQUESTS_CA_BUNDLE", "/no/such.pem", "TLS CA certificate bundle, invalid path"),
    ],
)
def test_proxy_and_certificates_are_named(tmp_path, monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr("quicknat.download.fetch.RETRY", Retry(0))
    with pytest.raises(InputError, match=said):
        fetch.download("https://example.invalid/a.tar", "unpublished", tmp_path / "a.tar")


@pytest.mark.case(91)
@pytest.mark.parametrize("home", ["/dev/null", "/proc/1/none", None])
def test_training_without_a_home_folder_compiles_in_the_temporary_one(monkeypatch, home):
    for name in ("HOME", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", mock.Mock(side_effect=KeyError("uid not found")))
    if home:
        monkeypatch.setenv("HOME", home)
    keep_compiled_code()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


@pytest.mark.case(91)
def test_segmentation_needs_no_home_folder(tmp_path):
    tiny_scan(tmp_path / "a.nii.gz")
    nowhere = {"HOME": "/dev/null", "TMPDIR": "/no/such/folder"}
    done = command("check", "a.nii.gz", cwd=tmp_path, **nowhere)
    assert done.returncode == 0 and done.stderr == b"", done.stderr
