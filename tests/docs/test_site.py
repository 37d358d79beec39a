"""The built documentation, whose links `mkdocs build --strict` checks: nothing is of a network."""

import os
import re
import subprocess
import sys
from urllib.parse import urldefrag

import pytest

from helpers import LABELS, ROOT

pytestmark = pytest.mark.slow
NO_NETWORK = """
import runpy, socket, sys
def refuse(*arguments): raise OSError(f"no network here: {arguments}")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
sys.argv[0] = "mkdocs"
runpy.run_module("mkdocs", run_name="__main__")
"""


# what a browser loads when it shows a page; by other links it says where it is and what comes next
LOADED = re.compile(
    r"<(?:(?:script|img|iframe|source)[^>]*? src|link(?![^>]* rel=\"(?:canonical|prev|next)\")"
    r"[^>]*? href)=\"([^\"]*)\""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-c", NO_NETWORK, "build", "--strict", "--site-dir", str(folder)]
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: path.read_text() for path in site.rglob("*.html") if path.name != "404.html"}


def test_pages_load_files_of_the_site_only(site, pages):
    loaded = {(path, link) for path, text in pages.items() for link in LOADED.findall(text)}
    assert len(loaded) > len(pages)
    for path, address in loaded:
        local = address.startswith("data:") or (path.parent / urldefrag(address)[0]).is_file()
        assert local, f"{path.name}: {address}"
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?(https?:)?//", path.read_text()), path.name


def test_equations_are_mathml_and_none_is_left_as_source(pages):
    (method,) = (text for path, text in pages.items() if path.name == "method.html")
    assert method.count('display="block"') >= 8
    for path, text in pages.items():
        assert "$`" not in text and "\\frac" not in text, path.name
        assert not re.search(r'</p>\s*(<span>)?<math [^>]*"inline"', text), path.name


REFERENCE = {  # by page, one of each kind of row
    "cli": ['id="quicknat-segment"', 'id="quicknat-cite"', "<code>--label-convention"],
    "config": ['id="training"', "<code>spacing_mm</code>", "<code>new_scans</code>"],
    "sheet": ["<code>label_convention</code>", "<code>participant</code>"],
    "sources": ["<code>checksum</code>", "<td>img2fmri</td>"],
    "labels": [f'id="{path.stem}"' for path in LABELS.glob("*.tsv")],
}


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_is_made_of_the_code(site, name):
    text = (site / f"reference/{name}.html").read_text()
    assert [row for row in REFERENCE[name] if row not in text] == [] and str(ROOT) not in text
