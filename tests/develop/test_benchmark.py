"""The recipe "A benchmark" of docs/develop.md does what it says."""

from __future__ import annotations

from pathlib import Path

from tests.develop.pages import PAGE  # pyright: ignore[reportMissingImports]
from tests.page_blocks import follow  # pyright: ignore[reportMissingImports]


def test_the_recipe_does_what_it_says(tmp_path: Path) -> None:
    section = PAGE.read_text(encoding="utf-8").partition("\n## A benchmark\n")[2].partition("\n## ")[0]
    assert follow(section, tmp_path / "mine") == {"python": 3, "bash": 2, "text": 2}
