"""Chromium for the tests of the page."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page

FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip


def find_chromium() -> str:
    """Chromium's executable: SMOPE_CHROMIUM or the one on the path. Skips the test, or fails it where a browser is required."""
    found = os.environ.get("SMOPE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        reason = "no Chromium: install Debian's package chromium, or name the executable in SMOPE_CHROMIUM"
        if os.environ.get("SMOPE_BROWSER") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@dataclass
class Tab:
    """A page in the browser with everything that it complained of or asked for."""

    page: Page
    complaints: list[str]
    requests: list[str]

    def texts(self, selector: str) -> list[str]:
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]
