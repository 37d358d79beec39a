"""Over http: resumed where it broke, tried again, given up with the reason."""

import logging
import re
import shutil
import threading
from collections import namedtuple

import pytest

from file_server import (
    CONTENT,
    HALF,
    OTHER,
    SHA256,
    act,
    answer,
    break_off,
    get,
    only_the_file,
    serve,
)
from quicknat.download.fetch import download
from quicknat.download.transfer import Patience
from quicknat.errors import InputError

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
    monkeypatch.setattr("quicknat.download.transfer.time.sleep", pauses.append)
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


# room


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


# what is said


def test_log_has_plain_lines_of_progress(server, output, caplog):
    caplog.set_level(logging.INFO)
    get(server, output, patience=Patience(report=0))
    lines = re.findall(r"a\.zip: (\d\.\d) of 0\.3 MB, \d+\.\d MB/s", caplog.text)
    assert lines == sorted(lines) and lines[-1] == "0.3" and len(lines) > 2
