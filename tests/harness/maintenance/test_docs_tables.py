"""The page of recipes is what the code would generate today, and its cells say what the recipes say."""

from __future__ import annotations

from pathlib import Path

import pytest

from smope_bench.harness.maintenance.docs_tables import METHODS, RECIPES, main, official_recipes, recipe_tables, renewed
from smope_bench.harness.registry.registry import Registries, open_registries
from smope_bench.methods.recipes.schema import INFERRED, TrainingRecipe

PAGE = Path(__file__).parents[3] / "docs" / "recipes.md"
CROP = {"kind": "random_resized_crop", "scale": [0.05, 1.0], "brightness": 0.25}


@pytest.fixture(scope="module")
def built_in() -> Registries:
    return open_registries()


def test_the_page_is_generated_from_the_recipes() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert renewed(text, official_recipes(), RECIPES) == text, (
        "run python -m smope_bench.harness.maintenance.docs_tables"
    )


def test_recipes_that_differ_in_the_number_of_tasks_share_a_row(built_in: Registries) -> None:
    schedule = {"batch_size": 8, "epochs": 50, "lr": 0.015, "shape": "step", "grad_clip": 1.0, "drop_last": False}
    data = {"image_size": 224, "augment": CROP, "test_resize": 256, "normalize": "cifar100"}
    recipes = [
        TrainingRecipe("one_prompt", "cifar100", "sup1k", source, schedule, {"length": length}, data, tasks)
        for source, length, tasks in (("X card", 5, 20), ("X card", 5, 10), (f"{INFERRED}why; X card", 7, 50))
    ]
    text = recipe_tables(recipes, built_in)
    stated, guessed = [line for line in text.splitlines() if line.startswith("| cifar100")]
    assert (
        "| 10, 20 | sup1k | batch 8, 50 epochs, lr 0.015, step (x0.1 every 30 epochs), clip 1, last batch kept"
        in stated
    )
    assert "| length 5 | train: crop 0.05–1 bilinear, mirror, brightness ±0.25; test: 256, central 224" in stated
    assert stated.endswith("bilinear; cifar100 statistics | X card |")
    assert "| 50 |" in guessed
    assert guessed.endswith("| **inferred**: why; X card |")
    shared = next(line for line in text.splitlines() if line.startswith("In all rows"))
    assert "prompt_lr_mult 5" in shared
    assert "tap.enabled no" in shared
    assert " length" not in shared


def test_the_command_renews_the_tables_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    pages = {tmp_path / "README.md": METHODS, tmp_path / "docs" / "recipes.md": RECIPES}
    for page, marks in pages.items():
        page.write_text(f"before\n{marks[0]}\nold\n{marks[1]}\nafter\n", encoding="utf-8")
    assert main(tmp_path) == 0
    for (page, marks), head in zip(pages.items(), ("| name |", "## "), strict=True):
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"before\n{marks[0]}\n\n{head}")
        assert text.endswith(f"{marks[1]}\nafter\n")
        assert "\nold\n" not in text
