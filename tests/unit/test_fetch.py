"""Downloads: resumed, tried again, verified, and never half there."""

import hashlib
import http.server
import io
import json
import logging
import random
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections import namedtuple

import pytest
from typer.testing import CliRunner

from quicknat import fetch
from quicknat.addresses import public
from quicknat.cli import app
from quicknat.errors import InputError
from quicknat.fetch import download
from quicknat.transfer import Patience

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
HALF = 2 * 65536  # bytes that arrive before a connection breaks: whole chunks
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()
QUICK = Patience(retries=3, pause=0, stall=5)


def serve(handler, content=CONTENT, etag='"one"', until=None, ranges=True, headers=()):
    """Answer with the part asked for, or all; break off at byte `until` of the file."""
    begin, wanted = 0, handler.headers.get("Range")
    if ranges and wanted and handler.headers.get("If-Range") in (None, etag):
        begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        handler.send_response(206)
        span = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        handler.send_header("Content-Range", span)
    else:
        handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) - begin))
    for name, value in (("ETag", etag), *headers):
        if value:
            handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content[begin:until])


def act(**how):
    return lambda handler: serve(handler, **how)


def answer(status, **headers):
    def reply(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return reply


@pytest.fixture(scope="module")
def running():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.seen.append((self.path, self.headers.get("Range")))
            self.server.validators.append(self.headers.get("If-Range"))
            (self.server.acts.pop(0) if self.server.acts else serve)(self)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        arguments = {"poll_interval": 0.01}
        threading.Thread(target=running.serve_forever, kwargs=arguments, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def server(running):
    """A server that does `acts` in turn, then serves the file.

    `seen` are the paths and ranges asked for, `validators` their If-Range.
    """
    running.acts, running.seen, running.validators = [], [], []
    running.address = f"http://127.0.0.1:{running.server_port}"
    return running


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out" / "a"


def get(server, output, *mirrors, path="a.zip", checksum=SHA256, patience=QUICK, **options):
    """Download from the server, where mirrors are other paths."""
    addresses = [f"{server.address}/{name}" for name in (path, *mirrors)]
    download("http", addresses[0], checksum, output, addresses[1:], patience=patience, **options)


def only_the_file(output):
    return output.read_bytes() == CONTENT and list(output.parent.iterdir()) == [output]


def break_off(server, output, **how):
    """A first call that gets half of the file, and no more."""
    server.acts = [act(until=HALF, **how), answer(404)]
    with pytest.raises(InputError, match="404"):
        get(server, output)
    server.seen.clear()


@pytest.mark.parametrize("checksum", [SHA256, MD5, SHA256.upper().replace("SHA", "sha")])
def test_download_over_http_is_verified_and_leaves_only_the_file(server, output, checksum):
    get(server, output, checksum=checksum)
    assert only_the_file(output)


def test_file_urls_are_copied(tmp_path, output):
    source = tmp_path / "a b.bin"
    source.write_bytes(CONTENT)
    download("file", source.as_uri(), SHA256, output)
    assert only_the_file(output)


def test_file_that_is_there_already_is_not_fetched_again(server, output):
    get(server, output)
    get(server, output)
    assert len(server.seen) == 1


def test_file_of_other_bytes_is_replaced(server, output):
    output.parent.mkdir()
    output.write_bytes(OTHER)
    get(server, output)
    assert only_the_file(output)


# resuming


def test_broken_connection_is_resumed_where_it_broke(server, output, caplog):
    server.acts = [act(until=HALF)]
    get(server, output)
    assert "a.zip: the connection broke, with 0.1 MB here; next try in 0 s" in caplog.text
    assert server.seen == [("/a.zip", None), ("/a.zip", f"bytes={HALF}-")]
    assert only_the_file(output)


def test_later_call_resumes_what_an_earlier_one_left(server, output):
    break_off(server, output)
    get(server, output)
    assert server.seen == [("/a.zip", f"bytes={HALF}-")]
    assert only_the_file(output)


def test_connection_that_breaks_often_but_gains_bytes_is_not_given_up(server, output):
    server.acts = [act(until=65536 * n) for n in range(1, 5)]
    get(server, output, patience=Patience(retries=1, pause=0))
    assert len(server.seen) == 5 and only_the_file(output)


def test_server_without_ranges_starts_over(server, output):
    server.acts = [act(until=HALF), act(ranges=False)]
    get(server, output)
    assert only_the_file(output)


def test_file_changed_between_attempts_starts_over(server, output):
    server.acts = [act(content=OTHER, until=HALF, etag='"old"')]
    get(server, output)
    assert server.seen[1] == ("/a.zip", f"bytes={HALF}-") and server.validators[1] == '"old"'
    assert only_the_file(output)


def test_weak_etag_gives_way_to_the_date(server, output):
    date = "Mon, 01 Jan 2024 00:00:00 GMT"
    server.acts = [act(until=HALF, etag='W/"1"', headers=[("Last-Modified", date)])]
    get(server, output)
    assert server.validators == [None, date] and only_the_file(output)


def test_file_that_grew_on_a_server_without_validators_starts_over(server, output):
    server.acts = [act(content=OTHER[:-9], until=HALF, etag=None)]
    get(server, output)
    assert only_the_file(output)


def test_partial_file_that_went_bad_on_disk_is_fetched_anew(server, output):
    break_off(server, output)
    (part,) = output.parent.glob("*.part")
    part.write_bytes(bytes(HALF))
    get(server, output)
    assert [span for _, span in server.seen] == [f"bytes={HALF}-", None]
    assert only_the_file(output)


def test_partial_file_without_its_note_is_not_trusted(server, output):
    break_off(server, output)
    next(output.parent.glob("*.part.json")).unlink()
    get(server, output)
    assert server.seen == [("/a.zip", None)] and only_the_file(output)


def test_partial_file_longer_than_the_file_starts_over(server, output):
    break_off(server, output)
    server.acts = [answer(416)]
    get(server, output)
    assert server.seen[1] == ("/a.zip", None) and only_the_file(output)


def test_whole_partial_file_is_verified_without_a_request(server, output):
    break_off(server, output)
    next(output.parent.glob("*.part")).write_bytes(CONTENT)
    get(server, output)
    assert server.seen == [] and only_the_file(output)


def test_mirror_goes_on_with_what_the_first_address_gave(server, output):
    server.acts = [act(until=HALF), answer(404), act(etag='"mirror"')]
    get(server, output, "mirror/a.zip")
    assert server.seen[2] == ("/mirror/a.zip", f"bytes={HALF}-")
    assert server.validators[2] is None  # it may have another ETag for the same bytes
    assert only_the_file(output)


def test_bytes_sent_compressed_are_kept_as_sent(server, output):
    server.acts = [act(headers=[("Content-Encoding", "gzip")])] * 9
    get(server, output)
    assert only_the_file(output)


# trying again


@pytest.mark.parametrize("status", [503, 500, 429, 408])
def test_busy_server_is_asked_again(server, output, status):
    server.acts = [answer(status), answer(status, Retry_After="0")]
    get(server, output)
    assert len(server.seen) == 3 and only_the_file(output)


def test_server_that_asks_for_a_long_wait_is_left_for_the_mirror(server, output):
    server.acts = [answer(503, Retry_After="9000")]
    get(server, output, "mirror.zip")
    assert [path for path, _ in server.seen] == ["/a.zip", "/mirror.zip"]


def test_pauses_double_and_the_server_may_set_them(server, output, monkeypatch):
    pauses = []
    monkeypatch.setattr("quicknat.transfer.time.sleep", pauses.append)
    server.acts = [answer(503)] * 4 + [answer(429, Retry_After="7")]
    get(server, output, patience=Patience(retries=5, pause=1))
    assert pauses == [0, 2, 4, 8, 7]


def test_server_that_stays_busy_is_given_up(server, output):
    server.acts = [answer(503)] * 9
    with pytest.raises(InputError, match=r"answers 503 Service Unavailable, 4 times"):
        get(server, output)
    assert len(server.seen) == 4


def test_stalled_transfer_is_resumed(server, output):
    released = threading.Event()

    def stall(handler):
        serve(handler, until=HALF)
        released.wait(20)

    server.acts = [stall]
    get(server, output, patience=Patience(pause=0, stall=0.1))
    released.set()
    assert server.seen[1] == ("/a.zip", f"bytes={HALF}-") and only_the_file(output)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_permanent_refusal_goes_to_the_mirror_at_once(server, output, status):
    server.acts = [answer(status), answer(status)]
    get(server, output, "b.zip", "c.zip")
    assert [path for path, _ in server.seen] == ["/a.zip", "/b.zip", "/c.zip"]
    assert only_the_file(output)


def test_failure_names_every_address_and_its_reason_in_one_line(server, output):
    server.acts = [answer(404), answer(410)]
    with pytest.raises(InputError, match=r"a\.zip: .* 404 .*b\.zip: .* 410") as caught:
        get(server, output, "b.zip")
    assert "\n" not in str(caught.value)
    assert not output.exists()


def test_address_where_nothing_listens_is_named_with_the_reason_and_no_secret(output):
    address = "http://me:pass@127.0.0.1:9/a?key=pass"
    with pytest.raises(InputError) as caught:
        download("http", address, SHA256, output, patience=Patience(retries=1, pause=0))
    assert str(caught.value).startswith("http://127.0.0.1:9/a?…: Connection refused, 2 times;")


# what came is not what was wanted


@pytest.mark.case(53)
def test_wrong_bytes_are_removed_and_named(server, output):
    server.acts = [act(content=OTHER)]
    with pytest.raises(InputError, match=r"a\.zip: the sha256 of what came is .* \(removed\)"):
        get(server, output)
    assert not output.exists() and not list(output.parent.glob("*.part*"))


@pytest.mark.case(53)
def test_wrong_bytes_go_to_the_mirror(server, output):
    server.acts = [act(content=OTHER)]
    get(server, output, "mirror.zip")
    assert only_the_file(output)


PAGES = {
    "doctype": b"<!DOCTYPE html>\n<html><body>log in</body></html>",
    "xhtml": b'\xef\xbb\xbf<?xml version="1.0"?>\n<html xmlns="...">',
}


@pytest.mark.case(53)
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("checksum", ["of the archive", "of the page"])
def test_web_page_is_recognised_even_if_the_checksum_is_its_own(server, output, page, checksum):
    content = PAGES[page]
    server.acts = [act(content=content)]
    right = SHA256 if "archive" in checksum else f"md5:{hashlib.md5(content).hexdigest()}"
    with pytest.raises(InputError, match="a web page came"):
        get(server, output, checksum=right)
    assert not output.exists()


def test_lfs_pointer_is_recognised(server, output):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid {SHA256}\nsize 300000\n"
    server.acts = [act(content=pointer.encode())]
    with pytest.raises(InputError, match="a Git LFS pointer came"):
        get(server, output)


@pytest.mark.case(51)
def test_too_little_room_is_said_before_anything_comes(server, output, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 200_000))
    with pytest.raises(InputError, match=r"0\.3 MB more are needed .* 0\.2 MB are free"):
        get(server, output)
    assert sum(path.stat().st_size for path in output.parent.glob("*.part")) == 0


def test_room_is_needed_only_for_the_missing_part(server, output, monkeypatch):
    break_off(server, output)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 200_000))
    get(server, output)
    assert only_the_file(output)


@pytest.mark.parametrize(
    "kind, url", [("demo", ""), ("https", "http://h/a"), ("http", "a==1"), ("pypi", "/a==1")]
)
def test_kind_that_is_not_that_of_the_url_is_refused(output, kind, url):
    with pytest.raises(InputError, match=f"kind '{kind}' cannot be downloaded"):
        download(kind, url, SHA256, output)


@pytest.mark.parametrize("mirror", ["ftp://me:pass@h/a.zip", "/mnt/a.zip", "--pre", "pack"])
def test_mirror_that_is_no_address_is_refused_before_anything_is_fetched(output, mirror):
    with pytest.raises(InputError, match="is no address of a mirror; must begin with") as caught:
        download("https", "https://x.invalid/a", SHA256, output, [mirror])
    assert "pass" not in str(caught.value)


# at once


@pytest.mark.case(52)
def test_second_download_of_a_file_waits_for_the_first_and_finds_it_done(server, output, caplog):
    waiting = threading.Event()

    class Notice(logging.Handler):
        def emit(self, record):
            if "waiting for another job" in record.getMessage():
                waiting.set()

    def hold(handler):
        assert waiting.wait(20)
        serve(handler)

    server.acts = [hold]
    caplog.set_level(logging.INFO)
    notice = Notice()
    fetch.log.addHandler(notice)
    threads = [threading.Thread(target=get, args=(server, output)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fetch.log.removeHandler(notice)
    assert len(server.seen) == 1 and only_the_file(output)


@pytest.mark.case(47)
def test_lock_of_a_process_that_was_killed_holds_nobody(server, output):
    output.parent.mkdir()
    code = (
        "import filelock, os, sys; lock = filelock.FileLock(sys.argv[1]);"
        " lock.acquire(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(output.with_name(".a.lock"))])
    assert output.with_name(".a.lock").exists()
    get(server, output)
    assert only_the_file(output)


# without a network


@pytest.fixture
def by_hand(tmp_path):
    folder = tmp_path / "by hand"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    "kind, url, name",
    [
        ("https", "https://example.org/d/disc%201.tar.gz?x=1", "disc 1.tar.gz"),
        ("file", "file:///nowhere/a[1].zip", "a[1].zip"),
        ("npm", "@lab/viewer@1.0.0/dist/viewer.umd.js", "viewer.umd.js"),
        ("pypi", "Some-Pack.age==1.0", "some_pack_age-1.0-py3-none-any.whl"),
    ],
)
def test_file_fetched_by_hand_is_used_for_every_kind(by_hand, output, kind, url, name):
    (by_hand / name).write_bytes(CONTENT)
    download(kind, url, SHA256, output, downloads=by_hand, offline=True)
    assert only_the_file(output)
    assert (by_hand / name).read_bytes() == CONTENT


def test_of_several_wheels_the_one_with_the_right_checksum_is_used(by_hand, output):
    for name, content in (("a", OTHER), ("b", CONTENT)):
        (by_hand / f"pack-1.0-cp311-cp311-{name}.whl").write_bytes(content)
    (by_hand / "pack-1.0.1-py3-none-any.whl").write_bytes(OTHER)
    download("pypi", "pack==1.0", SHA256, output, downloads=by_hand)
    assert only_the_file(output)


def test_file_fetched_by_hand_is_verified_and_not_replaced_by_the_network(server, by_hand, output):
    (by_hand / "a.zip").write_bytes(OTHER)
    with pytest.raises(InputError, match=r"by%20hand/a\.zip: the sha256"):
        get(server, output, downloads=by_hand)
    assert server.seen == [] and not output.exists()


def test_what_was_not_fetched_by_hand_comes_from_the_network(server, by_hand, output):
    get(server, output, downloads=by_hand)
    assert only_the_file(output)


@pytest.mark.parametrize(
    "kind, url, name",
    [("https", "https://h/d/a.tgz", "a.tgz"), ("pypi", "my-pack==1.0", r"my_pack-1.0-\*.whl")],
)
def test_offline_says_at_once_where_to_put_the_file(output, kind, url, name):
    with pytest.raises(InputError, match=f"offline; put {name} into .* QUICKNAT_DOWNLOADS"):
        download(kind, url, SHA256, output, offline=True)


def test_offline_may_use_a_mirror_on_disk(tmp_path, output):
    (tmp_path / "m.zip").write_bytes(CONTENT)
    mirrors = [(tmp_path / "m.zip").as_uri()]
    download("https", "https://h/a.zip", SHA256, output, mirrors, offline=True)
    assert only_the_file(output)


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
        ("@lab/viewer@1.0.0/a.js", "@lab/viewer@1.0.0/a.js"),
        ("me:pass@10.0.0.1/a.js", "10.0.0.1/a.js"),
    ],
)
def test_addresses_are_shown_without_secrets(address, shown):
    assert public(address) == shown


def test_no_message_and_no_file_holds_a_password(server, output, caplog):
    caplog.set_level(logging.INFO)
    server.acts = [act(until=HALF), answer(503), answer(404), answer(503), answer(401)]
    server.address = server.address.replace("//", "//me:pass@")
    with pytest.raises(InputError) as caught:
        get(server, output, "b.zip?key=pass", path="a.zip?key=pass")
    assert "401" in str(caught.value) and "pass" not in str(caught.value)
    assert "next try" in caplog.text and "pass" not in caplog.text
    (note,) = output.parent.glob("*.json")
    assert "pass" not in note.read_text() and json.loads(note.read_text())["total"] == len(CONTENT)


def test_log_has_plain_lines_of_progress(server, output, caplog):
    caplog.set_level(logging.INFO)
    get(server, output, patience=Patience(report=0))
    lines = re.findall(r"a\.zip: (\d\.\d) of 0\.3 MB, \d+\.\d MB/s", caplog.text)
    assert lines == sorted(lines) and lines[-1] == "0.3" and len(lines) > 2


@pytest.fixture
def command(tmp_path, by_hand, output):
    """`quicknat download` of a source that no network gives, with an environment of choice."""
    table = tmp_path / "sources.tsv"
    table.write_text(
        "source\tkind\turl\tmirrors\tchecksum\n"
        f"one\thttps\thttps://x.invalid/a.zip\tfile:///no, {by_hand.as_uri()}/mirror\t{SHA256}\n"
        f"two\thttps\thttps://x.invalid/a.zip\t\t{SHA256}\n"
    )

    def run(source, *options, **environment):
        arguments = ["download", str(table), source, "--output", str(output), *options]
        return CliRunner().invoke(app, arguments, env=environment)

    return run


def test_command_tries_the_mirrors_of_the_row(command, by_hand, output):
    (by_hand / "mirror").write_bytes(CONTENT)
    assert command("one", QUICKNAT_OFFLINE="1").exit_code == 0
    assert only_the_file(output)


def test_command_takes_what_was_fetched_by_hand(command, by_hand, output):
    (by_hand / "a.zip").write_bytes(CONTENT)
    assert command("two", QUICKNAT_DOWNLOADS=str(by_hand)).exit_code == 0
    assert only_the_file(output)


@pytest.mark.parametrize("options, environment", [(["--offline"], {}), ([], {"OFFLINE": "1"})])
def test_command_is_offline_by_option_or_environment(command, options, environment):
    environment = {f"QUICKNAT_{name}": value for name, value in environment.items()}
    done = command("two", *options, QUICKNAT_DOWNLOADS="", **environment)
    assert "cannot be fetched offline" in str(done.exception)


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


def test_file_without_a_published_checksum_is_taken_with_a_warning(server, output, caplog):
    get(server, output, checksum="unpublished")
    assert output.read_bytes() == CONTENT
    assert "no checksum is known" in caplog.text and SHA256 in caplog.text


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
