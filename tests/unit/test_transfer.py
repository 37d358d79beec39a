"""Over http: resumed where it broke, tried again, given up with the reason."""

import logging
import re
import shutil
import threading
import time
from types import SimpleNamespace

import pytest

from file_server import CONTENT, HALF, OTHER, act, answer, break_off, get, only_the_file, serve
from quicknat.download import fetch
from quicknat.download.fetch import download
from quicknat.errors import InputError

START, REST = ("/a.zip", None), ("/a.zip", f"bytes={HALF}-")  # what is asked for

MIRROR = "/mirror/a.zip"
SERVERS = {  # what a server does, and what it is then asked for
    "breaks off": ([act(until=HALF)], [START, REST]),
    "has no ranges": ([act(until=HALF), act(ranges=False)], [START, REST]),
    "says that it sends compressed bytes": (
        [act(headers=[("Content-Encoding", "gzip")])], [START],
    ),
    "breaks off and is gone, has a mirror": (
        [act(until=HALF), answer(404), act(etag='"mirror"')], [START, REST, (MIRROR, REST[1])],
    ),
    "stays busy, has a mirror": ([answer(503)] * 4, [START] * 4 + [(MIRROR, None)]),
    "refuses, has a mirror": ([answer(403)], [START, (MIRROR, None)]),
    **{
        f"is busy: {status}": (
            [answer(status), answer(status, Retry_After="no number")], [START] * 3,
        )
        for status in (503, 500, 429, 408)
    },
}  # fmt: skip


@pytest.mark.parametrize("what", SERVERS)
def test_file_is_whole_whatever_the_server_does(server, output, caplog, what):
    server.acts, asked = list(SERVERS[what][0]), SERVERS[what][1]
    get(server, output, *["mirror/a.zip"] * ("mirror" in what))
    assert server.seen == asked and only_the_file(output)
    if what == "breaks off":
        assert re.search(r"a\.zip: .*, after 0\.1 MB; trying again", caplog.text)


# resuming


@pytest.mark.parametrize("how", [{}, {"checksum": "unpublished"}], ids=["known", "none"])
def test_later_call_resumes_what_an_earlier_one_left(server, output, how):
    break_off(server, output, **how)
    get(server, output, **how)
    assert server.seen == [REST] and only_the_file(output)


def test_connection_that_breaks_often_but_gains_bytes_is_not_given_up(server, output, monkeypatch):
    monkeypatch.setattr(fetch, "RETRY", fetch.RETRY.new(total=1))
    server.acts = [act(until=65536 * n) for n in range(1, 5)]
    get(server, output)
    assert len(server.seen) == 5 and only_the_file(output)


def test_pieces_of_two_versions_are_never_put_together(server, output):
    server.acts = [act(content=OTHER, until=HALF, etag='"old"')]
    with pytest.raises(InputError, match=r"its sha256 is .* \(removed\); fetch again"):
        get(server, output)
    assert not output.exists()
    get(server, output)
    assert server.seen == [START, REST, START] and only_the_file(output)


@pytest.mark.parametrize(
    "old, new, validator",
    [
        ({"etag": '"old"'}, {}, '"old"'),
        ({"etag": 'W/"1"', "headers": [("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")]}, {},
         "Mon, 01 Jan 2024 00:00:00 GMT"),
        ({"etag": 'W/"1"'}, {"etag": 'W/"1"'}, None),
        ({"etag": None}, {"etag": None}, None),
    ],
)  # fmt: skip
def test_without_a_checksum_the_server_has_to_confirm_the_version(
    server, output, old, new, validator
):
    server.acts = [act(content=OTHER, until=HALF, **old), act(**new)]
    get(server, output, checksum="unpublished")
    assert server.validators == [None, validator] and only_the_file(output)


@pytest.mark.parametrize(
    ("content", "requests"),  # the second request is for all of the file
    [(bytes(HALF), 2), (CONTENT, 1), (CONTENT + b"1", 2)],
    ids=["went bad on disk", "is whole", "is too long"],
)
def test_partial_file_is_used_if_it_fits(server, output, content, requests):
    break_off(server, output)
    next(output.parent.glob("*.part")).write_bytes(content)
    if len(content) > HALF:
        server.acts = [answer(416, Content_Range=f"bytes */{len(CONTENT)}")]
    get(server, output)
    assert len(server.seen) == requests and only_the_file(output)


# trying again


def test_pauses_double_and_the_server_may_set_them(server, output, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(fetch, "RETRY", fetch.RETRY.new(total=6, backoff_factor=1))
    asked = [answer(429, Retry_After=after) for after in ("7", "9000")]
    server.acts = [answer(503)] * 4 + asked
    get(server, output)
    assert pauses == [2, 4, 8, 7, 120]  # the first retry follows at once


def test_stalled_transfer_is_resumed(server, output, monkeypatch):
    released = threading.Event()

    def stall(handler):
        serve(handler, until=HALF)
        released.wait(20)

    server.acts = [stall]
    monkeypatch.setattr(fetch, "TIMEOUTS", (5, 0.1))
    get(server, output)
    released.set()
    assert server.seen[1] == REST and only_the_file(output)


def test_every_reason_is_named(server, output):
    server.acts = [*[answer(503)] * 4, answer(410)]
    reasons = r"a\.zip: .*responded 503 Service Unavailable \(tried 4 times\).*b\.zip: .* 410"
    with pytest.raises(InputError, match=reasons) as caught:
        get(server, output, "b.zip")
    assert "\n" not in str(caught.value) and not output.exists()


@pytest.mark.parametrize(
    "address, said",
    [
        ("http://me:pass@127.0.0.1:9/a?key=pass", "http://127.0.0.1:9/a?…: Connection refused (t"),
        ("http://me:pass@127.0.0.1:99999/a", "http://…: InvalidURL;"),
    ],
)
def test_address_that_cannot_be_asked_is_named_with_the_reason_and_no_secret(
    server, output, address, said
):
    with pytest.raises(InputError) as caught:
        download(address, "unpublished", output)
    assert str(caught.value).startswith(said) and "pass" not in str(caught.value)


# room


@pytest.mark.case(51)
def test_too_little_room_is_said_before_anything_comes(server, output, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=200_000))
    with pytest.raises(InputError, match=r"0\.3 MB more are needed, .* 0\.2 MB are free"):
        get(server, output)
    assert sum(path.stat().st_size for path in output.parent.glob("*.part")) == 0
    (part,) = output.parent.glob("*.part")
    part.write_bytes(CONTENT[:HALF])  # then there is room for what is missing
    get(server, output)
    assert only_the_file(output)


# what is said


def test_log_has_plain_lines_of_progress(server, output, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(fetch, "REPORT_EVERY", 0)
    get(server, output)
    lines = re.findall(r"a\.zip: (\d\.\d) of 0\.3 MB, \d+\.\d MB/s", caplog.text)
    assert lines == sorted(lines) and lines[-1] == "0.3" and len(lines) > 2
