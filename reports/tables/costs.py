"""The cost table beside what the SMoPE paper's Table 3 prints, for the terminal, as Markdown and as plain values.

``Report`` is a cost report's plain values, as ``smope_bench.harness.cost.report`` gives them: operations are those of one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from smope_bench.benchmarks.suites import SUITES
from smope_bench.reports.formatting import column_text
from smope_bench.reports.loading.model import KINDS, Cell, SuiteResults, median
from smope_bench.reports.statistics.published import published_values
from smope_bench.reports.tables.table import Block, Entry, Grid, Heading, Line
from smope_bench.reports.text import NONE, file_name, number, signed, whole

Report = Mapping[str, Any]
Row = Mapping[str, Any]
Printed = dict[str, dict[str, str]]

ABSENT = "–"
QUANTITIES = ("params_m", "train_gflops", "test_gflops")
"""The columns of Table 3, as the file of published results names them."""
_UNITS = (("parameters", 1e6), ("train", 1e9), ("test", 1e9))

INTRODUCTION = """\
# Cost

Written by `python run_all.py cost --out docs/cost.md`; do not edit. ViT-B/16 at 224 px with random weights, {classes} classes in
{tasks} tasks, every method with its default configuration. Nothing is trained, and no count depends on a value.

"""
CONVENTION = """\
## The published convention

- *Learnable here*: every tensor that any phase of any task of this code trains, once and whole, backbone excluded. Closed-form
  methods learn nothing by gradient; stored statistics are not parameters.
- *By convention*: what the paper's Table 3 counts for the method. Where this is not what the code has, the note says so.
- *GFLOPs by convention*: forward passes only. A pass is 2 x the multiply-adds of linear layers and convolution, plus the
  convolution's bias, 5 for each element of a LayerNorm and 1 for each of a GELU, with all blocks complete: {a_pass:,}
  operations. To the method's passes come one {classes}-way classifier and what the method computes beside them by the same
  rule (task inference, the making of prompts). Products of attention are not counted, so a prompt in it costs nothing.
- *Table 3*: the printed value.

"""
EXECUTED = """\
## What this code executes

GFLOPs an image: two operations a multiply-add of every linear layer, convolution, matrix product, einsum and distance matrix and
of both products of attention. Forward: fvcore's trace of `predict` and of `training_step` with handles of our own, as fvcore's
do not see fused attention and misread broadcast products. Backward: torch's `FlopCounterMode` over the gradient of the same
step, as fvcore traces forwards only. torch's counter also counts every forward; {agreement}.

- A *query pass* of the frozen backbone is included wherever a step or prediction asks for it. At test, and in training without
  random augmentation, the engine keeps these features, so that the pass is made once an image and not once an epoch.
- The bare backbone takes {complete:.3f} for a forward with all blocks complete. This code computes the last block for the class
  token alone where it has no prompt: {own:.3f}. A backward down to the images adds {complete_backward:.3f} or {own_backward:.3f}:
  the backbone is frozen, and no gradient of its weights is computed.
- *Trains* is what the optimiser of the phase is given in the last task that has the phase.
- A batch has {images} images: what is done once a batch (penalties on the prompts) or once an epoch is shared between them, and
  weighs less in a larger batch. A fused attention kernel computes its scores once more in the backward; this is not counted.
- Tasks are entered and not trained: what earlier tasks would have stored (class statistics, counts of use) is empty, and a loss
  that leaves out what is empty is counted without it.
- Not counted: the optimiser's own work, and what a task does beside its steps (statistics, alignment, counting of
  experts, closed forms).
- Element-wise and sorting work is not counted. Operators seen and left out: {uncounted}.

"""


def printed_values() -> Printed:
    """Table 3 as printed: by method, then by column."""
    found: Printed = {}
    counted = [suite.printed for suite in SUITES.values() if suite.counts_only]
    for key, value in published_values().items():
        if any(table and (key.paper, key.table) == (table.paper, table.table) for table in counted):
            found.setdefault(key.method, {})[key.metric] = value.text
    return found


def exact_convention(row: Row) -> tuple[float, ...]:
    """Million parameters and GFLOPs an image in training and at test by the convention; nothing for a method without one."""
    published = row["published"]
    return () if published is None else tuple(published[name] / unit for name, unit in _UNITS)


def by_convention(row: Row) -> dict[str, str]:
    """The published convention's values of a row, written as Table 3 writes them; nothing for a method without one."""
    return {quantity: f"{value:.2f}" for quantity, value in zip(QUANTITIES, exact_convention(row), strict=False)}


def with_printed(report: Report) -> dict[str, Any]:
    """The report with Table 3's rounding of each row and what the paper prints, rows in the order of ``ordered``."""
    printed = printed_values()
    rows = [
        {**row, "table3": {"computed": by_convention(row), "printed": printed.get(row["method"], {})}}
        for row in ordered(report["rows"], printed)
    ]
    return {**report, "rows": rows}


def ordered(rows: Sequence[Row], printed: Printed) -> list[Row]:
    """The rows of Table 3 in its order, then the others as they come."""
    places = {method: place for place, method in enumerate(printed)}
    return sorted(rows, key=lambda row: places.get(row["method"], len(places)))


def terminal_table(report: Report) -> Table:
    """One row a method; values that the paper prints otherwise are marked."""
    printed = printed_values()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=Text(_caption(report)), caption_justify="left")
    for heading in ("method", "learns", "M", "train G", "test G", "phase", "forward", "backward", "test"):
        table.add_column(heading, justify="left" if heading in ("method", "phase") else "right", no_wrap=True)
    for row in ordered(report["rows"], printed):
        steps = row["phases"]
        table.add_row(
            Text(row["method"], style="bold"),
            f"{row['parameters']:,}",
            *(_compared(row, quantity, printed) for quantity in QUANTITIES),
            Text("\n".join(phase_text(step, report) for step in steps) or ABSENT),
            "\n".join(giga(step["step"]["forward"]) for step in steps) or ABSENT,
            "\n".join(giga(step["step"]["backward"]) for step in steps) or ABSENT,
            giga(row["test"]["forward"]),
        )
    return table


def markdown(report: Report) -> str:
    """The document ``docs/cost.md``."""
    printed = printed_values()
    rows = ordered(report["rows"], printed)
    geometry, backbone = report["geometry"], report["backbone"]
    complete, own = backbone["complete"], backbone["own"]
    introduction = INTRODUCTION.format(classes=geometry["num_classes"], tasks=geometry["num_tasks"])
    convention = CONVENTION.format(classes=geometry["num_classes"], a_pass=backbone["published"])
    executed = EXECUTED.format(
        agreement=agreement(report),
        complete=complete["forward"] / 1e9,
        own=own["forward"] / 1e9,
        complete_backward=complete["backward"] / 1e9,
        own_backward=own["backward"] / 1e9,
        images=report["images"],
        uncounted=_uncounted(rows),
    )
    notes = [
        f"- `{row['method']}`: {row['published']['note']}." for row in rows if (row["published"] or {}).get("note")
    ]
    parts = [convention + _convention_lines(rows, printed), "\n".join(["Notes:", "", *notes, ""]) if notes else ""]
    return introduction + "\n".join(part for part in parts if part) + "\n" + executed + _executed_lines(rows, report)


def _convention_lines(rows: Sequence[Row], printed: Printed) -> str:
    head = ("method", "learnable here", "by convention", "M", "Table 3", "train G", "Table 3", "test G", "Table 3")
    lines = ["| " + " | ".join(head) + " |", "| :-- |" + " --: |" * (len(head) - 1)]
    for row in rows:
        computed, theirs = by_convention(row), printed.get(row["method"], {})
        pairs = [text for name in QUANTITIES for text in (computed.get(name, ABSENT), _marked(name, computed, theirs))]
        count = f"{row['published']['parameters']:,}" if row["published"] else ABSENT
        lines.append("| " + " | ".join([f"`{row['method']}`", f"{row['parameters']:,}", count, *pairs]) + " |")
    return "\n".join(lines) + "\n"


def _executed_lines(rows: Sequence[Row], report: Report) -> str:
    head = ("method", "what", "trains", "query pass", "forward", "backward", "total")
    lines = ["| " + " | ".join(head) + " |", "| :-- | :-- | --: | :-- | --: | --: | --: |"]
    for row in rows:
        steps = [(phase_text(step, report), f"{step['parameters']:,}", step["step"]) for step in row["phases"]]
        steps = steps or [("closed form", ABSENT, None)]
        for i, (what, trains, step) in enumerate([*steps, ("test", "", row["test"])]):
            name = f"`{row['method']}`" if i == 0 else ""
            lines.append("| " + " | ".join([name, what, trains, *_executed_fields(step)]) + " |")
    return "\n".join(lines) + "\n"


def _executed_fields(step: Row | None) -> list[str]:
    if step is None:
        return ["", ABSENT, ABSENT, ABSENT]
    forward = giga(step["forward"]) + ("" if step["traced"] else " (torch)")
    return ["yes" if step["query"] else "", forward, giga(step["backward"]), giga(step["forward"] + step["backward"])]


def phase_text(phase: Row, report: Report) -> str:
    """A phase's name, and the tasks that have it where not all do."""
    tasks = phase["tasks"]
    if len(tasks) == report["geometry"]["num_tasks"] or phase["name"] == "train":
        return f"{phase['name']}"
    where = str(tasks[0]) if len(tasks) == 1 else f"{tasks[0]}-{tasks[-1]}"
    return f"{phase['name']} (task {where})"


def _compared(row: Row, quantity: str, printed: Printed) -> Text:
    computed, theirs = by_convention(row), printed.get(row["method"], {})
    if quantity not in computed:
        return Text(ABSENT, style="dim")
    if quantity not in theirs:
        return Text(computed[quantity], style="dim")
    same = computed[quantity] == theirs[quantity]
    return Text(
        computed[quantity] if same else f"{computed[quantity]} ≠ {theirs[quantity]}", "green" if same else "red"
    )


def _marked(quantity: str, computed: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    printed = theirs.get(quantity, ABSENT)
    return f"**{printed}**" if printed not in (ABSENT, computed.get(quantity)) else printed


def agreement(report: Report) -> str:
    """How far the two counters of forwards are apart, in the worst case."""
    counts = [step["step"] for row in report["rows"] for step in row["phases"]] + [
        row["test"] for row in report["rows"]
    ]
    gaps = [abs(count["forward"] / count["forward_by_torch"] - 1) for count in counts if count["forward_by_torch"]]
    worst = max(gaps, default=0.0)
    return "the two agree exactly" if worst == 0 else f"the largest difference is {100 * worst:.3f} %"


def _uncounted(rows: Sequence[Row]) -> str:
    steps = [phase["step"] for row in rows for phase in row["phases"]] + [row["test"] for row in rows]
    return ", ".join(f"`{name}`" for name in sorted({name for step in steps for name in step["uncounted"]})) or "none"


def giga(operations: int) -> str:
    """Operations in units of 10^9, to the million."""
    return f"{operations / 1e9:.3f}"


def _caption(report: Report) -> str:
    backbone = report["backbone"]
    return (
        "learns: parameters that this code trains, over all tasks.\n"
        "M, train G, test G: million parameters and GFLOPs an image by the convention of the paper's Table 3; green: as printed.\n"
        "phase and on: GFLOPs an image as executed, attention and query pass included, 2 a multiply-add.\n"
        f"The bare backbone takes {giga(backbone['complete']['forward'])} complete, and {giga(backbone['own']['forward'])}"
        " with the last block for the class token alone."
    )


NAMES = {"params_m": "Parameters (M)", "train_gflops": "Training GFLOPs", "test_gflops": "Test GFLOPs"}
NOT_COUNTED, EQUAL, DIFFERENT = "not counted", "as printed", "printed otherwise"
CONVENTION_LEAD = (
    "Counted as the paper counts, beside what it prints, to its digits. Percentages are of the first row of the printed table. "
    "Learnable: every tensor that any phase of any task trains here, once and whole, backbone excluded."
)
CONVENTION_NOTES = (
    "By convention: forward passes only; two operations a multiply-add of linear layers and convolution, the convolution's "
    "bias, 5 an element of a LayerNorm and 1 of a GELU, all blocks complete; products of attention are not counted.",
    "Difference: counted less printed, both to two digits.",
)
EXECUTED_LEAD = (
    "What this code executes, in GFLOPs an image: two operations a multiply-add of every linear layer, convolution and matrix "
    "product, attention included. A phase is a kind of training step; test is a prediction."
)
_TEXT = {"sort": "text", "is_numeric": False}


def _convention(report: Report, key: str, title: str) -> Grid:
    printed = printed_values()
    headings = [
        Heading("Learnable here", help="parameters that this code trains, over all tasks", fields=("parameters",))
    ]
    for quantity in QUANTITIES:
        parts = (("Counted", "by the paper's convention"), ("Printed", "as the paper prints it"), ("Difference", ""))
        headings += [Heading(text, NAMES[quantity], said, sort="up") for text, said in parts]
    rows = ordered(report["rows"], printed)
    base = next((by_convention(row) for row in rows if row["method"] == next(iter(printed))), {})
    lines = [_convention_line(row, printed, base) for row in rows]
    counted = {row["method"] for row in rows}
    lines += [_uncounted_line(method, printed) for method in printed if method not in counted]
    said = [
        f"{row['title']} by convention: {row['published']['note']}."
        for row in rows
        if (row["published"] or {}).get("note")
    ]
    blocks = (Block(tuple(lines)),)
    return Grid(key, title, "Method", tuple(headings), blocks, CONVENTION_LEAD, (*CONVENTION_NOTES, *said))


def _convention_line(row: Mapping[str, Any], printed: Printed, base: Mapping[str, str]) -> Line:
    computed, theirs = by_convention(row), printed.get(row["method"], {})
    entries = [Entry(whole(row["parameters"]), (row["parameters"],))]
    for quantity, exact in zip_longest(QUANTITIES, exact_convention(row)):
        own, other = computed.get(quantity), theirs.get(quantity)
        counted = Entry(own or NONE, () if exact is None else (exact,), small=_share(own, base, quantity))
        entries += [counted, _printed(other, printed, quantity), _difference(own, other)]
    return Line(row["title"], tuple(entries))


def _printed(text: str | None, printed: Printed, quantity: str) -> Entry:
    if text is None:
        return Entry(NONE, note="not printed", tone="muted")
    return Entry(text, (float(text),), small=_share(text, next(iter(printed.values())), quantity))


def _difference(own: str | None, other: str | None) -> Entry:
    """Green where both are written alike; a difference that vanishes in rounding does not exist."""
    if own is None or other is None:
        return Entry(NONE, tone="muted")
    difference = round(float(own) - float(other), 2)
    note, tone = (EQUAL, "good") if own == other else (DIFFERENT, "bad")
    return Entry(signed(difference), (difference,), note=note, tone=tone)


def _uncounted_line(method: str, printed: Printed) -> Line:
    """A row of the printed table that the report lacks."""
    suites = (suite for suite in SUITES.values() if suite.counts_only)
    label = next((row.label for suite in suites for row in suite.rows if row.method == method), method)
    word, nothing = Entry(NOT_COUNTED, tone="word"), Entry(NONE, tone="muted")
    places = [(word, _printed(printed[method].get(quantity), printed, quantity), nothing) for quantity in QUANTITIES]
    return Line(label, (word, *(entry for place in places for entry in place)))


def _executed(report: Report, key: str, title: str) -> Grid:
    headings = (
        Heading("Step", **_TEXT),
        Heading("Trains", help="parameters that the step's optimiser is given"),
        Heading("Query pass", help="whether the frozen backbone runs beside the step", **_TEXT),
        *(Heading(text, "GFLOPs an image", sort="up") for text in ("Forward", "Backward", "Total")),
    )
    rows = ordered(report["rows"], printed_values())
    complete, own = report["backbone"]["complete"]["forward"], report["backbone"]["own"]["forward"]
    notes = (
        f"The bare backbone takes {giga(complete)} complete, and {giga(own)} with the last block for the class token alone.",
        f"A step is of {report['images']} images; penalties on the prompts are shared between them. The optimiser's own work "
        "and what a task does beside its steps are not counted.",
        f"Two counters were used for forwards: {agreement(report)}.",
    )
    lines = [line for row in rows for line in _executed_rows(row, report)]
    return Grid(key, f"{title}: as executed", "Method", headings, (Block(tuple(lines)),), EXECUTED_LEAD, notes)


def _executed_rows(row: Mapping[str, Any], report: Report) -> list[Line]:
    steps = [(phase_text(phase, report), phase["parameters"], phase["step"]) for phase in row["phases"]]
    steps = steps or [("closed form", None, None)]
    return [
        Line(row["title"], _executed_entries(what, trains, step))
        for what, trains, step in (*steps, ("test", None, row["test"]))
    ]


def _executed_entries(what: str, trains: int | None, step: Mapping[str, Any] | None) -> tuple[Entry, ...]:
    nothing = Entry(NONE, tone="muted")
    head = (Entry(what, (what,)), nothing if trains is None else Entry(whole(trains), (trains,)))
    if step is None:
        return (*head, *(nothing,) * 4)
    forward, backward = step["forward"], step["backward"]
    query = "yes" if step["query"] else "no"
    marks = () if step["traced"] else ("by torch's counter",)
    return (
        *head,
        Entry(query, (query,)),
        Entry(giga(forward), (forward / 1e9,), marks=marks),
        Entry(giga(backward), (backward / 1e9,)),
        Entry(giga(forward + backward), ((forward + backward) / 1e9,)),
    )


def _share(text: str | None, base: Mapping[str, str], quantity: str) -> str:
    """``50 %`` of the base row's operations, as the paper has it; nothing for parameters."""
    of = base.get(quantity)
    return "" if text is None or of is None or quantity == QUANTITIES[0] else f"{100 * float(text) / float(of):.0f} %"


COST_HEADINGS = (
    Heading("Learnable parameters", help="Every tensor that the run trains, backbone excluded.", fields=("count",)),
    Heading("Training time", help="Training and what a task does at its end.", fields=("seconds",)),
    Heading("Total time", help="The whole run, with tests.", fields=("seconds",)),
    Heading("Peak memory", fields=("MB",)),
    Heading(
        "Training images",
        help="Images of the training set in every pass over it: to train, and to count or gather statistics.",
        fields=("count",),
    ),
)


def cost_grid(results: SuiteResults) -> Grid | None:
    """What every cell with usable runs took, as medians over its runs; ``None`` where there is none."""
    several = len(results.columns) > 1
    blocks = []
    for column in results.columns:
        cells = [results.cell(row, column) for kind in KINDS for row in results.rows_of(kind)]
        lines = tuple(_cost_line(cell) for cell in cells if cell.outcomes)
        if lines:
            blocks.append(Block(lines, column_text(column) if several else ""))
    lead = "What the rows took: medians over the runs that are averaged, on the machines that made them."
    key, title = f"{file_name(results.suite)}-costs", f"{results.title}: costs"
    return Grid(key, title, "Method", COST_HEADINGS, tuple(blocks), lead) if blocks else None


def _cost_line(cell: Cell) -> Line:
    outcomes, runs = cell.outcomes, tuple(run.run_id for run in cell.used)
    learnable = _median([outcome.costs.learnable_parameters for outcome in outcomes])
    train = _median([outcome.timings.train_s for outcome in outcomes])
    total = _median([outcome.timings.total_s for outcome in outcomes])
    memory = _median([outcome.costs.peak_memory_mb for outcome in outcomes])
    images = _median([outcome.costs.train_images for outcome in outcomes])
    texts = (whole(learnable), _seconds(train), _seconds(total), _memory(memory), whole(images))
    place = (cell.row.label, cell.column.label)
    note = f"median over {len(outcomes)} run{'s' * (len(outcomes) != 1)}"
    values = (learnable, train, total, memory, images)
    entries = (
        Entry(text, (value,), note=note, runs=runs, cell=place) for text, value in zip(texts, values, strict=True)
    )
    return Line(cell.row.label, tuple(entries), marks=cell.marks, url=cell.row.url)


def _median(values: Sequence[float | None]) -> float | None:
    return median(value for value in values if value is not None)


def _seconds(value: float | None) -> str:
    if value is None or value < 120:
        return f"{number(value, 1)} s" if value is not None else NONE
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _memory(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.0f} MB" if value < 10_000 else f"{value / 1000:.1f} GB"
