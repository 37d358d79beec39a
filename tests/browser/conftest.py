"""Headless Chromium for the report's pages, opened from disk as readers do."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
# WebGL rendered on the CPU, since test machines have no graphics
ARGUMENTS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
WITHIN_MS = 60_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here starts a browser or waits for one."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@dataclass
class Opened:
    """A page, and what happened on it."""

    page: object  # playwright's Page
    folder: Path
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def outside(self) -> list[str]:
        """Requests for anything but files of the page's folder and data that it brings itself."""
        own = (f"{self.folder.resolve().as_uri()}/", "data:", "blob:")
        return [request for request in self.requests if not request.startswith(own)]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Callable]:
    """Start a browser with these arguments more; all end with the driver."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"there is no browser here: no {', '.join(NAMES)}")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with api.sync_playwright() as playwright:

        @functools.cache
        def start(*arguments: str):
            every = [*ARGUMENTS, *root, *arguments]
            return playwright.chromium.launch(executable_path=program, args=every)

        yield start


@pytest.fixture
def browse(chromium: Callable) -> Iterator[Callable[..., Opened]]:
    """Open a page of a folder: no error may occur on it, and no request may leave the folder."""
    opened = []

    def open_page(path: Path, *arguments: str, **context: object) -> Opened:
        page = chromium(*arguments).new_page(**context)
        page.set_default_timeout(WITHIN_MS)
        one = Opened(page, path.parent)
        opened.append(one)
        page.on("console", lambda m: one.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: one.errors.append(str(error)))
        page.on("request", lambda request: one.requests.append(request.url))
        page.goto(path.resolve().as_uri())
        return one

    yield open_page
    for one in opened:
        one.page.close()
    assert [one.errors for one in opened if one.errors] == []
    assert [one.outside() for one in opened if one.outside()] == []
