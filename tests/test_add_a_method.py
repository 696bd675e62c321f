"""docs/add-a-method.md does what it says: every block is run, in order, in an empty folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from smope_bench.harness.conformance.checks.device import run_on_pretend_device, waiting_places
from smope_bench.harness.conformance.runner import register
from smope_bench.harness.registry.registry import open_registries
from tests.page_blocks import BLOCK, ROOT, assert_shown, follow  # pyright: ignore[reportMissingImports]

PAGE = ROOT / "docs" / "add-a-method.md"


def test_every_block_does_what_the_page_says(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    ran = follow(PAGE.read_text(encoding="utf-8"), folder)
    assert ran["bash"] >= 5 and ran["toml"] == 1
    assert {"results", "data", "aper.py", "leaky.py"} <= {file.name for file in folder.iterdir()}


def test_the_page_shows_a_method_of_about_sixty_lines() -> None:
    lines = lines_of("aper.py")
    assert 40 <= len(lines) <= 75


def test_the_page_shows_low_rank_updates_and_token_prompts_in_few_lines() -> None:
    assert 20 <= len(lines_of("lora.py")) <= 30
    assert 10 <= len(lines_of("vpt.py")) <= 25


@pytest.mark.skipif(torch.cuda.is_available(), reason="the pretend device stands for a GPU where there is none")
@pytest.mark.parametrize("merges", [True, False])
def test_the_page_merges_where_no_batch_waits_for_it(merges: bool, tmp_path: Path) -> None:
    """The example's comment is true: merged at the first prediction instead, the weights are copied between two batches."""
    text, call = "\n".join(lines_of("lora.py")), "self._weights()  # merged here"
    assert text.count(call) == 1
    (tmp_path / "lora.py").write_text(text if merges else text.replace(call, "pass  # not here"), encoding="utf-8")
    registries = open_registries([tmp_path / "lora.py"])
    register(registries)
    found = run_on_pretend_device("lora", registries, tmp_path / "runs", precision="bf16")
    waits = waiting_places(found, registries.methods.load("lora"))
    assert waits == "" if merges else "copy to the device at lora.py:" in waits


def lines_of(file: str) -> list[str]:
    """The lines of a file of the page that are not blank, without its name."""
    blocks = [text for _, kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if kind == "python"]
    own = [text.partition("\n")[2] for text in blocks if text.startswith(f"# {file}")]
    return [line for text in own for line in text.splitlines() if line.strip()]


def test_a_wrong_page_would_be_noticed(tmp_path: Path) -> None:
    try:
        assert_shown("✓ this … that", "✓ that and this")
    except AssertionError:
        return
    raise AssertionError("an output that is not there was taken for shown")
