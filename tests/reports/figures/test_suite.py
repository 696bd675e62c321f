"""Figures: the right numbers are drawn, odd suites do not stop them, and any label is only text."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from smope_bench.benchmarks.suites import SUITES
from smope_bench.reports.figures.accuracy import mean_matrix
from smope_bench.reports.figures.drawing.style import slim_svg
from smope_bench.reports.figures.kinds import built_in, figure_groups
from smope_bench.reports.loading.load import load_suite

DRAWN = [suite.name for suite in SUITES.values() if suite.observe]

EVERY = ("final", "stages", "matrices", "tradeoff", "forgetting")


def none_observed(run_id: str) -> dict:
    """What a store without observations answers."""
    from smope_bench.harness.errors import UserError

    raise UserError(f"no observations of {run_id}")


def figures_of(results, prefix: str = "x"):
    """All figures of the only benchmark."""
    group, *whole = figure_groups(results, prefix, none_observed)
    assert [one.title for one in whole] == ["Statistics"] * bool(whole)
    return {figure.name.removeprefix(f"{prefix}-1-"): figure for figure in group.figures}


def publish(factory, label: str, level: float, seeds=(0, 1), **config):
    """Rows that lose ten points on the first of two tasks."""
    for seed in seeds:
        mine = level + 10 * seed
        factory.publish(
            label, factory.spec("ncm", "digits", seed, seed, 2, **config), [[mine, None], [mine - 10, mine]]
        )


def test_mean_matrix_is_the_mean_over_runs_with_gaps_kept(factory) -> None:
    publish(factory, "A", 80.0)
    (cell,) = load_suite(factory.write(), "smoke", None).cells.values()
    np.testing.assert_array_equal(mean_matrix(cell), [[85.0, np.nan], [75.0, 85.0]])


@pytest.mark.usefixtures("only_svg")
def test_alternative_texts_carry_the_numbers(factory) -> None:
    publish(factory, "A", 80.0)
    figures = figures_of(load_suite(factory.write(), "smoke", None))
    assert list(figures) == ["final", "stages", "matrices"], "one row has nothing to be traded off against"
    assert "A 80.00 ± 7.07" in figures["final"].alt
    assert "A from 85.0 to 80.0" in figures["stages"].alt
    assert "A: 75.0, 85.0" in figures["matrices"].alt
    for figure in figures.values():
        assert figure.svg.rstrip().endswith("</svg>") and "<image" not in figure.svg
        assert not re.search(r"\b20\d\d-\d\d-\d\dT", figure.svg)


@pytest.mark.usefixtures("only_svg")
def test_every_figure_names_the_runs_that_it_draws_and_no_others(smoke) -> None:
    results = load_suite(smoke, "smoke", None)
    everything = {run.run_id for run in results.runs}
    ceilings = {run.run_id for row in results.rows_of("ceiling") for run in results.cell(row, results.columns[0]).runs}
    figures = figures_of(results)
    assert tuple(figures) == EVERY
    for name, figure in figures.items():
        assert set(figure.runs) == (everything - ceilings if name == "forgetting" else everything), name
        assert len(set(figure.runs)) == len(figure.runs)
        assert figure.alt and figure.caption and figure.title.endswith("digits")


def test_the_same_records_give_the_same_bytes(factory) -> None:
    publish(factory, "A", 80.0)
    results = load_suite(factory.write(), "smoke", None)
    first, again = (figure_groups(results, "x", none_observed) for _ in range(2))
    assert first == again
    for figure in first[0].figures:
        assert figure.png.startswith(b"\x89PNG") and figure.pdf.startswith(b"%PDF")


@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("only_svg")
@pytest.mark.parametrize("tasks", [1, 12])
def test_odd_labels_and_task_counts_are_drawn(factory, tasks: int) -> None:
    labels = ["_hidden", r"$\frac{", "中文 label", "x" * 300, "a\nb --> <g>"]
    for i, label in enumerate(labels):
        factory.publish(label, factory.spec(f"m{i}", "digits", 0, 0, tasks), factory.matrix(tasks, 90, 1, i))
    joint = factory.spec("joint", "digits", 0, 0, tasks)
    factory.publish("Joint", joint, factory.matrix(tasks, 97, 0, 0, joint=True), kind="ceiling")
    figures = figures_of(load_suite(factory.write(), "smoke", None))
    assert ("forgetting" in figures) == (tasks > 1)
    assert all("--> <g>" not in figure.svg for figure in figures.values())
    assert ">_hidden " in figures["stages"].svg, "the end of the line names a row that begins with an underscore"
    assert "中文 label" in figures["final"].svg


def test_a_benchmark_without_records_has_no_figures(factory) -> None:
    factory.plan("A", factory.spec("a", "digits", 0, 0, 2))
    assert figure_groups(load_suite(factory.write(), "smoke", None), "x", none_observed) == ()


@pytest.mark.usefixtures("only_svg")
def test_too_many_rows_have_no_matrices(factory) -> None:
    for i in range(21):
        publish(factory, f"row {i}", 50.0 + i, seeds=(0,), length=i)
    assert "matrices" not in figures_of(load_suite(factory.write(), "smoke", None))


@pytest.mark.usefixtures("only_svg")
def test_a_suite_that_the_code_does_not_know_has_the_common_figures(factory) -> None:
    publish(factory, "A", 80.0)
    results = replace(load_suite(factory.write(), "smoke", None), suite="gone")
    assert list(figures_of(results)) == ["final", "stages", "matrices"]


def test_every_figure_of_the_paper_has_its_drawing() -> None:
    kinds = {name: [drawing.kind for drawing in SUITES[name].drawings] for name in SUITES if re.match(r"fig\d", name)}
    assert sorted(kinds) == [f"fig{number}" for number in range(2, 10)]
    assert all(len(kind) == 1 for kind in kinds.values())
    known = {kind.name for kind in built_in()}
    assert all(drawing.kind in known for suite in SUITES.values() for drawing in suite.drawings)
    for name in ("fig3", "fig5", "fig7"):
        (drawing,) = SUITES[name].drawings
        varied = {drawing.x, drawing.y} - {""}
        assert all(varied == set(row.settings) for row in SUITES[name].rows), "axes are the settings that rows vary"


def test_slimming_leaves_texts_alone_and_drops_ids_that_nobody_uses() -> None:
    svg = (
        '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg><metadata>x</metadata><g id="figure_1"><path id="p1" d="M 1.23456 2\n'
        'L 3.000001 0.0005"/><use xlink:href="#p1"/><text>0.00005 rotate(-0 id="kept")</text></g></svg>'
    )
    slim = slim_svg(svg)
    assert '0.00005 rotate(-0 id="kept")' in slim
    assert 'id="p1"' in slim and "figure_1" not in slim and "metadata" not in slim
    assert 'd="M 1.23 2 L 3 0"' in slim


@pytest.mark.parametrize("suite", DRAWN)
def test_a_paper_figure_that_cannot_be_drawn_is_said_to_be_missing(make_factory, only_svg, suite: str) -> None:
    made = make_factory(suite=suite)
    made.publish("A", made.spec("a", "digits", 0, 0, 2), made.matrix(2, 90, 1, 0))
    (group,) = figure_groups(load_suite(made.write(), suite, made.FRESH), "x", none_observed)
    assert len(group.notes) == 1 and f"smope-bench run {suite} --tiny --results {made.root} does such" in group.notes[0]
