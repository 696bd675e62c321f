"""Figures of stored predictions: the right shares, only where there are predictions."""

from __future__ import annotations

import numpy as np
import pytest

from smope_bench.harness.errors import UserError
from smope_bench.harness.trained.answers import Answers
from smope_bench.reports.figures.kinds import figure_groups
from smope_bench.reports.loading.load import load_suite

pytestmark = pytest.mark.usefixtures("only_svg")


def answers(run_id: str) -> Answers:
    """Two tasks of two classes and ten images each: one image of class a is taken for c, all of d for a."""
    true = np.repeat(np.arange(4, dtype=np.int32), 10)
    predicted = true.copy()
    predicted[0], predicted[30:] = 2, 0
    return Answers(run_id, ("a", "b", "c", "d"), true, predicted, (true // 2).astype(np.int32))


def drawn(factory, answered):
    factory.publish("A", factory.spec("a", "digits", 0, 0, 2), factory.matrix(2, 90, 1, 0))
    factory.publish("B", factory.spec("b", "digits", 0, 0, 2), factory.matrix(2, 90, 1, 0))
    results = load_suite(factory.write(), "smoke", None)
    (group, *_) = figure_groups(results, "x", lambda _: {}, answered=answered)
    return results, {figure.kind: figure for figure in group.figures}


def test_they_show_the_shares_of_the_predictions(factory) -> None:
    results, figures = drawn(factory, lambda run: answers(run.run_id))
    assert "A takes 27.5 % of images for a class of another task" in figures["confusion"].alt
    assert ">50</text>" in figures["confusion"].svg and ">5</text>" in figures["confusion"].svg
    assert "the hardest are d 0.0 %, a 90.0 % and b 100.0 %" in figures["per_class"].alt
    assert set(figures["per_class"].runs) == {run.run_id for run in results.runs}


def test_runs_without_predictions_are_named_or_give_no_figure(factory) -> None:
    def only_a(run):
        if run.spec["method"]["name"] != "a":
            raise UserError("none")
        return answers(run.run_id)

    _, figures = drawn(factory, only_a)
    assert "Not drawn, without stored predictions or beyond the 12 best: B." in figures["confusion"].caption
    results = load_suite(factory.write(), "smoke", None)
    figures = {one.kind for group in figure_groups(results, "x", lambda _: {}) for one in group.figures}
    assert "confusion" not in figures and "per_class" not in figures
