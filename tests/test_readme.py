"""The README's generated parts are what the code would generate today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from smope_bench.benchmarks.suites import SUITES
from smope_bench.harness.maintenance.docs_tables import METHODS, built_in_methods, method_table, renewed
from smope_bench.run_all import default, make_app

README = Path(__file__).parents[1] / "README.md"


def test_the_method_table_is_generated_from_the_registry() -> None:
    text = README.read_text(encoding="utf-8")
    assert renewed(text, built_in_methods(), METHODS) == text, (
        "run python -m smope_bench.harness.maintenance.docs_tables"
    )


def test_methods_come_before_floors_and_links_are_links() -> None:
    row = {"summary": "s", "url": None, "code": None, "paper": None, "kind": "floor", "title": "F", "name": "f"}
    method = row | {"name": "m", "kind": "method", "title": "M", "url": "https://p", "code": "https://c", "paper": "P"}
    assert method_table([row, method]).splitlines()[2:] == [
        "| `m` | M: s | [P](https://p) | [code](https://c) |",
        "| `f` | F (floor): s |  |  |",
    ]


def test_a_text_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="marks"):
        renewed("nothing here", "", METHODS)


def test_every_paper_suite_has_a_row_and_its_tiny_form_a_time() -> None:
    text = (README.parent / "docs" / "reproduce.md").read_text(encoding="utf-8")
    missing = [
        name
        for name, suite in SUITES.items()
        if not suite.is_tiny_only and len(re.findall(rf"^\| `{name}` \|", text, re.MULTILINE)) != 2
    ]
    assert not missing, f"docs/reproduce.md has no row, or no tiny time, for {missing}"


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/reproduce.md",
        "docs/backbones.md",
        "docs/avalanche.md",
        "docs/reports.md",
        "docs/other-toolboxes.md",
        "docs/gallery/README.md",
        "docs/add-a-method.md",
    ],
)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    file = README.parent / page
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", file.read_text(encoding="utf-8"))
    assert not [link for link in links if not (file.parent / link).exists()]


@pytest.mark.parametrize("page", ["README.md", "docs/reproduce.md", "docs/reports.md", "docs/gallery/README.md"])
def test_commands_in_the_pages_exist(page: str) -> None:
    text = (README.parent / page).read_text(encoding="utf-8")
    app = make_app(default)
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {group.typer_instance.info.name for group in app.registered_groups if group.typer_instance}
    named = set(re.findall(r"run_all\.py ([a-z][a-z-]*)\b", text))
    assert named and named <= known, f"{page} names commands that are not there: {named - known}"
