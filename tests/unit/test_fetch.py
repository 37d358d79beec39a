"""Downloads: verified, from the first URL of any kind that provides them, and never half there."""

import hashlib
import logging
import subprocess
import tarfile
import threading
import zipfile

import pytest

from file_server import CONTENT, HALF, MD5, OTHER, SHA256, act, answer, get, only_the_file, serve
from in_process import quicknat
from quicknat.download import fetch
from quicknat.download.fetch import download, public
from quicknat.errors import InputError
from quicknat.files import sha256


@pytest.mark.parametrize("checksum", [SHA256, MD5, SHA256.upper().replace("SHA", "sha")])
def test_right_file_that_is_there_is_kept_and_another_is_replaced(server, output, checksum):
    for content, requests in ((b"", 1), (CONTENT, 1), (OTHER, 2)):
        if content:
            output.write_bytes(content)
        get(server, output, checksum=checksum)
        assert len(server.seen) == requests and only_the_file(output)


def test_file_without_a_published_checksum_is_taken_with_a_warning(tmp_path, output, caplog):
    source = tmp_path / "a b.bin"
    source.write_bytes(CONTENT)
    download(source.as_uri(), "unpublished", output)
    assert only_the_file(output)
    assert "no checksum is known" in caplog.text and SHA256 in caplog.text


# what came is not what was wanted


@pytest.mark.case(53)
def test_wrong_bytes_are_removed_and_named_and_a_mirror_is_tried(server, output):
    server.acts = [act(content=OTHER)]
    with pytest.raises(InputError, match=r"a\.zip: its sha256 is .* \(removed\)"):
        get(server, output)
    assert not output.exists() and not list(output.parent.glob("*.part*"))
    server.acts = [act(content=OTHER)]
    get(server, output, "mirror.zip")
    assert only_the_file(output)


@pytest.mark.case(53)
@pytest.mark.parametrize(
    "page",
    [b"<!DOCTYPE html>\n<html><body>log in</body></html>",
     b'\xef\xbb\xbf<?xml version="1.0"?>\n<html xmlns="...">'],
    ids=["doctype", "xhtml"],
)  # fmt: skip
def test_web_page_is_recognised_even_if_the_checksum_is_its_own(server, output, page):
    server.acts = [act(content=page)]
    with pytest.raises(InputError, match="a web page was received"):
        get(server, output, checksum=f"md5:{hashlib.md5(page).hexdigest()}")
    assert not output.exists()


@pytest.mark.parametrize("url", ["", "ftp://me:pass@h/a.zip", "/mnt/a.zip", "--pre", "pack"])
def test_address_of_no_known_kind_is_refused_before_anything_is_fetched(output, url):
    for addresses in ([url], ["https://x.invalid/a", url]):
        with pytest.raises(InputError, match="is not the URL of a file; must be") as caught:
            download(addresses[0], SHA256, output, addresses[1:])
        assert "pass" not in str(caught.value)


@pytest.mark.parametrize(
    "url, checksum, kinds",
    [("https://x.invalid/a", checksum, "sha256:… or md5:…")
     for checksum in ("", "sha256:1", "git:" + "0" * 40, "none")]
    + [("git+https://x.invalid/a", checksum, "git:… with a commit")
       for checksum in ("git:main", "unpublished", SHA256)],
)  # fmt: skip
def test_checksum_that_is_none_is_refused(output, url, checksum, kinds):
    with pytest.raises(InputError, match=f"must be {kinds}"):
        download(url, checksum, output)


# other ways than http


@pytest.mark.slow  # pip takes a second
def test_package_is_downloaded_with_pip_and_else_from_its_mirror(by_hand, output, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", by_hand.as_uri())
    wheel = by_hand / "pack-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pack-1.0.dist-info/METADATA", "Name: pack\nVersion: 1.0\n")
        archive.writestr("pack-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
    checksum = f"sha256:{sha256(wheel)}"
    with pytest.raises(InputError, match=r"pack==2\.0: cannot be fetched \(ERROR: .*pack"):
        download("pack==2.0", checksum, output)
    for address, mirrors in (("pack==1.0", []), ("pack==2.0", [wheel.as_uri()])):
        download(address, checksum, output, mirrors)
        assert output.read_bytes() == wheel.read_bytes()
        output.unlink()


def test_files_of_a_commit_become_an_archive(tmp_path, output):
    folder = tmp_path / "repository"
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@a.invalid"]
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    (folder / "scan").write_text("a scan")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "one"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    address = f"git+{folder.as_uri()}"
    with pytest.raises(InputError, match=r"repository: cannot be fetched \(fatal"):
        download(address, "git:" + "0" * 40, output)
    assert not output.exists()
    download(address, f"git:{commit.strip()}", output)
    with tarfile.open(output) as tar:
        assert tar.extractfile("scan").read() == b"a scan"


def test_without_git_the_mirror_is_tried(tmp_path, by_hand, output, monkeypatch):
    (by_hand / "m.tar").write_bytes(b"of the mirror")
    monkeypatch.setenv("PATH", "")
    address, checksum = f"git+{tmp_path.as_uri()}", "git:" + "0" * 40
    with pytest.raises(InputError, match="git is not on PATH; install git"):
        download(address, checksum, output)
    download(address, checksum, output, [(by_hand / "m.tar").as_uri()])
    assert output.read_bytes() == b"of the mirror"


@pytest.mark.case(52)
@pytest.mark.parametrize("checksum", [SHA256, "unpublished"])
def test_second_download_of_a_file_waits_for_the_first_and_finds_it_done(
    server, output, monkeypatch, checksum
):
    waiting = threading.Event()

    def hold(handler):
        assert waiting.wait(20)
        serve(handler)

    server.acts = [hold]
    monkeypatch.setattr(fetch.log, "info", lambda said, *_: "waiting" in said and waiting.set())
    how = {"target": get, "args": (server, output), "kwargs": {"checksum": checksum}}
    threads = [threading.Thread(**how) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.seen) == 1 and only_the_file(output)


# without a network


@pytest.mark.parametrize(
    "url, name",
    [
        ("https://example.org/d/disc%201.tar.gz?x=1", "disc 1.tar.gz"),
        ("file:///nowhere/a[1].zip", "a[1].zip"),
        ("Some-Pack.age==1.0", "some_pack_age-1.0-py3-none-any.whl"),
    ],
)
def test_file_fetched_by_hand_is_used_for_every_kind(by_hand, output, url, name):
    for wheel in ("1.0-cp311-cp311-a", "1.0.1-py3-none-any"):  # other ones of the package
        (by_hand / f"some_pack_age-{wheel}.whl").write_bytes(OTHER)
    (by_hand / name).write_bytes(CONTENT)
    download(url, SHA256, output, downloads=by_hand, offline=True)
    assert only_the_file(output)
    assert (by_hand / name).read_bytes() == CONTENT


def test_file_fetched_by_hand_is_verified_and_not_replaced_by_the_network(server, by_hand, output):
    (by_hand / "a.zip").write_bytes(OTHER)
    with pytest.raises(InputError, match=r"by%20hand/a\.zip: its sha256"):
        get(server, output, downloads=by_hand)
    assert server.seen == [] and not output.exists()


@pytest.mark.parametrize(
    "url, name", [("https://h/d/a.tgz", "a.tgz"), ("my-pack==1.0", r"my_pack-1.0-\*.whl")]
)
def test_offline_says_at_once_where_to_put_the_file(output, url, name):
    with pytest.raises(InputError, match=f"offline; put {name} into .* QUICKNAT_DOWNLOADS"):
        download(url, SHA256, output, offline=True)


# what is said


@pytest.mark.parametrize(
    "address, shown",
    [
        ("https://me:pass@h.org:8080/a.zip", "https://h.org:8080/a.zip"),
        ("https://h.org/a.zip?token=pass#x", "https://h.org/a.zip?…"),
        ("https://me:pa/ss@h.org/a.zip", "https://…"),
        ("https://me:p#ass@h.org/a.zip", "https://…"),
        ("https://[pass/", "https://…"),
        ("me:pass@h.org/a.zip", "h.org/a.zip"),
        ("pack==1.0", "pack==1.0"),
    ],
)
def test_addresses_are_shown_without_secrets(address, shown):
    assert public(address) == shown


def test_no_message_and_no_file_holds_a_password(server, output, caplog):
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "urllib3")  # as --verbose does
    server.acts = [act(until=HALF), answer(503), answer(404), answer(503), answer(401)]
    server.address = server.address.replace("//", "//me:pass@")
    with pytest.raises(InputError) as caught:
        get(server, output, "b.zip?key=pass", path="a.zip?key=pass", checksum="unpublished")
    assert "401" in str(caught.value) and "pass" not in str(caught.value)
    assert "trying again" in caplog.text and "pass" not in caplog.text
    for file in output.parent.glob(".*"):
        assert file.suffix == ".part" or b"pass" not in file.read_bytes()


@pytest.mark.parametrize(
    "name, options, environment",
    [("mirror", ["--offline"], {}), ("mirror", [], {"OFFLINE": "1"}), ("a.zip", [], {})],
)
def test_command_takes_mirrors_of_the_row_if_offline_and_what_was_fetched_by_hand(
    tmp_path, by_hand, output, caplog, monkeypatch, name, options, environment
):
    table = tmp_path / "sources.tsv"
    table.write_text(
        "source\tkind\turl\tmembers\tmirrors\tchecksum\n"
        f"one\thttps\thttps://x.invalid/a.zip\t*\tfile:///no, {by_hand.as_uri()}/mirror\t{SHA256}\n"
    )
    (by_hand / name).write_bytes(CONTENT)
    for variable, value in {"DOWNLOADS": str(by_hand), **environment}.items():
        monkeypatch.setenv(f"QUICKNAT_{variable}", value)
    done = quicknat("download", table, "one", "--output", output, *options)
    assert done.status == 0 and only_the_file(output), str(done)
    assert "x.invalid" not in caplog.text
