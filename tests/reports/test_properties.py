"""What must hold of every report, whatever was measured: order, duplicates, single runs, gaps, ties, shifts and traces."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from smope_bench.harness.errors import UserError
from smope_bench.harness.metrics import (
    backward_transfer,
    cumulative_average_accuracy,
    final_average_accuracy,
    forgetting,
    forgetting_from_maximum,
    learning_accuracy,
    micro_accuracy,
    stepwise_forgetting,
)
from smope_bench.harness.records.atomic_write import write_json_atomically
from smope_bench.harness.records.record import Record
from smope_bench.harness.records.store import Store
from smope_bench.reports.loading.load import load_suite, load_suites
from smope_bench.reports.loading.model import SuiteResults
from smope_bench.reports.tables.benchmark import benchmark_tables
from smope_bench.reports.tables.comparison import WORDS as VERDICTS
from smope_bench.reports.tables.comparison import comparison_tables
from smope_bench.reports.tables.costs import cost_table
from smope_bench.reports.tables.paper import paper_table
from smope_bench.reports.tables.published_comparison import published_comparison
from smope_bench.reports.tables.statistics import statistics_tables
from smope_bench.reports.tables.table import Table, TableCell
from smope_bench.reports.writers.csv import table_csv, tidy_csv
from smope_bench.reports.writers.latex import table_latex
from smope_bench.reports.writers.markdown import table_markdown

SUITE, COLUMN, TASKS = "smoke", "digits", 3
ROWS = ("A", "B", "C", "D")
METRICS: Mapping[str, Callable[..., float | None]] = {
    "FAA": final_average_accuracy,
    "CAA": cumulative_average_accuracy,
    "FM": forgetting,
}
WORDS = {"missing", "failed", "not planned"}

# Explaining a failure takes minutes and is not wanted in a suite that has to be quick.
few = settings(
    max_examples=6,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

Fate = tuple[int, ...] | None
"""What a planned run came to: its last accuracies, task by task, in percent; or nothing."""


@dataclass(frozen=True)
class Plan:
    """What a store holds: for each (row, seed) a fate, in the order of rows and seeds."""

    fates: Mapping[tuple[str, int], Fate]

    @property
    def rows(self) -> list[str]:
        """Labels, in order."""
        return list(dict.fromkeys(row for row, _ in self.fates))

    @property
    def is_whole(self) -> bool:
        """Whether every run was done."""
        return None not in self.fates.values()


def accuracies() -> st.SearchStrategy[Fate]:
    """Last accuracies in whole percent, far enough from 0 and 100 to be shifted."""
    return st.tuples(*[st.integers(20, 80)] * TASKS)


@st.composite
def plans(draw: st.DrawFn, *, seeds: tuple[int, int] = (1, 4), gaps: bool = False) -> Plan:
    """Two to four rows on one benchmark, every row with the same seeds."""
    rows = ROWS[: draw(st.integers(2, 4))]
    count = draw(st.integers(*seeds))
    fate = st.one_of(st.none(), accuracies()) if gaps else accuracies()
    return Plan({(row, seed): draw(fate) for row in rows for seed in range(count)})


def matrix_of(last: Sequence[int], shift: float = 0.0) -> list[list[float | None]]:
    """An accuracy matrix that ends in ``last``, with two points forgotten a stage."""
    return [[last[i] + 2.0 * (TASKS - 1 - t) + shift if i <= t else None for i in range(TASKS)] for t in range(TASKS)]


class Worlds:
    """Makes results folders of plans."""

    def __init__(self, factory: Any, root: Path) -> None:
        self._factory, self._root, self._made = factory, root, 0

    def spec(self, row: str, seed: int) -> Any:
        """The run of a row and a seed."""
        return self._factory.spec(row.lower(), COLUMN, seed, seed, TASKS)

    def make(self, plan: Plan, *, shift: float = 0.0, shuffle: int | None = None) -> Store:
        """A new folder; ``shuffle`` seeds the order in which runs are written and the manifest names them."""
        self._made += 1
        world = replace(self._factory, root=self._root / str(self._made), rows={}, columns={}, cells=[])
        places = list(plan.fates)
        if shuffle is not None:
            random.Random(shuffle).shuffle(places)
        for row, seed in places:
            fate = plan.fates[row, seed]
            if fate is None:
                world.plan(row, self.spec(row, seed))
            else:
                world.publish(row, self.spec(row, seed), matrix_of(fate, shift))
        self._write(world, plan.rows)
        return world.store

    def _write(self, world: Any, rows: Sequence[str]) -> None:
        """The manifest with its rows in their order and its cells as they come, past the store that would sort them."""
        head = {"suite": SUITE, "title": world.title, "description": world.description, "tiny": True}
        parts = {"rows": [world.rows[row] for row in rows], "columns": [*world.columns.values()], "cells": world.cells}
        write_json_atomically(world.root / "suites" / f"{SUITE}.json", {**head, **parts})


@pytest.fixture
def worlds(factory) -> Iterator[Callable[[], Any]]:
    """A context that gives a ``Worlds`` and removes its folders."""

    @contextmanager
    def opened() -> Iterator[Worlds]:
        with TemporaryDirectory() as folder:
            yield Worlds(factory, Path(folder))

    yield opened


def read(store: Store) -> SuiteResults:
    return load_suite(store, SUITE, None)


def own_grids(results: SuiteResults) -> list[Table]:
    """The tables whose entries are of one cell each."""
    return [paper_table(results), *benchmark_tables(results)]


def tables(results: SuiteResults) -> list[Table]:
    """Every table of a suite."""
    found = [*own_grids(results), published_comparison(results), *statistics_tables(results), cost_table(results)]
    return [table for table in found if table is not None]


def files(results: SuiteResults) -> list[str]:
    """Every table that a report writes of a suite."""
    written = [write(table) for table in tables(results) for write in (table_csv, table_markdown, table_latex)]
    return [*written, tidy_csv([results])]


def entries(table: Table) -> Iterator[tuple[str, str, TableCell]]:
    """(row label, text of the heading, entry)."""
    for line in table.rows:
        for heading, entry in zip(table.headings, line.cells, strict=True):
            yield line.label, heading.text, entry


def numbers(entry: TableCell) -> list[float]:
    """The measured numbers of an entry: counts are whole numbers and are not among them."""
    return [value for value in entry.values if isinstance(value, float)]


def metrics(results: SuiteResults) -> Iterator[tuple[str, str, TableCell]]:
    """The entries that show a metric."""
    for table in own_grids(results):
        for row, heading, entry in entries(table):
            if heading in METRICS:
                yield row, heading, entry


@few
@given(plan=plans(gaps=True), shuffle=st.integers(0, 999))
def test_the_order_in_which_runs_were_written_and_named_changes_nothing(worlds, plan: Plan, shuffle: int) -> None:
    with worlds() as world:
        one, other = read(world.make(plan)), read(world.make(plan, shuffle=shuffle))
        assert tables(one) == tables(other)
        assert files(one) == files(other)


@few
@given(plan=plans())
def test_a_seed_that_is_planned_twice_counts_once(worlds, plan: Plan) -> None:
    with worlds() as world:
        store = world.make(plan)
        before = files(read(store))
        manifest = store.read_manifest(SUITE)
        assert manifest is not None
        store.write_manifest(SUITE, manifest | {"cells": manifest["cells"] * 2})
        assert files(read(store)) == before
        write_json_atomically(store.root / "suites" / f"{SUITE}.json", manifest | {"cells": manifest["cells"] * 2})
        with pytest.raises(UserError, match=r"names run .* twice"):
            read(store)


@few
@given(plan=plans(seeds=(1, 1)))
def test_one_seed_gives_no_deviation_no_interval_and_no_claim(worlds, plan: Plan) -> None:
    with worlds() as world:
        results = read(world.make(plan))
    for _, _, entry in metrics(results):
        assert len(numbers(entry)) == 1 and "(one seed)" in entry.text
    for table in benchmark_tables(results):
        assert all(entry.text == "–" for _, heading, entry in entries(table) if heading.startswith("95 %"))
    for table in statistics_tables(results):
        for _, _, entry in entries(table):
            assert entry.tone not in ("good", "bad") and entry.text not in ("better", "worse")


@few
@given(plan=plans(gaps=True))
def test_what_is_missing_is_a_word_and_is_never_averaged(worlds, plan: Plan) -> None:
    with worlds() as world:
        results = read(world.make(plan))
    for row, heading, entry in metrics(results):
        done = [fate for (label, _), fate in plan.fates.items() if label == row and fate is not None]
        if not done:
            assert entry.text in WORDS and not numbers(entry) and entry.tone == "word" and entry.place == 0
        elif heading == "FAA":
            assert entry.values[0] == pytest.approx(math.fsum(sum(fate) / TASKS for fate in done) / len(done))
            assert len(entry.runs) == len(done)


@few
@given(plan=plans(seeds=(2, 3)), tied=st.sampled_from(["A", "B"]))
def test_ties_share_a_place(worlds, plan: Plan, tied: str) -> None:
    fates = dict(plan.fates)
    for row, seed in plan.fates:
        if row in ("A", "B"):  # the same runs in another order of seeds: equal means, unequal pairs
            fates[row, seed] = plan.fates[tied, seed]
    with worlds() as world:
        results = read(world.make(Plan(fates)))
    places = {(row, heading): entry.place for row, heading, entry in metrics(results)}
    texts = {(row, heading): entry.text for row, heading, entry in metrics(results)}
    for heading in METRICS:
        assert places["A", heading] == places["B", heading]
        first = {text.split()[0] for (_, name), text in texts.items() if name == heading}
        for (row, name), place in places.items():
            same = [other for (other, kind) in places if kind == name and texts[other, kind] == texts[row, name]]
            assert {places[other, name] for other in same} == {place}
        assert len(first) == 1 or 1 in {place for (_, name), place in places.items() if name == heading}


@few
@given(plan=plans(seeds=(2, 4)), shift=st.integers(-9, 9))
def test_a_constant_shifts_means_and_leaves_places_and_comparisons_alone(worlds, plan: Plan, shift: int) -> None:
    with worlds() as world:
        one, other = read(world.make(plan)), read(world.make(plan, shift=float(shift)))
    for (row, heading, before), (_, _, after) in zip(metrics(one), metrics(other), strict=True):
        moved = 0 if heading == "FM" else shift
        (mean, std, *_), (shifted, same, *_) = numbers(before), numbers(after)
        assert (shifted, same) == pytest.approx((mean + moved, std), abs=1e-9)
        assert (row, after.place) == (row, before.place)
    for before, after in zip(statistics_tables(one), statistics_tables(other), strict=True):
        for (_, heading, first), (_, _, second) in zip(entries(before), entries(after), strict=True):
            assert (first.tone, first.place) == (second.tone, second.place)
            assert numbers(second) == pytest.approx(numbers(first), abs=1e-7), (before.key, heading)


@few
@given(plan=plans(gaps=True))
def test_every_number_can_be_recomputed_from_the_runs_that_it_names(worlds, plan: Plan) -> None:
    with worlds() as world:
        store = world.make(plan)
        results = read(store)
        records = {one.run_id: one.result for one in store.scan() if isinstance(one, Record)}
    for table in tables(results):
        for _, _, entry in entries(table):
            assert set(entry.runs) <= records.keys()
            assert entry.runs or not numbers(entry), (table.key, entry)
    for table in own_grids(results):
        for _, _, entry in entries(table):
            assert entry.cell is not None
            assert set(entry.runs) == {run.run_id for run in results.cells[entry.cell].used}
    for row, heading, entry in metrics(results):
        if numbers(entry):
            assert {records[run]["spec"]["method"]["name"] for run in entry.runs} == {row.lower()}
            values = [METRICS[heading](records[run]["accuracy_matrix"]) for run in entry.runs]
            assert None not in values
            found = [value for value in values if value is not None]
            assert entry.values[0] == pytest.approx(math.fsum(found) / len(found), abs=1e-9)


@few
@given(plan=plans(gaps=True))
def test_the_tidy_table_can_be_recomputed_from_the_runs_that_it_names(worlds, plan: Plan) -> None:
    with worlds() as world:
        store = world.make(plan)
        lines = [line.split(",") for line in tidy_csv([read(store)]).splitlines()]
        records = {one.run_id: one.result for one in store.scan() if isinstance(one, Record)}
    known = {
        "faa": final_average_accuracy,
        "caa": cumulative_average_accuracy,
        "fm": forgetting,
        "micro": micro_accuracy,
        "la": learning_accuracy,
        "bwt": backward_transfer,
        "fm_max": forgetting_from_maximum,
        "fm_step": stepwise_forgetting,
    }
    head = lines[0]
    for line in lines[1:]:
        named = dict(zip(head, line, strict=True))
        runs = named["run_ids"].split()
        assert int(named["n"]) == len(runs) and (named["mean"] == "") == (not runs)
        if runs:
            results = [records[run] for run in runs]
            values = [
                known[named["metric"]](one["accuracy_matrix"], *[one["test_counts"]] * (named["metric"] == "micro"))
                for one in results
            ]
            assert float(named["mean"]) == pytest.approx(sum(value or 0.0 for value in values) / len(values), abs=1e-9)


@few
@given(plan=plans(gaps=True))
def test_one_suite_reads_the_same_alone_and_with_its_folder(worlds, plan: Plan) -> None:
    with worlds() as world:
        store = world.make(plan)
        assert load_suites(store, [SUITE], None).suites == (read(store),)


@few
@given(plan=plans(seeds=(2, 4)), shift=st.integers(-9, 9))
def test_folders_that_differ_by_a_constant_are_equal_or_beyond_the_spread(worlds, plan: Plan, shift: int) -> None:
    with worlds() as world:
        now, then = (load_suites(world.make(plan, shift=by), [SUITE], None) for by in (float(shift), 0.0))
        _, _, table = comparison_tables(now, then)
    word = VERDICTS["beyond" if shift else "equal"][0]
    assert {entry.text for _, heading, entry in entries(table) if heading == "verdict"} == {word}
    assert all(
        entry.values[0] == pytest.approx(shift, abs=1e-9)
        for _, heading, entry in entries(table)
        if heading in ("now - then", "largest")
    )
