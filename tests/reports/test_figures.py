"""Figures: the right numbers are drawn, odd suites do not stop them, and any label is only text."""

from __future__ import annotations

import re

import numpy as np
import pytest

from reports.build import load_suite
from reports.figures import mean_matrix, suite_figures


def test_mean_matrix_is_the_mean_over_runs_with_gaps_kept(factory) -> None:
    for seed, level in enumerate((80.0, 90.0)):
        factory.publish("A", factory.spec("a", "digits", seed, seed, 2), [[level, None], [level - 10, level]])
    (cell,) = load_suite(factory.write(), "smoke", None).cells.values()
    np.testing.assert_array_equal(mean_matrix(cell), [[85.0, np.nan], [75.0, 85.0]])


def test_alternative_texts_carry_the_numbers(factory) -> None:
    for seed, level in enumerate((80.0, 90.0)):
        factory.publish("A", factory.spec("a", "digits", seed, seed, 2), [[level, None], [level - 10, level]])
    ((column, figures),) = suite_figures(load_suite(factory.write(), "smoke", None), "x")
    final, stages, matrices = figures
    assert column.label == "digits"
    assert "A 80.00 ± 7.07" in final.alt
    assert "A from 85.0 to 80.0" in stages.alt
    assert "A: 75.0, 85.0" in matrices.alt
    assert {figure.name for figure in figures} == {"x-1-final", "x-1-stages", "x-1-matrices"}
    for figure in figures:
        assert figure.svg.rstrip().endswith("</svg>") and "<image" not in figure.svg
        assert not re.search(r"\b20\d\d-\d\d-\d\dT", figure.svg)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("tasks", [1, 12])
def test_odd_labels_and_task_counts_are_drawn(factory, tasks: int) -> None:
    labels = ["_hidden", r"$\frac{", "中文 label", "x" * 300, "a\nb --> <g>"]
    for i, label in enumerate(labels):
        factory.publish(label, factory.spec(f"m{i}", "digits", 0, 0, tasks), factory.matrix(tasks, 90, 1, i))
    joint = factory.spec("joint", "digits", 0, 0, tasks)
    factory.publish("Joint", joint, factory.matrix(tasks, 97, 0, 0, joint=True), kind="ceiling")
    ((_, figures),) = suite_figures(load_suite(factory.write(), "smoke", None), "x")
    assert len(figures) == 3
    assert all("<g>" not in figure.svg.replace("<g>\n", "") for figure in figures)


def test_a_benchmark_without_records_has_no_figures(factory) -> None:
    factory.plan("A", factory.spec("a", "digits", 0, 0, 2))
    assert suite_figures(load_suite(factory.write(), "smoke", None), "x") == []
