"""docs/watching.md, followed as it stands."""

import re
from pathlib import Path

from tests.page_blocks import follow  # pyright: ignore[reportMissingImports]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "watching.md"


def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert follow(text, tmp_path / "reader")["bash"] == 2
    written = {file.name for file in (tmp_path / "reader" / "results" / "tracked" / "csv").iterdir()}
    assert "runs.csv" in written and sum(bool(re.fullmatch(r"[0-9a-f]{16}\.csv", name)) for name in written) == 2
    assert len(list((tmp_path / "reader" / "curves" / "tensorboard").iterdir())) == 2
