"""Pages opened in Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.reports.writers.chromium import FLAGS, Tab, find_chromium  # pyright: ignore[reportMissingImports]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = find_chromium()
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def visit(browser):
    """Opens a file at a width; closed after the test."""
    contexts = []

    def open_file(file: Path, width: int = 1280, **options: object) -> Tab:
        context = browser.new_context(viewport={"width": width, "height": 900 if width > 600 else 844}, **options)
        contexts.append(context)
        page = context.new_page()
        tab = Tab(page, [], [])
        page.on("console", lambda message: tab.complaints.append(message.text))
        page.on("pageerror", lambda error: tab.complaints.append(str(error)))
        page.on("dialog", lambda dialog: tab.complaints.append(dialog.message) or dialog.dismiss())
        page.on("request", lambda request: tab.requests.append(request.url))
        page.goto(file.as_uri())
        return tab

    yield open_file
    for context in contexts:
        context.close()
