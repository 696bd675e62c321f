"""docs/trained-models.md: its commands do what the page says they do."""

from __future__ import annotations

from pathlib import Path

from tests.page_blocks import ROOT, follow  # pyright: ignore[reportMissingImports]


def test_the_page_is_followed(tmp_path: Path) -> None:
    text, folder = (ROOT / "docs" / "trained-models.md").read_text(encoding="utf-8"), tmp_path / "reader"
    before, middle, after = text.partition("In place of `RUN`")
    assert follow(before, folder) == {"bash": 1, "python": 1}
    run = next(folder.glob("results/*/result.json")).parent.name
    assert follow((middle + after).replace("RUN", run[:8]), folder) == {"bash": 1, "text": 1}
    assert (folder / "exported" / "predict.py").is_file()
    assert len(list(folder.glob("results/*/result.json"))) == 2
