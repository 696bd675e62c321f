"""A counted suite as tables: parameters and operations by the paper's convention beside the printed ones, and as executed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from smope_bench.benchmarks.suites import SUITES
from smope_bench.harness.errors import UserError
from smope_bench.reports.document import Section
from smope_bench.reports.formatting import NONE, signed, whole
from smope_bench.reports.tables.costs import (
    QUANTITIES,
    Printed,
    Report,
    agreement,
    by_convention,
    exact_convention,
    giga,
    ordered,
    phase_text,
    printed_values,
)
from smope_bench.reports.tables.table import Block, Entry, Grid, Heading, Line

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


def counted_section(name: str, report: Mapping[str, Any], key: str) -> Section:
    """A section of two tables from a cost report's plain values; ``key`` begins the names of their files and anchors.

    Raises UserError for a report that is not one: its file has no seal, and may have been edited.
    """
    suite = SUITES.get(name)
    title, description = (suite.title, suite.summary) if suite is not None else (name, "")
    try:
        if not all(isinstance(row["title"], str) for row in report["rows"]):
            raise TypeError("a row without a title")
        tables = (_convention(report, f"{key}-convention", title), _executed(report, f"{key}-executed", title))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"the stored counts of suite {name!r} cannot be used ({type(error).__name__}: {error}); "
            f"write them anew with: run_all.py run {name}"
        ) from error
    return Section(key, title, description, None, tables)


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
    lines = [line for row in rows for line in _executed_lines(row, report)]
    return Grid(key, f"{title}: as executed", "Method", headings, (Block(tuple(lines)),), EXECUTED_LEAD, notes)


def _executed_lines(row: Mapping[str, Any], report: Report) -> list[Line]:
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
