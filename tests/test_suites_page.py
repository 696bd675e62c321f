"""docs/suites.md: its files and commands do what the page says they do."""

from __future__ import annotations

from pathlib import Path

from tests.page_blocks import ROOT, follow  # pyright: ignore[reportMissingImports]


def test_the_page_is_followed(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "suites.md").read_text(encoding="utf-8")
    folder = tmp_path / "reader"
    assert follow(text, folder) == {"bash": 6, "yaml": 4, "text": 4}
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "imagefolder, 5 tasks" in page and "Prompts on my birds (2 of 3 rows)" in page
