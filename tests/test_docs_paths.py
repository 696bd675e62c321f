"""Files, modules and tests that the documents and the code's own texts name are there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from smope_bench.harness.cli import command as commands
from smope_bench.harness.registry.registry import KINDS

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("benchmarks", "harness", "methods", "reports", "src", "tests", "docs", "constraints")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "harness/registry/templates").glob("*.txt")]
    + [file for room in ROOMS[:4] for file in (ROOT / room).rglob("*.py")]
)
PATH = re.compile(rf"(?<![\w/.-])((?:{'|'.join(ROOMS)})/[\w./-]*\w)")
GROUPS = {kind.group for kind in KINDS.values()} | {commands.GROUP}
"""Entry-point groups, which are written like modules."""
MODULE = re.compile(r"(?<![\w.])(smope_bench(?:\.[a-z_0-9]+)+)")
TEST = re.compile(r"`(test_(?!counts`)\w+)`")
"""Names of tests; ``test_counts`` is a field of records."""


@pytest.fixture(scope="module")
def tests() -> str:
    return "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("*.py"))


def is_there(path: str) -> bool:
    """Whether a path of the project exists; without an ending, a module of that name counts, too."""
    place = ROOT / path
    return place.exists() or place.with_suffix(".py").exists() or place.with_name(f"{place.name}.py").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_text_names_is_there(page: Path, tests: str) -> None:
    text = page.read_text(encoding="utf-8")
    if page.name != "CHANGELOG.md":  # it names places of older versions
        # A recipe may put a file of its own into a room.
        recipes = set(re.findall(r"(?:`|# )(\w+\.py)\b", text))
        assert [path for path in PATH.findall(text) if not is_there(path) and Path(path).name not in recipes] == []
    modules = [name for name in set(MODULE.findall(text)) - GROUPS if not is_module(name)]
    assert modules == []
    if page.suffix == ".md":
        assert [name for name in TEST.findall(text) if f"def {name}(" not in tests and f"{name}.py" not in text] == []


def is_module(name: str) -> bool:
    """Whether a dotted name is a module of the project, or a name of one; entry-point groups end in a plural."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            spec = importlib.util.find_spec(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        if spec is not None and spec.origin is not None:
            rest = parts[count:]
            source = Path(spec.origin).read_text(encoding="utf-8") if spec.origin.endswith(".py") else ""
            return not rest or re.search(rf"\b{rest[0]}\b", source) is not None
    return False
