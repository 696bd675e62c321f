"""Labels of columns and titles of tables state the configuration of the runs, in the manifest and in every kind of output."""

from __future__ import annotations

from pathlib import Path

import pytest

from smope_bench import run_all
from smope_bench.benchmarks.base import BenchmarkConfig
from smope_bench.benchmarks.suites import SUITES
from smope_bench.harness.planning.planner import plan
from smope_bench.harness.planning.selection import Selection
from smope_bench.harness.planning.settings import parse_setting
from smope_bench.harness.planning.suites.titles import tasks_label
from smope_bench.harness.planning.summary.manifest import manifest
from smope_bench.harness.registry.registry import open_registries
from smope_bench.reports.loading.manifest import Manifest

REGISTRIES = open_registries(())


def planned(suite: str, *settings: str, methods: str = "", benchmarks: str = "", tiny: bool = True) -> Manifest:
    chosen = Selection(
        tiny=tiny,
        methods=tuple(methods.split()),
        benchmarks=tuple(benchmarks.split()),
        settings=tuple(map(parse_setting, settings)),
    )
    runs = plan([suite], chosen, REGISTRIES, Path("data"))
    return Manifest.model_validate(manifest(suite, runs, REGISTRIES))


def labels(found: Manifest) -> list[str]:
    return [column.label for column in found.columns]


@pytest.mark.parametrize("name", ["table2", "fig9", "hash_layers", "imagenet_r_50"])
def test_an_unchanged_suite_keeps_its_title_and_its_labels(name: str) -> None:
    suite, found = SUITES[name], planned(name)
    assert found.heading == suite.title
    assert labels(found) == [column.label for column in suite.tiny]


def test_a_changed_number_of_tasks_is_the_one_that_is_written() -> None:
    found = planned("ci", "benchmark.tasks=5", methods="ncm")
    assert labels(found) == ["digits, 5 tasks"] and found.columns[0].tasks == 5
    assert labels(planned("ci", "benchmark.tasks=2", methods="ncm")) == ["digits, 2 tasks"]


def test_a_split_alone_gives_the_number_of_tasks() -> None:
    assert labels(planned("ci", "benchmark.split=4,3,3", methods="ncm")) == ["digits, 3 tasks (4 + 2 × 3)"]


@pytest.mark.parametrize(
    ("setting", "label"),
    [
        ("benchmark.holdout=0.2", "digits, 2 tasks, holdout=0.2"),
        ("benchmark.class_order=natural", "digits, 2 tasks, class_order=natural"),
        ("backbone=tiny_random", "digits, 2 tasks, tiny_random"),
    ],
)
def test_what_differs_from_the_suite_is_named(setting: str, label: str) -> None:
    assert labels(planned("ci", setting, methods="ncm")) == [label]


def test_weights_are_never_those_of_the_label_that_was_replaced() -> None:
    assert labels(planned("hash_backbones", "benchmark.tasks=5", methods="ncm")) == [
        "glyphs, 5 tasks, tiny",
        "glyphs, 5 tasks, tiny_random",
    ]
    assert labels(planned("hash_backbones", "backbone=tiny", methods="ncm")) == ["glyphs, 10 tasks"]


def test_columns_that_a_setting_makes_equal_are_one() -> None:
    assert labels(planned("table6", "benchmark.tasks=10", methods="ncm")) == ["glyphs, 10 tasks"]


def test_a_title_is_the_suites_only_where_its_rows_and_columns_are() -> None:
    assert planned("table1", methods="smope l2p++").heading == "Table 1: nine methods and joint training (2 of 10 rows)"
    assert planned("table1", benchmarks="glyphs").heading.endswith("joint training (1 of 2 benchmarks)")
    assert planned("glyphs", benchmarks="digits").heading == "The rows of glyphs on digits, 5 tasks"
    assert planned("table1", methods="smope ncm").heading == (
        "1 of 10 rows of table1 and Nearest class mean on glyphs, 10 tasks and digits, 5 tasks"
    )


def test_settings_of_rows_stand_in_the_title_and_those_of_columns_in_their_labels() -> None:
    size = len(SUITES["ci"].rows)
    title = planned("ci", "schedule.lr=0.1", methods="ncm").heading
    assert title.endswith(f"(1 of {size} rows), with schedule.lr=0.1")
    found = planned("ci", "smope.epsilon=0.1", "benchmark.tasks=5", methods="ncm smope").heading
    assert found == f"2 of {size} rows of ci on digits, 5 tasks, some runs with settings of one's own"


def test_uneven_tasks_are_listed_in_runs() -> None:
    assert tasks_label(BenchmarkConfig.model_validate({"split": [50, *[10] * 5]})) == "6 tasks (50 + 5 × 10)"
    assert tasks_label(BenchmarkConfig.model_validate({"split": [5, 5]})) == "2 tasks"
    assert tasks_label(BenchmarkConfig(tasks=1)) == "1 task"


def test_every_kind_of_output_has_the_resolved_heading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_all.main(["run", "table1", "--tiny", "--methods", "ncm", "--benchmarks", "digits", "--seeds", "0",
                         "--set", "benchmark.tasks=2", "--device", "cpu"]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert run_all.main(["report", "table1"]) == 0
    texts = {
        file.name: file.read_text(encoding="utf-8")
        for file in (tmp_path / "report").glob("*.*")
        if file.suffix != ".json"
    }
    assert set(texts) >= {"index.html", "table.md", "table.tex", "table.csv"}
    for name, text in {"the terminal": printed, **texts}.items():
        assert "digits, 2 tasks" in text, name
        assert "5 tasks" not in text and "nine methods" not in text, name
        assert "as printed" not in text and "as the paper prints" not in text, name
