"""The comparison over test images against a bootstrap that is really drawn, and the identity of images across class orders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from smope_bench.harness.errors import UserError
from smope_bench.harness.trained.answers import Answers
from smope_bench.reports.loading.load import load_suite
from smope_bench.reports.loading.model import SuiteResults
from smope_bench.reports.loading.run_result import RunResult
from smope_bench.reports.statistics.images import image_differences
from smope_bench.reports.tables.statistics import statistics_tables

CLASSES, EACH = 6, 20
ORDERS = ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4], [2, 4, 0, 5, 1, 3])


class Study:
    """Two rows over three class orders of two tasks of three classes, with made-up answers."""

    def __init__(self, factory: Any, lead: float = 0.1) -> None:
        rng = np.random.default_rng(1)
        hard = rng.uniform(0.3, 0.95, (CLASSES, EACH))  # an image is about as hard in all runs
        self.right: dict[tuple[str, int], np.ndarray] = {}
        self.answers: dict[str, Answers] = {}
        for label, gain in (("A", lead), ("B", 0.0)):
            for seed, order in enumerate(ORDERS):
                right = rng.random((CLASSES, EACH)) < np.clip(hard + gain, 0, 1)
                self.right[label, seed] = right
                shares = [100 * right[order[3 * t : 3 * t + 3]].mean() for t in range(2)]
                spec = factory.spec(label.lower(), "digits", seed, seed, 2)
                factory.publish(label, spec, [[shares[0], None], shares], test_counts=[60, 60])
                true = np.repeat(np.arange(CLASSES), EACH).astype(np.int32)
                predicted = np.where(right[order].ravel(), true, (true + 1) % CLASSES).astype(np.int32)
                names = tuple(f"class {c}" for c in order)
                self.answers[spec.run_id] = Answers(spec.run_id, names, true, predicted, np.repeat([0, 1], 60))
        self.results: SuiteResults = load_suite(factory.write(), "smoke", factory.FRESH)

    def read(self, run: RunResult) -> Answers:
        return self.answers[run.run_id]


@pytest.fixture
def study(factory: Any) -> Study:
    return Study(factory)


def test_agrees_with_a_bootstrap_that_is_drawn(study: Study) -> None:
    (found,) = image_differences(study.results, study.results.columns[0], "B", study.read)
    rng = np.random.default_rng(2)
    # The share of each task is a mean over its three classes of equal size, so that FAA is a mean over classes.
    gain = np.mean([study.right["A", s].astype(float) - study.right["B", s] for s in range(3)], axis=0)
    drawn = [100 * np.mean([gain[c][rng.integers(0, EACH, EACH)].mean() for c in range(CLASSES)]) for _ in range(4_000)]
    assert (found.images, found.seeds) == (CLASSES * EACH, 3)
    assert found.mean == pytest.approx(100 * gain.mean()) and found.mean == pytest.approx(np.mean(drawn), abs=0.2)
    # A bootstrap divides by n, the closed form by n - 1.
    assert found.std == pytest.approx(np.std(drawn) * np.sqrt(EACH / (EACH - 1)), rel=0.05)
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.9)


def test_the_mean_is_the_difference_of_faa(study: Study) -> None:
    (found,) = image_differences(study.results, study.results.columns[0], "B", study.read)
    faa = {cell.row.label: cell.summary("faa") for cell in study.results.all_cells}
    assert faa["A"] is not None and faa["B"] is not None
    assert found.mean == pytest.approx(faa["A"].mean - faa["B"].mean)


def test_rows_without_predictions_are_left_out(study: Study) -> None:
    def missing(_: RunResult) -> Answers:
        raise UserError("no file")

    assert image_differences(study.results, study.results.columns[0], "B", missing) == ()
    assert image_differences(study.results, study.results.columns[0], "not a row", study.read) == ()


def test_the_table_says_what_it_licenses(study: Study) -> None:
    tables = statistics_tables(study.results, study.read)
    (table,) = [one for one in tables if one.key == "smoke-images-1"]
    assert "not whether the methods differ" in table.notes[0] and table.rows[0].cells[0].text == f"{CLASSES * EACH} x 3"
    assert all(entry.runs for entry in table.rows[0].cells)
