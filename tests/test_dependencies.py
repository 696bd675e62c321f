"""The packages that the source imports are those that pyproject.toml declares: none is missing and none is unused."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from smope_bench.benchmarks.datasets import emoji_sets

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FONTS = ROOT / "reports" / "figures" / "drawing" / "fonts" / "make.py"
"""A script for developers, beside what it writes."""
SOURCE = [
    file
    for room in ("harness", "reports", "benchmarks", "methods")
    for file in (ROOT / room).rglob("*.py")
    if file != FONTS
]
DISTRIBUTIONS = packages_distributions()
EXTRAS = {"ray", "slurm", "wandb", "mlflow"}
"""Extras whose packages the source imports where a command needs them; tensorboard's is imported by torch's writer."""


def test_the_extra_that_a_message_names_has_the_pinned_renderer() -> None:
    extra = emoji_sets.EXTRA.removeprefix("smope-bench[").removesuffix("]")
    pinned = f"{emoji_sets.RENDERER}=={emoji_sets.RENDERER_VERSION}"
    assert PROJECT["optional-dependencies"][extra] == [pinned]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> set[str]:
    """Names of the distributions that the project, or only some extras of it, declare."""
    optional = PROJECT["optional-dependencies"]
    lines = [line for extra in extras for line in optional[extra]] if extras else PROJECT["dependencies"]
    return {normal(re.split(r"[^\w.-]", line)[0]) for line in lines}


def imported(files: list[Path]) -> set[str]:
    """Distributions of the modules that some files import anywhere, at the top or inside a function."""
    modules = set[str]()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.partition(".")[0])
    helpers = {file.stem for file in (ROOT / "tests").rglob("*.py")}
    others = modules - set(sys.stdlib_module_names) - helpers - {"smope_bench", "tests"}
    return {normal(DISTRIBUTIONS.get(module, [module])[0]) for module in others}


def test_the_source_imports_what_the_project_declares() -> None:
    assert imported(SOURCE) == declared() | declared(*EXTRAS)


def test_the_tests_import_what_the_developers_extra_adds() -> None:
    files = [file for file in (ROOT / "tests").rglob("*.py") if "sample_plugin" not in str(file)]
    of_tests = imported([*files, FONTS])
    assert of_tests <= declared() | declared("dev")


@pytest.mark.parametrize("code", ["import a.b", "def f():\n    from a import b", "from a.c import d as e"])
def test_lazy_and_dotted_imports_count(tmp_path: Path, code: str) -> None:
    (tmp_path / "x.py").write_text(f"import json\nfrom . import near\n{code}\n")
    assert imported([tmp_path / "x.py"]) == {"a"}
