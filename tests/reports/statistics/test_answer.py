"""The sentences at the head of a report: grouped by verdicts, and nothing of a winner where nothing is decided."""

from __future__ import annotations

from dataclasses import replace

from smope_bench.reports.loading.load import load_suite
from smope_bench.reports.statistics.answer import answer


def suite(factory, levels: dict[str, tuple[str, float, float]], seeds: int):
    """Rows of a kind around a level; every second row's spread has the other sign, so that differences vary."""
    for number, (label, (kind, level, spread)) in enumerate(levels.items()):
        for seed in range(seeds):
            faa = level + spread * ((seed % 3) - 1) * (-1) ** number + 0.01 * seed
            factory.publish(label, factory.spec(label.lower(), "digits", seed, seed, 1), [[faa]], kind=kind)
    return load_suite(factory.write(), "smoke", None)


def test_rows_are_grouped_by_verdicts_on_the_row_compared_with(factory) -> None:
    levels = {
        "A": ("method", 90.0, 0.3), "B": ("method", 90.05, 0.3), "C": ("method", 95.0, 0.1),
        "F1": ("floor", 70.0, 0.3), "F2": ("floor", 60.0, 0.2), "J": ("ceiling", 99.0, 0.1),
    }  # fmt: skip
    results = replace(suite(factory, levels, 5), reference="A")
    extent, verdicts, basis = answer(results)
    assert extent == "Tiny scale, not the papers': 6 rows on digits, 5 seeds a row."
    assert verdicts == "With 5 class orders, B cannot be told apart from A; A is above every floor and below C."
    assert basis.startswith("By the paired t-test on FAA, corrected for 4 comparisons (Holm)")
    assert "8 class orders could decide" in basis


def test_some_floors_and_adapters_are_counted_and_all_of_them_are_every_one(factory) -> None:
    levels = {
        "A": ("method", 90.0, 0.3), "B": ("method", 95.0, 0.1), "F1": ("floor", 70.0, 0.2), "F2": ("floor", 60.0, 0.2),
        "F3": ("floor", 90.01, 0.2), "D1": ("adapter", 50.0, 0.2), "D2": ("adapter", 40.0, 0.1),
    }  # fmt: skip
    said = answer(replace(suite(factory, levels, 6), reference="A"))[1]
    assert said == (
        "With 6 class orders, F3 cannot be told apart from A; A is above 2 of 3 floors and every adapter and below B."
    )


def test_rows_that_no_test_decides_are_not_said_to_be_alike(factory) -> None:
    levels = {"A": ("method", 90.0, 0.3), "B": ("method", 91.0, -0.3), "C": ("method", 91.0, 0.1)}
    suite(factory, levels, 3)
    factory.publish("D", factory.spec("d", "digits", 0, 0, 1), [[50.0]])
    results = replace(load_suite(factory.write(), "smoke", None), reference="A")
    said = answer(results)[1]
    assert "no test decides on B, whose difference from it is the same in every run" in said
    assert "too few runs of D" in said and "above" not in said


def test_one_seed_names_no_winner(factory) -> None:
    results = suite(factory, {"A": ("method", 99.0, 0.0), "B": ("method", 50.0, 0.0)}, 1)
    said = " ".join(answer(results))
    assert "1 seed a row" in said and "One seed says nothing" in said and "from 50.0 to 99.0 %" in said
    assert not any(word in said for word in ("above", "below", " A ", " B "))


def test_two_seeds_decide_nothing(factory) -> None:
    results = suite(factory, {"A": ("method", 99.0, 1.0), "B": ("method", 50.0, 1.0)}, 2)
    assert answer(results)[1] == "Nothing can be decided with fewer than 3 class orders or training seeds a row."


def test_stale_runs_decide_nothing_however_many_they_are(factory) -> None:
    suite(factory, {"A": ("method", 99.0, 1.0), "B": ("method", 50.0, 1.0)}, 4)
    stale = load_suite(factory.write(), "smoke", "of another version")
    assert answer(stale)[1] == "Nothing can be decided by stale runs, which are of another version of the code."


def test_without_a_finished_run_there_is_nothing_to_say(factory) -> None:
    factory.plan("A", factory.spec("a", "digits", 0, 0, 1))
    assert answer(load_suite(factory.write(), "smoke", None)) == ()


def test_where_nothing_differs_it_is_said_of_no_row(factory) -> None:
    levels = {"A": ("method", 90.0, 0.3), "B": ("method", 90.05, 0.3), "C": ("method", 90.02, 0.2)}
    results = replace(suite(factory, levels, 5), reference="A")
    assert answer(results)[1] == "With 5 class orders, no other row can be told apart from A."
