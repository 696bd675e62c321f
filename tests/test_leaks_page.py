"""docs/leaks.md: its example prints what it shows, its command runs, and its switches mark a run as leaking."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

from smope_bench.methods.hide_prompt import HidePrompt, HidePromptConfig
from tests.page_blocks import BLOCK, ROOT, run_shell  # pyright: ignore[reportMissingImports]

TEXT = (ROOT / "docs" / "leaks.md").read_text(encoding="utf-8")
BLOCKS = {language: block for _, language, block in BLOCK.findall(TEXT)}


def test_the_example_is_ten_lines_and_prints_what_is_shown() -> None:
    torch.manual_seed(0)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(BLOCKS["python"], "docs/leaks.md", "exec"), {})
    assert len(BLOCKS["python"].splitlines()) <= 10
    lines = printed.getvalue().splitlines()
    shown = [re.escape(line.rstrip()).replace("…", ".*") for line in BLOCKS["text"].splitlines()]
    assert len(lines) == 11
    for pattern, line in zip(shown, [*lines[:3], lines[-1]], strict=True):
        assert re.fullmatch(pattern, line), (pattern, line)


def test_the_command_runs(tmp_path: Path) -> None:
    assert "1 run" in run_shell(BLOCKS["bash"].rstrip(), tmp_path, 0)


@pytest.mark.parametrize("switch", re.findall(r"retrieval=(\w+)`: the exchanged", TEXT))
def test_the_switch_marks_a_run(switch: str) -> None:
    assert HidePrompt.leaks(HidePromptConfig.model_validate({"retrieval": switch}))
    assert not HidePrompt.leaks(HidePromptConfig())
