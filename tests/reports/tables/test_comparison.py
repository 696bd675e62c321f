"""Two results folders side by side: equal, moved and incomparable cells, and what is said of the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smope_bench.reports.loading.load import Loaded, load_suites
from smope_bench.reports.tables.comparison import WORDS, comparison_tables, moved_text
from smope_bench.reports.tables.table import Table, TableCell

THEN, NOW, DIFFERENCE, LARGEST, VERDICT, WHY = range(6)


@pytest.fixture
def sides(factory, tmp_path: Path) -> tuple[Any, Any]:
    """Two empty folders of one suite: (now, then)."""
    make = type(factory)
    return make(tmp_path / "now"), make(tmp_path / "then")


def publish(
    factory, levels: Sequence[float], label: str = "A", config: dict[str, Any] | None = None, **options
) -> None:
    """A row with a run for every level, seeds counted from 0; one level gives one matrix whatever the folder."""
    for seed, level in enumerate(levels):
        spec = factory.spec("a", "digits", seed, seed, 4, **(config or {}))
        factory.publish(label, spec, factory.matrix(4, level, 1.0, seed), **options)


def loaded(factory, label: str = "") -> Loaded:
    return replace(load_suites(factory.write(), [factory.suite], None, mixed=True), label=label)


def compare(now, then) -> tuple[Table, Table, Table]:
    """(summary, environments, the suite's table)."""
    summary, environments, suite = comparison_tables(loaded(now, "here"), loaded(then, "../old"))
    return summary, environments, suite


def counts(summary: Table) -> dict[str, Any]:
    """Of the last line: how many cells each verdict has, those of none left out."""
    words = [heading.text for heading in summary.headings]
    return {word: entry.values[0] for word, entry in zip(words, summary.rows[-1].cells, strict=True) if entry.values[0]}


def entries(table: Table) -> tuple[TableCell, ...]:
    (line,) = table.rows
    return line.cells


def test_equal_folders_are_the_same_to_the_last_digit(sides) -> None:
    now, then = sides
    for side in sides:
        publish(side, [90.0, 91.0, 92.0])
    summary, environments, suite = compare(now, then)
    assert (summary.key, environments.key, suite.key) == ("against-summary", "against-environments", "against-smoke")
    assert counts(summary) == {"the same": 1}
    assert entries(suite)[WHY].text == "same to the last digit"
    assert entries(suite)[DIFFERENCE].values == (0.0, None, None, 3)
    assert not any(line.marks for line in environments.rows)


def test_a_shift_of_every_seed_is_beyond_the_spread_and_traced_to_its_runs(sides) -> None:
    now, then = sides
    publish(now, [92.0, 93.1, 94.0])
    publish(then, [90.0, 91.0, 92.0], provenance=older(then))
    summary, _, suite = compare(now, then)
    found = entries(suite)
    assert counts(summary) == {"beyond spread": 1}
    mean, low, high, n = found[DIFFERENCE].values
    assert isinstance(mean, float) and isinstance(low, float) and isinstance(high, float)
    assert n == 3 and 0 < low < mean < high
    assert mean == pytest.approx(2.0333, abs=1e-3)
    assert found[LARGEST].values[0] == pytest.approx(2.1)
    assert found[DIFFERENCE].tone == "good"
    assert found[DIFFERENCE].runs == tuple(cell["run_id"] for cell in now.cells)
    assert found[NOW].cell == ("A", "digits") and found[THEN].cell is None


def older(factory) -> dict[str, Any]:
    """A provenance with another torch."""
    spec = factory.spec("a", "digits", 0, 0, 4)
    return factory.result(spec, factory.matrix(4, 90, 1, 0))["provenance"] | {"torch": "2.3.1"}


def test_differences_of_both_signs_stay_within_the_spread_and_name_the_version(sides) -> None:
    now, then = sides
    publish(now, [90.5, 90.5, 92.1])
    publish(then, [90.0, 91.0, 92.0], provenance=older(then))
    summary, environments, suite = compare(now, then)
    assert counts(summary) == {"within spread": 1}
    assert entries(suite)[WHY].text == "same specification, other numbers: PyTorch 2.3.1 -> 2.4.0"
    (torch,) = [line for line in environments.rows if line.label == "PyTorch"]
    assert torch.marks == ("differs",) and [entry.text for entry in torch.cells] == ["2.3.1", "2.4.0"]


def test_one_shared_pair_is_never_judged(sides) -> None:
    now, then = sides
    publish(now, [95.0, 95.0])
    publish(then, [90.0])
    summary, _, suite = compare(now, then)
    assert counts(summary) == {"moved": 1}
    found = entries(suite)
    assert found[DIFFERENCE].values[1:] == (None, None, 1) and found[DIFFERENCE].tone == ""
    assert "not reproduced" in found[WHY].text and "1 pair of seeds only now" in found[WHY].text


def test_another_specification_is_named_field_by_field(sides) -> None:
    now, then = sides
    publish(now, [90.0, 91.0], config={"top_k": 3, "a": 1, "b": 1, "c": 1})
    publish(then, [89.0, 91.0], config={"top_k": 5})
    text = entries(compare(now, then)[2])[WHY].text
    assert text == (
        "other specification: method.config.a none -> 1, method.config.b none -> 1, method.config.c none -> 1 and 1 more"
    )


def test_equal_numbers_of_another_specification_are_not_called_unchanged(sides) -> None:
    now, then = sides
    publish(now, [90.0], config={"top_k": 3})
    publish(then, [90.0], config={"top_k": 5})
    text = entries(compare(now, then)[2])[WHY].text
    assert text == "same to the last digit; other specification: method.config.top_k 5 -> 3"


def test_failed_and_missing_cells_are_words_and_say_when(sides) -> None:
    now, then = sides
    publish(then, [90.0])
    now.fail("A", now.spec("a", "digits", 0, 0, 4), "the loss is not finite")
    summary, _, suite = compare(now, then)
    found = entries(suite)
    assert counts(summary) == {"not comparable": 1}
    assert found[NOW].text == "failed" and found[NOW].tone == "word" and found[NOW].values[0] is None
    assert found[WHY].text == "1 run failed now (the loss is not finite)"


def test_cells_and_suites_of_one_folder_only_are_counted(sides, tmp_path: Path) -> None:
    now, then = sides
    publish(now, [90.0])
    publish(now, [90.0], label="new row")
    publish(then, [90.0])
    publish(then, [90.0], label="old row")
    extra = replace(then, suite="other", rows={}, columns={}, cells=[])
    publish(extra, [80.0], config={"top_k": 9})
    extra.write()
    both = load_suites(then.write(), ["smoke", "other"], None, mixed=True)
    tables = comparison_tables(loaded(now), both)
    assert [table.key for table in tables] == ["against-summary", "against-environments", "against-smoke"]
    assert [line.label for line in tables[0].rows] == ["smoke", "other", "all suites"]
    assert counts(tables[0]) == {"the same": 1, "only now": 1, "only then": 2}
    assert [line.label for line in tables[2].rows] == ["A", "new row", "old row"]


def test_another_split_of_the_data_is_the_first_reason(sides) -> None:
    now, then = sides
    publish(now, [90.0])
    publish(then, [80.0], split_hash="f" * 64, fingerprint=then.OLD)
    why = entries(compare(now, then)[2])[WHY].text
    assert why.startswith("same specification, other numbers: data split ffffffff -> digits-0, Code fingerprint")


def test_folders_are_named_as_they_were_typed(sides) -> None:
    now, then = sides
    publish(now, [90.0])
    publish(then, [90.0])
    tables = compare(now, then)
    assert all("Then: ../old. Now: here." in table.lead for table in tables)
    assert str(now.root.parent) not in repr(tables)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.00"), (0.524, "+0.52"), (-0.524, "-0.52"), (3.1e-7, "+3.1e-07"), (-0.001, "-1.0e-03")]
)
def test_a_difference_that_is_not_zero_is_never_printed_as_zero(value: float, text: str) -> None:
    assert moved_text(value) == text


def test_every_verdict_has_a_word_of_its_own() -> None:
    assert len({word for word, _ in WORDS.values()}) == len(WORDS)
