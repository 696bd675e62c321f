"""docs/protocols.md: its commands do what the page says they do."""

from __future__ import annotations

from pathlib import Path

from tests.page_blocks import ROOT, follow  # pyright: ignore[reportMissingImports]


def test_the_page_is_followed(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    assert follow(text, tmp_path / "reader") == {"bash": 13, "python": 1, "text": 8}
