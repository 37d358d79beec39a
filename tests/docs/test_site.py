"""The built documentation, whose links `mkdocs build --strict` checks: nothing is of a network."""

import os
import re
import subprocess
import sys
from urllib.parse import urldefrag

import pytest
import typer

from helpers import LABELS, ROOT
from quicknat.cli import app
from quicknat.cohort.sheet import SCANS, SOURCES
from quicknat.config import Config
from quicknat.validation import section_model

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
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: path.read_text() for path in site.rglob("*.html") if path.name != "404.html"}


def text_of(site, name):
    return (site / "reference" / f"{name}.html").read_text()


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
