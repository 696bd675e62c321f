"""The public face: every name exists, is documented, and costs nothing before it is used."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from smope_bench import api, run_all

ROOT = Path(run_all.__file__).resolve().parent
PAGE = ROOT / "docs" / "add-a-method.md"
PUBLIC = re.compile(r"^from smope_bench\.api import (\([^)]*\)|[^\n]*)", re.MULTILINE)
PRIVATE = re.compile(r"^\s*(?:from|import) smope_bench\.(?!(?:api|audit)\b).*", re.MULTILINE)
PLUGINS = [
    ROOT / "README.md",
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "harness" / "registry" / "templates").iterdir(),
    *(ROOT / "tests" / "sample_plugin").rglob("*.py"),
]


@pytest.mark.parametrize("name", api.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(api, name) is not None


def test_type_checkers_and_programs_see_the_same_names() -> None:
    tree = ast.parse(Path(api.__file__).read_text(encoding="utf-8"))
    typed = {
        (alias.name, node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("smope_bench.")
        for alias in node.names
    }
    assert typed == set(api._MODULE_OF.items()) and sorted(api.__all__) == sorted(name for name, _ in typed)


def test_the_page_lists_exactly_the_names() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("\n## What you may import\n")[2]
    rows = [
        line.rpartition("| ")[2] if line.count("|") < 3 else line.split("|")[2]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(api.__all__)


@pytest.mark.parametrize("file", PLUGINS, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_users_copy_imports_from_the_public_face_alone(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert not PRIVATE.findall(text)
    named = {name.strip() for found in PUBLIC.findall(text) for name in found.strip("()").split(",") if name.strip()}
    assert named <= {*api.__all__, "…"}


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import smope_bench, smope_bench.api", "torch pandas numpy pydantic typer rich"),
        ("from smope_bench.run_all import default, make_app; make_app(default)", "torch pandas numpy pydantic"),
    ],
    ids=["the package", "help"],
)
def test_starting_loads_nothing_that_takes_long(code: str, absent: str) -> None:
    code = f"import sys; {code}; print(sorted(set({absent!r}.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_a_name_that_is_not_there_is_named() -> None:
    with pytest.raises(AttributeError, match=r"'smope_bench\.api' has no attribute 'Learner'"):
        api.Learner  # noqa: B018
    assert dir(api) == sorted(api.__all__)
