"""The built documentation: every link leads somewhere, nothing comes from a network."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
import typer

from helpers import LABELS, ROOT
from quicknat.cli import app
from quicknat.cohort.sheet import SCANS, SOURCES
from quicknat.config import Config
from quicknat.validation import section_model

pytestmark = pytest.mark.slow
# the tag's attribute that a browser loads when it shows the page
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
NO_NETWORK = """
import runpy, socket, sys
def refuse(*arguments): raise OSError(f"no network here: {arguments}")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
sys.argv[0] = "mkdocs"
runpy.run_module("mkdocs", run_name="__main__")
"""


class Page(HTMLParser):
    """Names that links can lead to, links, and what is loaded."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loaded = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids.add(values.get("id"))
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        # a page says by such links where it is and what comes next; nothing is loaded
        ignored = values.get("rel") in ("canonical", "prev", "next")
        if (address := values.get(LOADED.get(tag))) and not ignored:
            self.loaded.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-c", NO_NETWORK, "build", "--strict", "--site-dir", str(folder)]
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {
        path: Page(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"
    }


def text_of(site, name):
    return (site / "reference" / f"{name}.html").read_text()


def test_every_link_within_the_site_leads_to_a_file_and_a_place_in_it(pages):
    broken = []
    for path, page in pages.items():
        for link in page.links:
            address, place = urldefrag(link)
            if urlsplit(link).scheme:
                continue
            target = (path.parent / unquote(address)).resolve() if address else path
            if not target.is_file() or (place and unquote(place) not in pages[target].ids):
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_pages_load_files_of_the_site_only(site, pages):
    loaded = {(path, address) for path, page in pages.items() for address in page.loaded}
    assert len(loaded) > len(pages)
    for path, address in loaded:
        local = address.startswith("data:") or (path.parent / urldefrag(address)[0]).is_file()
        assert local, f"{path.name}: {address}"
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?(https?:)?//", path.read_text()), path.name


def test_equations_are_mathml_and_none_is_left_as_source(pages):
    text = next(p for p in pages if p.name == "method.html").read_text()
    assert text.count('display="block"') >= 8
    for path in pages:
        assert "$`" not in path.read_text() and "\\frac" not in path.read_text(), path.name
        assert not re.search(r'</p>\s*(<span>)?<math [^>]*"inline"', path.read_text()), path.name


def test_reference_has_every_command_and_option(site):
    text = text_of(site, "cli")
    for name, command in typer.main.get_command(app).commands.items():
        assert f'id="quicknat-{name}"' in text
        for option in command.params:
            assert not option.opts[0].startswith("-") or f"<code>{option.opts[0]}" in text, name
    assert str(ROOT) not in text


def test_reference_has_every_setting_column_label_table_and_source(site):
    sections = [section_model(field) or Config for field in Config.model_fields.values()]
    wanted = {"config": {key for section in sections for key in section.model_fields}}
    tables = {"sheet": SCANS, "sources": SOURCES}
    wanted |= {name: set(rows.json_schema()["properties"]) for name, rows in tables.items()}
    for name, keys in wanted.items():
        text = text_of(site, name)
        said = set(re.findall(r"<tr>\s*<td><code>(\w+)</code>", text))
        assert keys <= said | set(re.findall(r'<h2 id="(\w+)"', text))
    for path in LABELS.glob("*.tsv"):
        assert f'id="{path.stem}"' in text_of(site, "labels")
    sources = (ROOT / "workflow/sources.tsv").read_text().splitlines()[1:]
    assert all(f"<td>{line.split(chr(9))[0]}</td>" in text_of(site, "sources") for line in sources)
