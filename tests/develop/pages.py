"""Blocks of docs/develop.md, for the tests that follow its recipes."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "develop.md"


def blocks(heading: str, language: str = "python") -> list[str]:
    """The code blocks of a language below ``## heading``, in order. Raises KeyError where there is none."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    if not found:
        raise KeyError(f"docs/develop.md has no {language} block below '## {heading}'")
    return found
