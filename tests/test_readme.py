"""The README's generated parts are what the code would generate today."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.method_table import built_in_table, markdown, renewed

README = Path(__file__).parents[1] / "README.md"


def test_the_method_table_is_generated_from_the_registry() -> None:
    text = README.read_text(encoding="utf-8")
    assert renewed(text, built_in_table()) == text, "run python -m harness.method_table README.md"


def test_methods_come_before_floors_and_links_are_links() -> None:
    row = {"summary": "s", "url": None, "code": None, "paper": None, "kind": "floor", "title": "F", "name": "f"}
    method = row | {"name": "m", "kind": "method", "title": "M", "url": "https://p", "code": "https://c", "paper": "P"}
    assert markdown([row, method]).splitlines()[2:] == [
        "| `m` | M: s | [P](https://p) | [code](https://c) |",
        "| `f` | F (floor): s |  |  |",
    ]


def test_a_text_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="marks"):
        renewed("nothing here", "")
