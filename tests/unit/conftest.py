"""A local HTTP server for the tests of downloads, and a cohort for those of checking."""

import http.server
import threading

import pytest

from cohort_folder import Cohort
from file_server import serve
from quicknat.download import fetch


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
def server(running, monkeypatch):
    """A server that does `acts` in turn, then serves the file; asked four times without pauses.

    `seen` are the paths and ranges asked for, `validators` their If-Range.
    """
    monkeypatch.setattr(fetch, "RETRY", fetch.RETRY.new(total=3, backoff_factor=0))
    running.acts, running.seen, running.validators = [], [], []
    running.address = f"http://127.0.0.1:{running.server_port}"
    return running


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out" / "a"


@pytest.fixture
def by_hand(tmp_path):
    folder = tmp_path / "by hand"
    folder.mkdir()
    return folder


@pytest.fixture
def cohort(tmp_path):
    return Cohort(tmp_path)
