"""Manifests that name the wrong run, half characters, and damaged failures: nothing of them reaches a number or a file."""

from __future__ import annotations

import json

import pytest

from smope_bench.harness.errors import UserError
from smope_bench.harness.records.store import Store
from smope_bench.reports.loading.load import load_suite
from smope_bench.reports.loading.model import Cell


def only(store: Store, factory) -> Cell:
    """The one cell of a suite of one row and one column."""
    (cell,) = load_suite(store, "smoke", factory.FRESH).cells.values()
    return cell


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("rows", {"method": "other"}),
        ("columns", {"benchmark": "other"}),
        ("cells", {"order_seed": 7}),
        ("cells", {"train_seed": 7}),
    ],
)
def test_a_record_is_not_shown_in_a_cell_of_another_method_benchmark_or_seed(factory, part: str, change) -> None:
    factory.publish("A", factory.spec("a", "digits", 0, 0, 4), factory.matrix(4, 90.0, 1.0, 0))
    store = factory.write()
    manifest = store.read_manifest("smoke")
    manifest[part][0].update(change)
    (store.root / "suites" / "smoke.json").write_text(json.dumps(manifest))
    cell = only(store, factory)
    assert cell.outcomes == () and [run.state for run in cell.runs] == ["broken"]
    assert "the manifest names it for" in str(cell.runs[0].problem)


def test_half_a_character_in_a_manifest_is_refused_in_one_sentence(factory) -> None:
    factory.publish("A", factory.spec("a", "digits", 0, 0, 4), factory.matrix(4, 90.0, 1.0, 0))
    store = factory.write()
    file = store.root / "suites" / "smoke.json"
    file.write_text(
        file.read_text().replace('"label": "A"', '"label": "\\ud800"').replace('"row": "A"', '"row": "\\ud800"')
    )
    with pytest.raises(UserError, match="half a character"):
        load_suite(store, "smoke", factory.FRESH)


@pytest.mark.parametrize(
    ("text", "said"), [('{"error": "\\ud800 boom"}', "? boom"), ("[" * 100_000, "nested too deeply")]
)
def test_a_damaged_failure_is_still_a_failure(factory, text: str, said: str) -> None:
    factory.fail("A", factory.spec("a", "digits", 0, 0, 4), "boom")
    store = factory.write()
    (store.path(factory.cells[0]["run_id"]) / "failure.json").write_text(text)
    (run,) = only(store, factory).runs
    assert run.state == "failed" and said in str(run.problem)
    str(run.problem).encode()


def test_two_runs_of_the_same_seeds_in_one_cell_are_refused(factory) -> None:
    factory.publish("A", factory.spec("a", "digits", 0, 0, 2), factory.matrix(2, 90.0, 1.0, 0))
    factory.publish("A", factory.spec("a", "digits", 0, 0, 2, prompts=7), factory.matrix(2, 90.0, 1.0, 0))
    store = factory.write()
    manifest = store.read_manifest("smoke")
    (store.root / "suites" / "smoke.json").write_text(json.dumps(manifest | {"cells": factory.cells}))
    with pytest.raises(UserError, match="names two runs of 'A' on 'digits', order 0, training 0"):
        load_suite(store, "smoke", factory.FRESH)


def test_a_cell_whose_records_cannot_be_used_says_so_and_not_that_its_runs_failed(factory) -> None:
    factory.publish("A", factory.spec("a", "digits", 0, 0, 2), factory.matrix(2, 90.0, 1.0, 0))
    factory.plan("A", factory.spec("a", "digits", 1, 1, 2))
    store = factory.write()
    file = next(store.root.glob("*/result.json"))
    file.write_text(file.read_text()[:100])
    assert only(store, factory).state == "unusable"
    factory.fail("A", factory.spec("a", "digits", 2, 2, 2), "no")
    assert only(factory.write(), factory).state == "failed"
