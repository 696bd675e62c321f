"""SMoPE card, section 11 (h), and the formulas of section 8 on other matrices."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smope_bench.harness.metrics import (
    METRICS,
    average_accuracies,
    backward_transfer,
    cumulative_average_accuracy,
    final_average_accuracy,
    forgetting,
    forgetting_from_maximum,
    learning_accuracy,
    metric,
    micro_accuracy,
    next_domain_accuracy,
    stepwise_forgetting,
    unseen_domain_accuracy,
)

CARD = [[90.0, None, None], [80.0, 85.0, None], [70.0, 75.0, 80.0]]
JOINT = [*[[None, None], [None, None]][:1], [60.0, 80.0]]


def test_example_of_the_card() -> None:
    assert average_accuracies(CARD) == [90.0, 82.5, 75.0]
    assert final_average_accuracy(CARD) == 75.0
    assert cumulative_average_accuracy(CARD) == 82.5
    assert forgetting(CARD) == 15.0


def test_forgetting_looks_for_the_best_before_the_last_stage() -> None:
    improving = [[50.0, None], [90.0, 90.0]]
    assert forgetting(improving) == -40.0


def test_joint_training_has_a_final_accuracy_alone() -> None:
    assert final_average_accuracy(JOINT) == 70.0
    assert cumulative_average_accuracy(JOINT) is None
    assert forgetting(JOINT) is None
    assert average_accuracies(JOINT) == [None, 70.0]


def test_learning_accuracy_is_the_mean_of_the_diagonal() -> None:
    assert learning_accuracy(CARD) == 85.0
    assert learning_accuracy([[40.0, 0.0], [0.0, 60.0]]) == 50.0
    assert learning_accuracy(JOINT) is None
    assert learning_accuracy([]) is None


def test_micro_accuracy_weighs_tasks_by_their_images() -> None:
    assert micro_accuracy([[50.0, None], [100.0, 50.0]], [10, 30]) == 62.5
    assert micro_accuracy([[100.0, None], [100.0, None]], [1, 1]) is None


def test_nothing_measured() -> None:
    assert final_average_accuracy([]) is None
    assert cumulative_average_accuracy([]) is None
    assert forgetting([[90.0]]) is None
    assert micro_accuracy([], []) is None


percent = st.floats(0, 100, allow_nan=False)


@given(st.integers(1, 6).flatmap(lambda n: st.lists(st.lists(percent, min_size=n, max_size=n), min_size=n, max_size=n)))
def test_bounds(values: list[list[float]]) -> None:
    matrix = [[value if i <= t else None for i, value in enumerate(row)] for t, row in enumerate(values)]
    final, cumulative = final_average_accuracy(matrix), cumulative_average_accuracy(matrix)
    assert final is not None and cumulative is not None
    assert -1e-9 <= final <= 100 + 1e-9 and -1e-9 <= cumulative <= 100 + 1e-9
    lost = forgetting(matrix)
    assert (lost is None) == (len(matrix) < 2)
    equal_counts = micro_accuracy(matrix, [7] * len(matrix))
    assert equal_counts == pytest.approx(final)


def test_the_forms_of_forgetting_that_other_code_prints() -> None:
    """CODA-Prompt card, section 8 (10 for the matrix of the cards); Hash card, section 12 (BWT -6)."""
    assert stepwise_forgetting(CARD) == 10.0
    assert backward_transfer([[90.0, None, None], [84.0, 88.0, None], [80.0, 86.0, 92.0]]) == -6.0
    assert stepwise_forgetting(JOINT) is None and backward_transfer(JOINT) is None
    assert stepwise_forgetting([[90.0]]) is None and backward_transfer([[90.0]]) is None


def test_forgetting_from_the_maximum_is_never_negative() -> None:
    """Hash card, section 12: the last stage takes part in the maximum."""
    rows = [[90.0, None, None], [84.0, 88.0, None], [80.0, 86.0, 92.0]]
    assert (forgetting(rows), forgetting_from_maximum(rows), backward_transfer(rows)) == (6.0, 6.0, -6.0)
    rows[2][1] = 89.0
    assert (forgetting(rows), forgetting_from_maximum(rows)) == (4.5, 5.0)
    assert forgetting_from_maximum([[50.0, None], [90.0, 90.0]]) == 0.0
    assert forgetting_from_maximum(JOINT) is None


def test_stepwise_forgetting_of_the_card() -> None:
    """CODA-Prompt card, section 8."""
    assert stepwise_forgetting([[90.0, None, None], [80.0, 70.0, None], [60.0, 70.0, 80.0]]) == 10.0


def test_a_metric_gets_the_inputs_that_it_declares() -> None:
    assert [one.name for one in METRICS] == [
        "faa",
        "caa",
        "fm",
        "micro",
        "la",
        "bwt",
        "fm_max",
        "fm_step",
        "unseen",
        "next_domain",
    ]
    matrix, counts = [[50.0, None], [100.0, 50.0]], [10, 30]
    assert {one.name: one.compute(matrix, counts) for one in METRICS} == {
        "faa": 75.0, "caa": 62.5, "fm": -50.0, "micro": 62.5, "la": 50.0, "bwt": 50.0, "fm_max": 0.0, "fm_step": -50.0,
        "unseen": None, "next_domain": None,
    }  # fmt: skip
    assert {one.name for one in METRICS if one.sign == -1} == {"fm", "fm_max", "fm_step"}


@pytest.mark.parametrize(
    ("given", "message"),
    [({"name": "BWT 3"}, "must be lower-case"), ({"better": "more"}, "must be 'higher' or 'lower'")],
)
def test_a_metric_that_is_declared_wrongly(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(**dict[str, Any]({"name": "x", "heading": "X", "help": "An example."} | given))


def test_a_metric_takes_no_unknown_input() -> None:
    with pytest.raises(ValueError, match=r"has a parameter 'losses'; it may take matrix, test_counts"):

        @metric("x", "X", "An example.")
        def example(losses: object) -> float | None:
            return None


def test_domains_to_come_count_as_unseen_and_never_as_forgotten() -> None:
    matrix = [[90.0, 60.0, 40.0], [80.0, 95.0, 50.0], [85.0, 70.0, 75.0]]
    assert unseen_domain_accuracy(matrix) == (50 + 50) / 2
    assert next_domain_accuracy(matrix) == (60 + 50) / 2
    assert backward_transfer(matrix) == ((85 - 90) + (70 - 95)) / 2
    # Known before it was learnt: its accuracy then is not what forgetting is measured from.
    assert forgetting([[90.0, 99.0, 40.0], *matrix[1:]]) == forgetting(matrix) == ((90 - 85) + (95 - 70)) / 2


def test_metrics_of_domains_are_undefined_for_a_stream_of_classes_and_for_a_domain_with_unknown_classes() -> None:
    assert unseen_domain_accuracy([[90.0, None], [80.0, 95.0]]) is None
    assert next_domain_accuracy([[90.0, None, 30.0], [80.0, 95.0, 20.0], [1.0, 2.0, 3.0]]) is None
    assert [one.name for one in METRICS if not one.suits("class")] == ["unseen", "next_domain"]
