"""Figures of observations: the right numbers are drawn, and what is missing or damaged is named and never an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from smope_bench.benchmarks.suites.schema import Drawing
from smope_bench.harness.errors import UserError
from smope_bench.reports.figures import kinds
from smope_bench.reports.figures.figure import FigureFile
from smope_bench.reports.figures.kinds import paper_figures
from smope_bench.reports.figures.observed import experts as figures_experts
from smope_bench.reports.figures.observed import keys as figures_keys
from smope_bench.reports.figures.observed import scores as figures_scores
from smope_bench.reports.loading.model import Cell, Column, ResultRow, Run, SuiteResults
from smope_bench.reports.loading.run_result import Content, Costs, RunResult, Timings

TASKS, CLASSES, BLOCKS, HEADS, EXPERTS, WIDTH = 3, 6, 2, 4, 5, 8
COLUMN = Column("glyphs", "glyphs", TASKS)
KINDS = ("expert_use", "score_boxes", "key_projection", "validation_loss", "prompt_mass")
Arrays = dict[str, Any]


def make_run(run_id: str, seed: int = 0, **benchmark: Any) -> Run:
    content = Content(
        run_id=run_id,
        spec={"benchmark": {"name": "glyphs", "config": {"tasks": TASKS, **benchmark}}},
        accuracy_matrix=[[90.0] * TASKS for _ in range(TASKS)],
        test_counts=[10] * TASKS,
        class_names=[f"class {i}" for i in range(CLASSES)],
        timings=Timings(),
        costs=Costs(),
        provenance={"code_fingerprint": "f"},
    )
    return Run(run_id, seed, seed, "ok", outcome=RunResult(content))


def make_cell(label: str, *run_ids: str) -> Cell:
    runs = tuple(make_run(run_id, seed) for seed, run_id in enumerate(run_ids))
    return Cell(ResultRow(label, "m", "method"), COLUMN, runs, runs, "ok")


def arrays(seed: int = 0, experts: int = EXPERTS, heads: int = HEADS) -> Arrays:
    """Everything that a run can observe, small and random."""
    draw = np.random.default_rng(seed)
    images = CLASSES * 4
    return {
        "activation_counts": draw.integers(1, 50, (TASKS, BLOCKS, heads, experts)),
        "prefix_keys": draw.normal(0, 1, (TASKS, BLOCKS, heads, experts, WIDTH)).astype(np.float32),
        "expert_scores": draw.normal(0, 1, (images, heads, experts)).astype(np.float32),
        "head_inputs": draw.normal(0, 1, (images, heads, WIDTH)).astype(np.float32),
        "observed_labels": np.repeat(np.arange(CLASSES), 4),
        "validation_loss.task": np.repeat(np.arange(TASKS), 3),
        "validation_loss.phase": np.array(["sparse"] * 3 * TASKS),
        "validation_loss.epoch": np.tile(np.arange(3), TASKS),
        "validation_loss.loss": np.tile([4.0, 2.0, 1.0], TASKS) + seed / 10,
        "prompt_mass.tasks_done": np.repeat(np.arange(TASKS + 1), BLOCKS),
        "prompt_mass.block": np.tile([0, 2], TASKS + 1),
        "prompt_mass.share": np.array([0.5, 0.001, 0.4, 0.1, 0.3, 0.1, 0.25, 0.00001]) + seed / 100,
    }


def looking_at(found: dict[str, Arrays]) -> Callable[[str], Arrays]:
    def observed(run_id: str) -> Arrays:
        if run_id not in found:
            raise UserError(f"run {run_id} was not asked to observe anything")
        return found[run_id]

    return observed


def observed_figure(kind: str, cells: Sequence[Cell], found: dict[str, Arrays], y: str = "") -> list[FigureFile]:
    """The figures of one kind of a suite that has these cells."""
    table = {(cell.row.label, COLUMN.label): cell for cell in cells}
    results = SuiteResults("s", "S", "", True, tuple(cell.row for cell in cells), (COLUMN,), table, None)
    return paper_figures(results, [Drawing(kind, y=y)], "x", looking_at(found))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The matplotlib figures behind what is returned; without rendering, which is most of the time."""
    figures: list[Figure] = []

    def keep(draw: Callable[[Figure], None], size: tuple[float, float], name: str) -> tuple[str, bytes, bytes]:
        figures.append(Figure(figsize=size))
        draw(figures[-1])
        return "", b"", b""

    monkeypatch.setattr(kinds, "render", keep)
    return figures


def shown(figure: Figure) -> list[Any]:
    return [axes for axes in figure.axes if axes.get_visible()]


def heights(axes: Any) -> list[float]:
    return [bar.get_height() for bar in axes.patches]


def test_use_is_the_share_of_choices_by_rank(drawn: list[Figure]) -> None:
    first, last = arrays(1), arrays(2)
    for found, counts in ((first, [0, 30, 10, 60, 0]), (last, [20, 20, 20, 20, 20])):
        found["activation_counts"] = np.broadcast_to(counts, (TASKS, BLOCKS, HEADS, EXPERTS))
    first["activation_counts"] = first["activation_counts"].copy()
    first["activation_counts"][:-1] = 7  # what earlier tasks counted is part of the last count
    cells = [make_cell("low", "a"), make_cell("high", "b")]
    (file,) = observed_figure("expert_use", cells, {"a": first, "b": last})
    low, high = shown(drawn[0])
    np.testing.assert_allclose(heights(low), [60, 30, 10, 0, 0])
    np.testing.assert_allclose(heights(high), [20] * 5)
    assert low.get_ylim() == high.get_ylim()
    assert (low.get_title(loc="left"), high.get_title(loc="left")) == ("low", "high")
    assert file.name == "x-1-experts" and file.runs == ("a", "b")
    assert "low: 2.5 in effect, largest share 60.0 %, 2 never chosen" in file.alt
    assert "high: 5.0 in effect, largest share 20.0 %, 0 never chosen" in file.alt


def test_several_seeds_are_averaged_by_rank_with_their_range(drawn: list[Figure]) -> None:
    found = {"a": arrays(1), "b": arrays(2)}
    for run, counts in (("a", [80, 20, 0, 0, 0]), ("b", [0, 0, 0, 40, 60])):
        found[run]["activation_counts"] = np.broadcast_to(counts, (TASKS, BLOCKS, HEADS, EXPERTS))
    (file,) = observed_figure("expert_use", [make_cell("m", "a", "b")], found)
    (axes,) = shown(drawn[0])
    np.testing.assert_allclose(heights(axes), [70, 30, 0, 0, 0])
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, 60], [1, 80]])
    assert "2 runs each" in file.caption


def test_several_heads_stand_below_each_other_from_uneven_to_even(drawn: list[Figure]) -> None:
    found = arrays()
    counts = np.full((TASKS, 1, 6, EXPERTS), 10)
    for head in range(6):
        counts[:, 0, head, 0] = 10 + 40 * ((head * 5) % 6)  # unevenness 0, 5, 4, 3, 2, 1
    found["activation_counts"] = counts
    cells = [make_cell("p", "a"), make_cell("q", "a")]
    observed_figure("expert_use", cells, {"a": found}, y="heads")
    panels = shown(drawn[0])
    assert len(panels) == 4 * 2
    heads = [int(axes.get_ylabel().split("\n")[0].split()[-1]) for axes in panels[::2]]
    assert heads[0] == 2 and heads[-1] == 1
    tops = [heights(axes)[0] for axes in panels[::2]]
    assert tops == sorted(tops, reverse=True)


def test_the_typical_head_is_nearest_to_the_mean() -> None:
    assert figures_experts.typical_head(np.array([[[5.0, 9.0], [20.0, 6.0]], [[5.0, 12.0], [25.0, 4.0]]])) == (0, 1)


def test_boxes_show_quartiles_whiskers_and_few_outliers(drawn: list[Figure]) -> None:
    found = arrays()
    scores = np.tile(np.linspace(0, 10, 24)[:, None, None], (1, HEADS, EXPERTS))
    scores = np.concatenate([scores, np.linspace(100, 200, 20)[:, None, None] * np.ones((1, HEADS, EXPERTS))])
    found["expert_scores"] = np.concatenate([scores] + [scores[:24]] * 20)
    (file,) = observed_figure("score_boxes", [make_cell("m", "a")], {"a": found})
    (axes,) = shown(drawn[0])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "3", "4"]
    medians = [line for line in axes.lines if line.get_linewidth() == 1.8]
    expected = np.median(found["expert_scores"][:, 0])
    np.testing.assert_allclose([line.get_ydata()[0] for line in medians], expected)
    fliers = [line for line in axes.lines if line.get_marker() == "o"]
    assert all(len(line.get_ydata()) == figures_scores.FLIERS for line in fliers)
    assert fliers[0].get_ydata()[0] == 100 and fliers[0].get_ydata()[-1] == 200
    assert f"head 1 {expected:.1f}" in file.alt


def test_whiskers_reach_one_and_a_half_interquartile_ranges() -> None:
    values = np.array([*range(11)] * 10 + [15.0, 18.0])  # quartiles 2 and 8: the reach is 9
    box = figures_scores.box_of([figures_scores.Scores(values[:, None, None])], 0)
    assert (box["q1"], box["med"], box["q3"]) == (2, 5, 8)
    assert (box["whislo"], box["whishi"], box["fliers"].tolist()) == (0, 15, [18])


def test_projection_finds_the_plane_and_fixes_its_sign() -> None:
    draw = np.random.default_rng(0)
    plane = np.zeros((2, WIDTH))
    plane[0, 3], plane[1, 6] = -1, -1
    inputs, keys = (draw.normal(0, 1, (n, 2)) * [5, 2] @ plane for n in (40, 6))
    placed = figures_keys.project(inputs, keys)
    assert sum(placed.shares) == pytest.approx(1) and placed.shares[0] > placed.shares[1]
    mean = np.concatenate([inputs, keys]).mean(axis=0)
    # distances are kept, and a component points where its largest loading is positive
    between = np.linalg.norm(inputs[0] - keys[0])
    assert np.linalg.norm(placed.inputs[0] - placed.keys[0]) == pytest.approx(between, abs=1e-4)
    assert np.corrcoef(placed.inputs[:, 0], (inputs - mean)[:, 3])[0, 1] > 0.9
    flipped = figures_keys.project(inputs[::-1], keys)
    np.testing.assert_allclose(flipped.inputs[::-1], placed.inputs, atol=2e-6)


def test_keys_and_inputs_are_drawn_of_one_run(drawn: list[Figure]) -> None:
    found = {"a": arrays(1), "b": arrays(2)}
    cell = make_cell("m", "a", "b")
    (file,) = observed_figure("key_projection", [cell], found)
    everything, close = drawn[0].axes[:2]
    dots: list[Any] = list(everything.collections)
    inputs, keys = dots[:2]
    assert (len(inputs.get_offsets()), len(keys.get_offsets())) == (CLASSES * 4, EXPERTS)
    head, placed = figures_keys.best_head(figures_keys.read_points(found["a"], cell.used[0]))
    np.testing.assert_allclose(keys.get_offsets(), placed.keys)
    assert len(np.unique(inputs.get_facecolors(), axis=0)) == TASKS
    assert f"{100 * placed.shares[0]:.0f} % of the variance" in everything.get_xlabel()
    assert everything.get_title(loc="left") == f"block 1, head {head + 1}"
    low, high = close.get_xlim()
    assert low < placed.inputs[:, 0].min() and placed.inputs[:, 0].max() < high
    assert file.runs == ("a",) and "2 runs each" in file.caption


def test_labels_belong_to_tasks_of_their_sizes() -> None:
    labels = np.arange(CLASSES)
    assert figures_keys.tasks_of(labels, make_run("a")).tolist() == [0, 0, 1, 1, 2, 2]
    assert figures_keys.tasks_of(labels, make_run("a", split=[1, 4, 1])).tolist() == [0, 1, 1, 1, 1, 2]
    with pytest.raises(ValueError, match="are not those of 3 tasks"):
        figures_keys.tasks_of(labels + 1, make_run("a"))


def test_losses_are_a_panel_a_task_and_a_line_a_row(drawn: list[Figure]) -> None:
    cells = [make_cell("p", "a", "b"), make_cell("q", "c")]
    found = {"a": arrays(0), "b": arrays(2), "c": arrays(5)}
    (file,) = observed_figure("validation_loss", cells, found)
    panels = shown(drawn[0])
    assert [axes.get_title(loc="left") for axes in panels] == ["task 1", "task 2", "task 3"]
    for axes in panels:
        p, q = axes.lines
        np.testing.assert_allclose(p.get_xydata(), [[0, 4.1], [1, 2.1], [2, 1.1]])
        np.testing.assert_allclose(q.get_ydata(), [4.5, 2.5, 1.5])
        (band,) = (one for one in axes.collections if one.get_paths())
        assert band.get_paths()[0].get_extents().bounds == pytest.approx((0, 1.0, 2, 3.2))
        assert axes.get_yscale() == "log"
    assert file.runs == ("a", "b", "c")
    assert "p: 4.10 at first on average, at the end 1.10, 1.10, 1.10" in file.alt


def test_mass_is_drawn_before_and_after_training(drawn: list[Figure]) -> None:
    later = arrays(1)
    later = {key: value[BLOCKS:] if key.startswith("prompt_mass") else value for key, value in later.items()}
    (file,) = observed_figure("prompt_mass", [make_cell("p", "a"), make_cell("q", "b")], {"a": arrays(), "b": later})
    p, q = shown(drawn[0])
    after, before, limit = p.lines
    np.testing.assert_allclose(before.get_xydata(), [[1, 50], [3, 0.1]])
    np.testing.assert_allclose(after.get_xydata(), [[1, 25], [3, 0.01]])
    assert limit.get_ydata()[0] == 2 and p.get_ylim() == q.get_ylim() and p.get_yscale() == "log"
    np.testing.assert_allclose(q.lines[0].get_ydata(), [26, 1.001])
    assert len(q.lines) == 2 and "q cannot predict before a task has been learnt" in file.caption
    assert "Shares below 0.01 % are drawn there." in file.caption
    assert "p, blocks 1, 3: before training 50, 0.1; after training 25, 0.001. q," in file.alt


@pytest.mark.parametrize("kind", KINDS)
def test_missing_and_damaged_runs_are_named_and_left_out(kind: Any, drawn: list[Figure]) -> None:
    damaged = {key: value[:0] if value.dtype.kind != "U" else value for key, value in arrays().items()}
    nan = {key: value * np.nan if value.dtype.kind != "U" else value for key, value in arrays().items()}
    flat = {key: value.ravel()[:7] if value.ndim > 1 else value[:1] for key, value in arrays().items()}
    flat["validation_loss.task"] = np.zeros(2)
    text = {key: value.astype(str) for key, value in arrays().items()}
    found = {"good": arrays(), "damaged": damaged, "nan": nan, "flat": flat, "text": text, "empty": {}}
    bad = ("absent", "damaged", "nan", "flat", "text", "empty")
    cells = [make_cell("m", "absent", "good", "damaged", "nan"), make_cell("n", "flat", "text", "empty")]
    (file,) = observed_figure(kind, cells, found)
    assert file.runs == ("good",)
    left_out = re.search(r"Left out.*: (.*)\.$", file.caption)
    assert left_out and left_out[1] == ", ".join(bad)
    assert observed_figure(kind, cells[1:], found) == []
    assert observed_figure(kind, [], found) == []


@pytest.mark.parametrize("kind", ["expert_use", "score_boxes"])
def test_a_run_of_another_form_is_left_out(kind: Any, drawn: list[Figure]) -> None:
    found = {"a": arrays(0), "b": arrays(1, experts=7), "c": arrays(2)}
    (file,) = observed_figure(kind, [make_cell("m", "a", "b"), make_cell("n", "c")], found)
    assert file.runs == ("a", "c") and file.caption.endswith("form: b.")


def test_a_head_that_uses_all_experts_has_no_choices_to_draw(drawn: list[Figure]) -> None:
    found = arrays()
    found["activation_counts"] = found["activation_counts"] * 0
    assert observed_figure("expert_use", [make_cell("m", "a")], {"a": found}) == []


def test_kinds_that_are_not_observed_have_no_figure() -> None:
    cells, found = [make_cell("m", "a")], {"a": arrays()}
    assert observed_figure("heat_map", cells, found) == []
    assert observed_figure("of tomorrow", cells, found) == []


@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("only_svg")
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_records_give_the_same_small_drawings(kind: Any) -> None:
    cells = [make_cell(r"_$\frac{ <g>", "a", "b"), make_cell("x" * 200, "c")]
    found = {"a": arrays(1), "b": arrays(2), "c": arrays(3)}
    (one,), (two,) = (observed_figure(kind, cells, found) for _ in range(2))
    assert one == two
    assert one.svg.rstrip().endswith("</svg>") and "<image" not in one.svg and len(one.svg) < 150_000
