"""docs/other-toolboxes.md: its blocks run, its orders are those of numpy and torch, its example is what the metrics give."""

from __future__ import annotations

import contextlib
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from smope_bench.benchmarks.datasets.published.cifar100 import Cifar100, Cifar100Config
from smope_bench.harness import metrics
from tests.page_blocks import BLOCK, ROOT, run_shell, write_source  # pyright: ignore[reportMissingImports]

TEXT = (ROOT / "docs" / "other-toolboxes.md").read_text(encoding="utf-8")
EXAMPLE = [[90.0, None, None], [60.0, 80.0, None], [30.0, 50.0, 70.0]]
COUNTS = [100, 100, 60]


def cell(section: str, row: str, column: int) -> str:
    """A cell of a table on the page, by the heading of its section and the beginning of its row."""
    part = TEXT.split(f"## {section}\n")[1].split("\n## ")[0]
    line = next(line for line in part.splitlines() if line.startswith(f"| {row}"))
    return line.split("|")[column + 1].strip()


def numbers(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"\d+", text)]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every block of the page was run, in order."""
    folder = tmp_path_factory.mktemp("page")
    for status, language, block in BLOCK.findall(TEXT):
        if language == "python":
            write_source(block, folder)
        elif block.startswith("python "):  # in this process: a new one would import torch anew
            script, *rest = block.splitlines()
            with contextlib.chdir(folder):
                runpy.run_path(script.removeprefix("python "))
            run_shell("\n".join(rest), folder, int(status or 0))
        else:
            run_shell(block, folder, int(status or 0))
    return folder


def first_task(seed: int, **config: object) -> list[int]:
    """The classes of the first of ten tasks of CIFAR-100, rising."""
    order = Cifar100(Cifar100Config.model_validate({"tasks": 10, **config}), Path("unused")).class_order(seed)
    return sorted(order[:10])


def test_the_blocks_run(page: Path) -> None:
    assert (
        len((page / "randperm-1993.txt").read_text(encoding="utf-8").split()) == 100
        and (page / "stage_average.py").exists()
    )


@pytest.mark.parametrize(("row", "rule"), [("LAMDA-PILOT", "numpy"), ("mammoth", "numpy_inverse")])
def test_the_settings_give_the_class_orders_of_the_table(row: str, rule: str) -> None:
    place = np.random.RandomState(1993).permutation(100)
    drawn = place if rule == "numpy" else np.argsort(place)
    assert numbers(cell("Class order", row, 2)) == first_task(1993, class_order=rule) == sorted(drawn[:10].tolist())
    assert f"`{rule}`" in cell("Class order", row, 4)


def test_the_file_gives_torchs_permutation(page: Path) -> None:
    expected = numbers(cell("Class order", "Avalanche", 2))
    assert first_task(0, class_order=str(page / "randperm-1993.txt")) == expected


def test_the_example_is_what_the_metrics_give(page: Path) -> None:
    plugin = runpy.run_path(str(page / "stage_average.py"))["stage_average"]
    values = {
        "last row, mean over tasks": metrics.final_average_accuracy,
        "last row, all images alike": metrics.micro_accuracy,
        "mean over stages of the mean": metrics.cumulative_average_accuracy,
        "mean over stages, all images": plugin,
    }
    for row, metric in values.items():
        assert cell("Accuracy", row, 1) == f"{metric.compute(EXAMPLE, COUNTS):.2f}", row
    here = [cell("Forgetting and backward transfer", "here", column) for column in (1, 2)]
    given = [metrics.forgetting, metrics.forgetting_from_maximum], [metrics.backward_transfer]
    assert [{f"{metric.compute(EXAMPLE, COUNTS):.1f}" for metric in group} for group in given] == [
        {text} for text in here
    ]


def test_pilots_rounding_is_small(page: Path) -> None:
    plugin = runpy.run_path(str(page / "stage_average.py"))["stage_average"]
    rounded = np.mean([np.around(value, 2) for value in (90.0, 70.0, (30 * 100 + 50 * 100 + 70 * 60) / 260)])
    assert 0 < abs(float(rounded) - plugin.compute(EXAMPLE, COUNTS)) < 0.005


def test_truncating_a_batchs_accuracy_loses_the_images_the_page_says() -> None:
    assert [right for right in range(101) if int(right / 100 * 100) < right] == [29, 57, 58]
    assert all(int(right / 128 * 128) == right for right in range(129))
    assert sum(int(round(right / 128, 4) * 128) < right for right in range(129)) == 56
