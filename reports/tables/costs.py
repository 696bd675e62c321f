"""Tables of costs: counted parameters and operations beside the SMoPE paper's Table 3, and what stored runs took.

``Report`` is a cost report's plain values, as ``smope_bench.harness.cost.report`` makes them: operations are those of one image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Annotated, Any

from pydantic import BaseModel, Field, StrictInt

from smope_bench.benchmarks.suites import SUITES
from smope_bench.reports.formatting import column_text
from smope_bench.reports.loading.model import KINDS, Cell, SuiteResults, median
from smope_bench.reports.statistics.published import published_values
from smope_bench.reports.tables.table import Block, Heading, Row, Table, TableCell
from smope_bench.reports.text import NONE, file_name, memory, number, signed, whole


class _Pass(BaseModel):
    forward: StrictInt
    backward: StrictInt


class _Step(_Pass):
    forward_by_torch: StrictInt
    query: bool
    traced: bool
    uncounted: dict[str, Any]
    unknown: dict[str, Any] = {}
    missing: dict[str, Any] = {}


class _Phase(BaseModel):
    name: str
    tasks: Annotated[Sequence[int], Field(min_length=1)]
    parameters: StrictInt
    step: _Step


class _Published(BaseModel):
    parameters: StrictInt
    train: StrictInt
    test: StrictInt
    note: str


class _Method(BaseModel):
    method: str
    title: str
    parameters: StrictInt
    published: _Published | None
    phases: Sequence[_Phase]
    test: _Step


class _Geometry(BaseModel):
    num_classes: StrictInt
    num_tasks: StrictInt


class _Backbone(BaseModel):
    published: StrictInt
    complete: _Pass
    own: _Pass


class CountedReport(BaseModel):
    """Form of a cost report, for checking one that was read from a file."""

    geometry: _Geometry
    images: StrictInt
    backbone: _Backbone
    rows: Sequence[_Method]


Report = Mapping[str, Any]
CostRow = Mapping[str, Any]
Printed = dict[str, dict[str, str]]

QUANTITIES = {"params_m": "Parameters (M)", "train_gflops": "Training GFLOPs", "test_gflops": "Test GFLOPs"}
"""The columns of Table 3 by their names in the file of published results."""
_UNITS = (("parameters", 1e6), ("train", 1e9), ("test", 1e9))
_TEXT = {"sort": "text", "is_numeric": False}
NOT_COUNTED, EQUAL, DIFFERENT = "not counted", "as printed", "printed otherwise"

CONVENTION_LEAD = (
    "Counted by the paper's convention, beside what it prints, to its digits. Percentages are of the first row of the printed "
    "table. {classes} classes in {tasks} tasks."
)
CONVENTION_NOTES = (
    "Learnable here: every tensor that any phase of any task of this code trains, once and whole, backbone excluded. Closed-form "
    "methods learn nothing by gradient; stored statistics are not parameters.",
    "By convention: what the paper's Table 3 counts for the method. Where the code has something else, a note names it.",
    "GFLOPs by convention: forward passes only. A pass is two operations a multiply-add of linear layers and convolution, the "
    "convolution's bias, 5 an element of a LayerNorm and 1 of a GELU, with all blocks complete: {a_pass:,} operations. A method's "
    "passes, one {classes}-way classifier and what the method computes beside them (task inference, the making of prompts) are "
    "added up by the same rule. Products of attention are not counted, so a prompt in it costs nothing.",
    "Difference: counted less printed, both to two digits.",
)
EXECUTED_LEAD = (
    "What this code executes, in GFLOPs an image: two operations a multiply-add of every linear layer, convolution, matrix "
    "product, einsum and distance matrix and of both products of attention. A phase is a kind of training step; test is a "
    "prediction."
)
EXECUTED_NOTES = (
    "Forward: fvcore's trace of predict and of training_step with handles of our own, as fvcore's do not see fused attention and "
    "misread broadcast products. Backward: torch's FlopCounterMode over the gradient of the same step, as fvcore traces forwards "
    "only. torch's counter also counts every forward; {agreement}.",
    "A query pass of the frozen backbone is included wherever a step or prediction needs it. At test, and in training without "
    "random augmentation, the trainer keeps these features, so that the pass is made once an image and not once an epoch.",
    "The bare backbone takes {complete} for a forward with all blocks complete. This code computes the last block for the class "
    "token alone where it has no prompt: {own}. A backward down to the images adds {complete_backward} or {own_backward}; the "
    "backbone is frozen, and no gradient of its weights is computed.",
    "Trains: the parameters of the phase's optimiser in the last task that has the phase.",
    "A batch has {images} images: what is done once a batch (penalties on the prompts) or once an epoch is shared between them, "
    "and weighs less in a larger batch. A fused attention kernel computes its scores again in the backward; this is not counted.",
    "Tasks are entered and not trained: what earlier tasks would have stored (class statistics, counts of use) is empty, and a "
    "loss that leaves out what is empty is counted without it.",
    "Not counted: the optimiser's own work, and what a task does beside its steps (statistics, alignment, counting of experts, "
    "closed forms); element-wise and sorting work. Operators left out: {uncounted}.",
)


def printed_values() -> Printed:
    """Table 3 as printed: by method, then by column."""
    found: Printed = {}
    counted = [suite.printed for suite in SUITES.values() if suite.counts_only]
    for key, value in published_values().items():
        if any(table and (key.paper, key.table) == (table.paper, table.table) for table in counted):
            found.setdefault(key.method, {})[key.metric] = value.text
    return found


def exact_convention(row: CostRow) -> tuple[float, ...]:
    """Million parameters and GFLOPs an image in training and at test by the convention; empty for a method without one."""
    published = row["published"]
    return () if published is None else tuple(published[name] / unit for name, unit in _UNITS)


def by_convention(row: CostRow) -> dict[str, str]:
    """The published convention's values of a row, formatted as in Table 3; empty for a method without one."""
    return {quantity: f"{value:.2f}" for quantity, value in zip(QUANTITIES, exact_convention(row), strict=False)}


def with_printed(report: Report) -> dict[str, Any]:
    """The report with Table 3's rounding of each row and what the paper prints, rows in the order of ``ordered``."""
    printed = printed_values()
    rows = [
        {**row, "table3": {"computed": by_convention(row), "printed": printed.get(row["method"], {})}}
        for row in ordered(report["rows"], printed)
    ]
    return {**report, "rows": rows}


def ordered(rows: Sequence[CostRow], printed: Printed) -> list[CostRow]:
    """The rows of Table 3 in its order, then the others in theirs."""
    places = {method: place for place, method in enumerate(printed)}
    return sorted(rows, key=lambda row: places.get(row["method"], len(places)))


def counted_grids(report: Report, key: str, title: str, *, by_name: bool = False) -> tuple[Table, Table]:
    """Both tables of a cost report: by the published convention, and as executed. ``key`` begins their names.

    ``by_name`` labels the rows with the methods' names; otherwise they have their titles, and methods of Table 3 that the
    report lacks have a row too. ``report`` is of the form ``CountedReport``.
    """
    label = "method" if by_name else "title"
    return _convention(report, f"{key}-convention", title, label), _executed(report, f"{key}-executed", title, label)


def _convention(report: Report, key: str, title: str, label: str) -> Table:
    printed = printed_values()
    headings = [
        Heading("Learnable here", help="parameters that this code trains, over all tasks", fields=("parameters",)),
        Heading("By convention", help="parameters by the paper's convention", fields=("parameters",)),
    ]
    for group in QUANTITIES.values():
        parts = (("Counted", "by the paper's convention"), ("Printed", "as the paper prints it"), ("Difference", ""))
        headings += [Heading(text, group, meaning, sort="up") for text, meaning in parts]
    rows = ordered(report["rows"], printed)
    base = next((by_convention(row) for row in rows if row["method"] == next(iter(printed))), {})
    lines = [Row(row[label], _convention_entries(row, printed, base)) for row in rows]
    counted = {row["method"] for row in rows}
    if label == "title" and "suite_title" not in report:  # a suite of one's own has its rows alone
        lines += [_uncounted_line(method, printed) for method in printed if method not in counted]
    notes = [(row[label], row["published"]["note"]) for row in rows if (row["published"] or {}).get("note")]
    geometry = report["geometry"]
    facts = {"classes": geometry["num_classes"], "tasks": geometry["num_tasks"]}
    facts["a_pass"] = report["backbone"]["published"]
    sentences = [note.format(**facts) for note in CONVENTION_NOTES] + [
        f"{name} by convention: {note}." for name, note in notes
    ]
    blocks = (Block(tuple(lines)),)
    return Table(key, title, "Method", tuple(headings), blocks, CONVENTION_LEAD.format(**facts), tuple(sentences))


def _convention_entries(row: CostRow, printed: Printed, base: Mapping[str, str]) -> tuple[TableCell, ...]:
    computed, theirs = by_convention(row), printed.get(row["method"], {})
    count = None if row["published"] is None else row["published"]["parameters"]
    entries = [_count(row["parameters"]), _count(count)]
    for quantity, exact in zip_longest(QUANTITIES, exact_convention(row)):
        own, other = computed.get(quantity), theirs.get(quantity)
        counted = TableCell(own or NONE, () if exact is None else (exact,), small=_share(own, base, quantity))
        entries += [counted, _printed(other, printed, quantity), _difference(own, other)]
    return tuple(entries)


def _count(value: int | None) -> TableCell:
    return TableCell(NONE, tone="muted") if value is None else TableCell(whole(value), (value,))


def _printed(text: str | None, printed: Printed, quantity: str) -> TableCell:
    if text is None:
        return TableCell(NONE, note="not printed", tone="muted")
    return TableCell(text, (float(text),), small=_share(text, next(iter(printed.values())), quantity))


def _difference(own: str | None, other: str | None) -> TableCell:
    """Green where the two rounded values are equal, red where they differ."""
    if own is None or other is None:
        return TableCell(NONE, tone="muted")
    difference = round(float(own) - float(other), 2)
    note, tone = (EQUAL, "good") if own == other else (DIFFERENT, "bad")
    return TableCell(signed(difference), (difference,), note=note, tone=tone)


def _uncounted_line(method: str, printed: Printed) -> Row:
    """A row of the printed table that the report lacks."""
    suites = (suite for suite in SUITES.values() if suite.counts_only)
    label = next((row.label for suite in suites for row in suite.rows if row.method == method), method)
    word, nothing = TableCell(NOT_COUNTED, tone="word"), TableCell(NONE, tone="muted")
    places = [(word, _printed(printed[method].get(quantity), printed, quantity), nothing) for quantity in QUANTITIES]
    return Row(label, (word, word, *(entry for place in places for entry in place)))


def _executed(report: Report, key: str, title: str, label: str) -> Table:
    headings = (
        Heading("Step", **_TEXT),
        Heading("Trains", help="parameters of the step's optimiser"),
        Heading("Query pass", help="whether the step also needs a pass of the frozen backbone", **_TEXT),
        *(Heading(text, "GFLOPs an image", sort="up") for text in ("Forward", "Backward", "Total")),
    )
    rows, bare = ordered(report["rows"], printed_values()), report["backbone"]
    facts = {
        "agreement": agreement(report),
        "complete": giga(bare["complete"]["forward"]),
        "own": giga(bare["own"]["forward"]),
        "complete_backward": giga(bare["complete"]["backward"]),
        "own_backward": giga(bare["own"]["backward"]),
        "images": report["images"],
        "uncounted": ", ".join(sorted({name for step in _steps(rows) for name in step["uncounted"]})) or "none",
    }
    lines = [
        Row(row[label], _executed_entries(*step))
        for row in rows
        for step in (*(_phase_steps(row, report) or [("closed form", None, None)]), (test_text(row), None, row["test"]))
    ]
    notes = (*_unknown_work(rows, report), *(note.format(**facts) for note in EXECUTED_NOTES))
    return Table(key, f"{title}: as executed", "Method", headings, (Block(tuple(lines)),), EXECUTED_LEAD, notes)


def _unknown_work(rows: Sequence[CostRow], report: Report) -> list[str]:
    """A sentence for each step with products that a counter does not know."""
    found = []
    for row in rows:
        for text, _, step in (*_phase_steps(row, report), ("test", None, row["test"])):
            missing, unknown = (", ".join((step or {}).get(key) or {}) for key in ("missing", "unknown"))
            where = f"{row['method']}, {text}"
            if missing:
                beneath = f" (beneath {unknown})" if unknown else ""
                found.append(
                    f"Counted in part: {where}: neither counter knows {missing}{beneath}; its work is not in the row."
                )
            elif unknown:
                found.append(
                    f"Counted by torch: {where}: fvcore does not know {unknown}; the larger of both counts is taken."
                )
    return found


def _phase_steps(row: CostRow, report: Report) -> list[tuple[str, int | None, CostRow | None]]:
    return [(phase_text(phase, report), phase["parameters"], phase["step"]) for phase in row["phases"]]


def _executed_entries(text: str, trains: int | None, step: CostRow | None) -> tuple[TableCell, ...]:
    head = (TableCell(text, (text,)), _count(trains))
    if step is None:
        return (*head, *(TableCell(NONE, tone="muted"),) * 4)
    query = "yes" if step["query"] else "no"
    marks = () if step["traced"] else ("by torch's counter",)
    forward, *others = step["forward"], step["backward"], step["forward"] + step["backward"]
    operations = (TableCell(giga(value), (value / 1e9,)) for value in others)
    return (*head, TableCell(query, (query,)), TableCell(giga(forward), (forward / 1e9,), marks=marks), *operations)


def test_text(row: CostRow) -> str:
    """``test``, and how many passes of the backbone with an adaptation set each it takes after the last task, if several."""
    passes = row.get("passes_at_test", 1)
    return f"test ({passes} passes)" if passes > 1 else "test"


def phase_text(phase: CostRow, report: Report) -> str:
    """A phase's name, and its tasks where not all tasks have it."""
    tasks = phase["tasks"]
    if len(tasks) == report["geometry"]["num_tasks"] or phase["name"] == "train":
        return str(phase["name"])
    where = str(tasks[0]) if len(tasks) == 1 else f"{tasks[0]}-{tasks[-1]}"
    return f"{phase['name']} (task {where})"


def _steps(rows: Sequence[CostRow]) -> Iterator[CostRow]:
    """Every counted step and prediction."""
    for row in rows:
        yield from (phase["step"] for phase in row["phases"])
        yield row["test"]


def agreement(report: Report) -> str:
    """The largest relative difference between the two counters of forwards, in words."""
    counts = [count for count in _steps(report["rows"]) if count["forward_by_torch"]]
    worst = max((abs(count["forward"] / count["forward_by_torch"] - 1) for count in counts), default=0.0)
    return "the two agree exactly" if worst == 0 else f"the largest difference is {100 * worst:.3f} %"


def giga(operations: int) -> str:
    """Operations in units of 10^9, with three decimals."""
    return f"{operations / 1e9:.3f}"


def _share(text: str | None, base: Mapping[str, str], quantity: str) -> str:
    """``50 %`` of the base row's operations, as in the paper; empty for parameters."""
    of = base.get(quantity)
    return "" if text is None or of is None or quantity == "params_m" else f"{100 * float(text) / float(of):.0f} %"


COST_HEADINGS = (
    Heading("Learnable parameters", help="Every tensor that the run trains, backbone excluded.", fields=("count",)),
    Heading("Training time", help="Training and what a task does at its end.", fields=("seconds",)),
    Heading("Total time", help="The whole run, with tests.", fields=("seconds",)),
    Heading(
        "Memory increase",
        help="The peak less what was in use when training began: of the device on a GPU; on a CPU of the process, whose first run "
        "also counts what is loaded once.",
        fields=("MiB",),
    ),
    Heading(
        "Training images",
        help="Images of the training set in every pass over it: to train, and to count or gather statistics.",
        fields=("count",),
    ),
)


_WHOLE_PEAK = Heading(
    "Peak of the process",
    help="Of rows with records that do not have the increase. On a CPU it depends on what the process did before the run.",
    fields=("MiB",),
)


def cost_table(results: SuiteResults) -> Table | None:
    """Times, memory and sizes of every cell with usable runs, as medians over its runs; None where there is none."""
    several = len(results.columns) > 1
    is_old = any(cell.outcomes and cell.memory_increase is None for cell in results.all_cells)
    headings = (*COST_HEADINGS[:-1], *(_WHOLE_PEAK,) * is_old, COST_HEADINGS[-1])
    blocks = []
    for column in results.columns:
        cells = [results.cell(row, column) for kind in KINDS for row in results.rows_of(kind)]
        lines = tuple(_cost_line(cell, with_peak=is_old) for cell in cells if cell.outcomes)
        if lines:
            blocks.append(Block(lines, column_text(column) if several else ""))
    lead = "What the rows took: medians over the runs that are averaged, on the machines that made them."
    key, title = f"{file_name(results.suite)}-costs", f"{results.title}: costs"
    return Table(key, title, "Method", headings, tuple(blocks), lead) if blocks else None


def _cost_line(cell: Cell, *, with_peak: bool) -> Row:
    outcomes, runs = cell.outcomes, tuple(run.run_id for run in cell.used)
    learnable = _median([outcome.costs.learnable_parameters for outcome in outcomes])
    total = _median([outcome.total_s for outcome in outcomes])
    train, increase = cell.train_s, cell.memory_increase
    images = _median([outcome.costs.train_images for outcome in outcomes])
    texts = [whole(learnable), _seconds(train), _seconds(total), memory(increase), whole(images)]
    place = (cell.row.label, cell.column.label)
    note = f"median over {len(outcomes)} run{'s' * (len(outcomes) != 1)}"
    values = [learnable, train, total, increase, images]
    if with_peak:
        peak = _median([one.costs.peak_memory_mb for one in outcomes]) if increase is None else None
        texts.insert(-1, memory(peak))
        values.insert(-1, peak)
    entries = (
        TableCell(text, (value,), note=note, runs=runs, cell=place) for text, value in zip(texts, values, strict=True)
    )
    return Row(cell.row.label, tuple(entries), marks=cell.marks, url=cell.row.url)


def _median(values: Sequence[float | None]) -> float | None:
    return median(value for value in values if value is not None)


def _seconds(value: float | None) -> str:
    if value is None or value < 120:
        return f"{number(value, 1)} s" if value is not None else NONE
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"
