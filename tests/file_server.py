"""A local HTTP server that misbehaves as told, and a download from it."""

import hashlib
import random
import re

import pytest

from quicknat.download.fetch import download
from quicknat.errors import InputError

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
HALF = 2 * 65536  # bytes that arrive before a connection breaks: whole chunks
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


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


def get(server, output, *mirrors, path="a.zip", checksum=SHA256, **options):
    """Download from the server, where mirrors are other paths."""
    first, *others = [f"{server.address}/{name}" for name in (path, *mirrors)]
    download(first, checksum, output, others, **options)


def only_the_file(output):
    return output.read_bytes() == CONTENT and list(output.parent.iterdir()) == [output]


def break_off(server, output, checksum=SHA256):
    """A first call that gets half of the file, and no more."""
    server.acts = [act(until=HALF), answer(404)]
    with pytest.raises(InputError, match="404"):
        get(server, output, checksum=checksum)
    server.seen.clear()
