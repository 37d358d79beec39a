"""Other ways than http: pip, git."""

import hashlib
import subprocess
import tarfile
import zipfile

import pytest

from file_server import SHA256
from quicknat.download.fetch import download
from quicknat.errors import InputError


@pytest.mark.slow  # pip takes a second
def test_package_is_downloaded_with_pip_and_else_from_its_mirror(by_hand, output, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", by_hand.as_uri())
    wheel = by_hand / "pack-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pack-1.0.dist-info/METADATA", "Name: pack\nVersion: 1.0\n")
        archive.writestr("pack-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
    checksum = f"sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"
    download("pack==1.0", checksum, output)
    assert output.read_bytes() == wheel.read_bytes()
    output.unlink()
    with pytest.raises(InputError, match=r"pack==2\.0: cannot be fetched \(ERROR: .*pack"):
        download("pack==2.0", checksum, output)
    download("pack==2.0", checksum, output, [wheel.as_uri()])
    assert output.read_bytes() == wheel.read_bytes()


def commit_of(folder, **files):
    """Commit of a new git repository that holds these files."""
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@a.invalid"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "one"], check=True)
    found = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return found.stdout.strip()


def test_files_of_a_commit_become_an_archive(tmp_path, output):
    folder = tmp_path / "repository"
    folder.mkdir()
    commit = commit_of(folder, scan="a scan", labels="labels")
    download(f"git+{folder.as_uri()}", f"git:{commit}", output)
    with tarfile.open(output) as tar:
        assert tar.extractfile("scan").read() == b"a scan" and len(tar.getnames()) == 2


def test_commit_that_is_not_there_or_not_named_is_refused(tmp_path, output):
    folder = tmp_path / "repository"
    folder.mkdir()
    commit_of(folder, scan="a scan")
    address = f"git+{folder.as_uri()}"
    with pytest.raises(InputError, match=r"repository: cannot be fetched \(fatal"):
        download(address, "git:" + "0" * 40, output)
    for checksum in ("git:main", "unpublished", SHA256):
        with pytest.raises(InputError, match="must be git:… with a commit"):
            download(address, checksum, output)
    assert not output.exists()


def test_without_git_the_mirror_is_tried(tmp_path, by_hand, output, monkeypatch):
    (by_hand / "m.tar").write_bytes(b"of the mirror")
    monkeypatch.setenv("PATH", "")
    address, checksum = f"git+{tmp_path.as_uri()}", "git:" + "0" * 40
    with pytest.raises(InputError, match="git is not on PATH; install git"):
        download(address, checksum, output)
    download(address, checksum, output, [(by_hand / "m.tar").as_uri()])
    assert output.read_bytes() == b"of the mirror"
