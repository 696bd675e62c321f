"""docs/python.md and the README's lines on trained models do what they say: every block is run, in order, in one folder."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest

from smope_bench.harness.execution.launcher import plan_suites
from smope_bench.harness.planning.selection import Selection
from smope_bench.harness.planning.settings import parse_seeds
from smope_bench.harness.run_options import RunOptions
from tests.page_blocks import BLOCK, ROOT, run_python_page, run_shell  # pyright: ignore[reportMissingImports]

PAGE, README = ROOT / "docs" / "python.md", ROOT / "README.md"
COMMAND = ".venv/bin/python run_all.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the page was followed."""
    made = tmp_path_factory.mktemp("python")
    run_python_page(PAGE.read_text(encoding="utf-8"), made)
    return made


def test_the_page_is_followed(folder: Path) -> None:
    assert {"results", "data", "three.png", "digits-model"} <= {file.name for file in folder.iterdir()}


def test_the_readme_shows_train_look_predict(folder: Path) -> None:
    section = README.read_text(encoding="utf-8").partition("\n## Use what was trained\n")[2].partition("\n## ")[0]
    ((_, _, block), (_, language, script)) = BLOCK.findall(section)
    assert language == "python" and len(script.splitlines()) == 5
    with contextlib.chdir(folder):  # a method that trains in no time
        exec(compile(script.replace('"smope"', '"ncm"'), str(README), "exec"), {})
    train, *use = block.splitlines()
    method, seed = re.findall(r"--methods (\w+) --seeds (\d+)$", train)[0]
    selection = Selection(methods=(method,), seeds=tuple(parse_seeds([seed])))
    runs, _ = plan_suites(["smoke"], selection, RunOptions(folder / "results", folder / "data"))
    shown = set(re.findall(r"\b[0-9a-f]{8}\b", block))
    assert {run.spec.run_id[:8] for run in runs} == shown, "the README shows another id than the run's"
    own = max(folder.glob("results/*/result.json"))
    for line in use:  # on the quick run of the page
        command = line.replace(COMMAND, "smope-bench").replace(shown.copy().pop(), own.parent.name[:8])
        assert command.startswith("smope-bench ")
        run_shell(command.replace("digits-model", "other"), folder, 0)
    assert json.loads((folder / "other" / "model.json").read_text())["run_id"] == own.parent.name
