"""Tables that compare two results folders: which numbers changed, by how much, and what else differs.

``current`` is the folder that is reported, ``baseline`` the one given with ``--against`` (printed as "now" and "then"). Runs are
paired by their seeds, so that differences are between runs of the same class order; intervals are t-intervals of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from smope_bench.reports.formatting import CELL_HELP, column_text, counted, interval, mean_std
from smope_bench.reports.loading.environments import FIELD_LABELS, said
from smope_bench.reports.loading.load import VERSION_DIGITS, Loaded
from smope_bench.reports.loading.model import Cell, Run, SuiteResults
from smope_bench.reports.loading.run_result import RunResult
from smope_bench.reports.statistics.changes import METRIC, CellChange, ChangeVerdict, are_equal, changes_of, moved_text
from smope_bench.reports.tables.table import Block, Heading, Row, Table, TableCell
from smope_bench.reports.text import NONE, file_name

FIELDS = (
    "project", "git_revision", "git_dirty", "code_fingerprint", "plugins", "python", "torch", "timm", "numpy", "platform",
    "cpu", "device", "device_name",
)  # fmt: skip
"""The fields of a record's provenance that are compared."""
WORDS: dict[ChangeVerdict, tuple[str, str]] = {
    "equal": ("the same", "every shared run has the same accuracy matrix to the last digit"),
    "within": ("within spread", "numbers moved, and 0 lies inside the 95 % t-interval of the paired differences"),
    "beyond": ("beyond spread", "0 lies outside the 95 % t-interval of the paired differences"),
    "single": ("moved", "numbers moved, but one shared pair of seeds has no interval: not judged"),
    "apart": ("not comparable", "both folders have the cell, but no pair of usable runs with the same seeds"),
    "here": ("only now", "the folder that it is held against does not plan the cell"),
    "there": ("only then", "the reported folder does not plan the cell"),
}
_CHANCE = (
    "Of cells where nothing real changed, one in twenty is expected beyond the spread; "
    "an interval from few seeds is wide, and within it is not the same as equal."
)
_HEADINGS = (
    Heading("then", "FAA", "Mean and deviation over the runs of the other folder.", ("mean", "std", "n")),
    Heading("now", "FAA", "Mean and deviation over the runs of this folder.", ("mean", "std", "n")),
    Heading("now - then", "Shared seeds", "Mean of the paired differences, with its 95 % t-interval.",
            ("difference", "ci_low", "ci_high", "pairs")),
    Heading("largest", "Shared seeds", "The largest difference of one pair of runs.", ("largest",)),
    Heading("verdict", help="; ".join(f"{word}: {said}" for word, said in WORDS.values()), fields=("verdict",),
            sort="text", is_numeric=False),
    Heading("why", help="What else differs between the paired runs.", fields=("why",), sort="text", is_numeric=False),
)  # fmt: skip


def comparison_tables(current: Loaded, baseline: Loaded) -> tuple[Table, ...]:
    """A table of how many cells changed, one of both environments, and one for each suite that both folders have."""
    suites, others = ({one.suite: one for one in loaded.suites} for loaded in (current, baseline))
    changes = {name: changes_of(suites.get(name), others.get(name)) for name in {**suites, **others}}
    names = (baseline.label or "the other folder", current.label or "this folder")
    sides = f"Then: {names[0]}. Now: {names[1]}."
    tables = [_summary_table(changes, sides), _environment_table(current, baseline, names, sides)]
    keys = ["summary", "environments"]
    for name, results in suites.items():
        if name in others:
            keys.append(file_name(name, keys))
            tables.append(_suite_table(results, changes[name], sides, keys[-1]))
    return tuple(tables)


def _summary_table(changes: dict[str, list[CellChange]], sides: str) -> Table:
    headings = tuple(Heading(word, help=said.capitalize() + ".") for word, said in WORDS.values())

    def line(label: str, cells: Sequence[CellChange]) -> Row:
        entries = []
        for verdict in WORDS:
            of_it = [one for one in cells if one.verdict == verdict]
            runs = tuple(dict.fromkeys(run for one in of_it for run in one.runs))
            entries.append(TableCell(str(len(of_it)), (len(of_it),), runs=runs, tone="" if of_it else "muted"))
        return Row(label, tuple(entries))

    suites = tuple(line(name, cells) for name, cells in changes.items())
    total = Block((line("all suites", [*chain(*changes.values())]),), "Together")
    blocks = (Block(suites), total) if len(suites) > 1 else (Block(suites),)
    lead = f"{sides} How many cells of each suite moved."
    return Table("against-summary", "What moved between the folders", "suite", headings, blocks, lead, (_CHANCE,))


def _environment_table(current: Loaded, baseline: Loaded, names: tuple[str, str], sides: str) -> Table:
    helps = [f"Of the usable runs of {name}." for name in names]
    both = zip(("then", "now"), helps, map(_outcomes, (baseline, current)), strict=True)
    lead = f"{sides} Where the runs of both folders were made."
    return environment_table("against-environments", list(both), lead)


def environment_table(key: str, sides: Sequence[tuple[str, str, Sequence[RunResult]]], lead: str) -> Table:
    """Versions, machines and code of several sets of runs, (heading, its help, runs) each, side by side."""

    def line(field: str) -> Row:
        values = [Counter(_value(outcome, field) for outcome in runs) for _, _, runs in sides]
        marks = ("differs",) if len({frozenset(met) for met in values if met}) > 1 else ()
        return Row(FIELD_LABELS[field], tuple(TableCell(counted(met), (counted(met),)) for met in values), marks)

    counts = [TableCell(str(len(runs)), (len(runs),), runs=tuple(one.run_id for one in runs)) for *_, runs in sides]
    headings = tuple(Heading(word, help=said, sort="text", is_numeric=False) for word, said, _ in sides)
    blocks = (Block((Row("Usable runs", tuple(counts)), *map(line, FIELDS))),)
    return Table(key, "Versions, machines and code", "field", headings, blocks, lead)


def _outcomes(loaded: Loaded) -> list[RunResult]:
    """The usable outcomes of all suites, each run once, by id."""
    found = {outcome.run_id: outcome for results in loaded.suites for outcome in results.outcomes}
    return [found[run_id] for run_id in sorted(found)]


def _suite_table(results: SuiteResults, changes: Sequence[CellChange], sides: str, key: str) -> Table:
    columns: dict[str, list[CellChange]] = {}
    for one in changes:
        columns.setdefault(one.cell.column.label, []).append(one)
    blocks = tuple(Block(tuple(map(_line, cells)), column_text(cells[0].cell.column)) for cells in columns.values())
    title, lead = f"{results.title}: then and now", f"{sides} Runs are paired by their seeds."
    return Table(f"against-{key}", title, "method", _HEADINGS, blocks, lead, (_CHANCE,))


def _line(change: CellChange) -> Row:
    word, help_ = WORDS[change.verdict]
    why = _why(change)
    entries = (
        _accuracy(change.baseline),
        _accuracy(change.current, leads=True),
        *_differences(change),
        TableCell(word, (word,), note=help_, tone="muted" if change.verdict == "equal" else ""),
        TableCell(why, (why,)),
    )
    return Row(change.cell.row.label, entries)


def _accuracy(cell: Cell | None, *, leads: bool = False) -> TableCell:
    """Mean and deviation of a cell; ``leads``: the page has its runs."""
    if cell is None:
        return TableCell("not planned", (None, None, 0), note=CELL_HELP["unplanned"], tone="word")
    place = cell.place if leads else None
    summary = cell.summary(METRIC)
    if summary is None:
        return TableCell(cell.state, (None, None, 0), note=cell.note or CELL_HELP[cell.state], cell=place, tone="word")
    values = (summary.mean, summary.std, summary.n)
    return TableCell(
        mean_std(summary), values, marks=cell.marks, small=f"n = {summary.n}", runs=cell.run_ids, cell=place
    )


def _differences(change: CellChange) -> tuple[TableCell, TableCell]:
    """The mean of the paired differences and the largest of them."""
    summary = change.summary
    if summary is None:
        note = WORDS[change.verdict][1]
        return (
            TableCell(NONE, (None, None, None, 0), note=note, tone="muted"),
            TableCell(NONE, (None,), note=note, tone="muted"),
        )
    tone = "" if change.verdict != "beyond" else "good" if summary.mean > 0 else "bad"
    values = (summary.mean, summary.low, summary.high, summary.n)
    small = f"{interval(summary)}, n = {summary.n}" if summary.low is not None else f"n = {summary.n}"
    runs = tuple(dict.fromkeys(outcome.run_id for pair in change.pairs for outcome in pair))
    largest = max(change.differences, key=abs)
    return (
        TableCell(moved_text(summary.mean), values, small=small, runs=runs, tone=tone),
        TableCell(moved_text(largest), (largest,), runs=runs),
    )


def _why(change: CellChange) -> str:
    """What differs between paired runs, and which runs have no partner."""
    if change.current is None or change.baseline is None:
        return WORDS[change.verdict][1]
    parts = ["same to the last digit"] if change.verdict == "equal" else []
    # Pairs of one specification with equal numbers have nothing to explain, whatever code made them.
    differing = [pair for pair in change.pairs if pair[0].run_id != pair[1].run_id or not are_equal(*pair)]
    parts += dict.fromkeys(_cause(*pair) for pair in differing)
    cells = {"then": change.baseline, "now": change.current}
    seeds = {when: {(run.order_seed, run.train_seed) for run in cell.runs} for when, cell in cells.items()}
    for when, cell in cells.items():
        parts += _not_averaged(cell, seeds["then"] & seeds["now"], when)
    for when, other in (("then", "now"), ("now", "then")):
        if only := len(seeds[when] - seeds[other]):
            parts.append(f"{only} pair{'s' * (only != 1)} of seeds only {when}")
    return "; ".join(parts) or NONE


def _not_averaged(cell: Cell, shared: Collection[tuple[int, int]], when: str) -> list[str]:
    """Why runs with ``shared`` seeds are not averaged, e.g. ``1 run failed now (boom)``."""
    lost: dict[str, list[Run]] = {}
    used = {run.run_id for run in cell.used}
    for run in cell.runs:
        if run.run_id not in used and (run.order_seed, run.train_seed) in shared:
            lost.setdefault("not averaged" if run.state == "ok" else run.state, []).append(run)
    found = []
    for state, runs in lost.items():
        why = f" ({runs[0].problem})" if state in ("failed", "broken") and runs[0].problem else ""
        found.append(f"{len(runs)} run{'s' * (len(runs) != 1)} {state} {when}{why}")
    return [*found, f"stale {when}"] if cell.state == "stale" and cell.used else found


def _cause(baseline: RunResult, current: RunResult) -> str:
    """The difference between a pair of runs that may explain their numbers: specification, data split or provenance."""
    if baseline.run_id != current.run_id:
        changed = list(_spec_changes(baseline.spec, current.spec))
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        return "other specification: " + ", ".join(changed[:3]) + more
    changed = [
        f"{FIELD_LABELS[field]} {_value(baseline, field)} -> {_value(current, field)}"
        for field in FIELDS
        if baseline.provenance.get(field) != current.provenance.get(field)
    ]
    if baseline.split_hash != current.split_hash:
        old, new = (str(outcome.split_hash)[:VERSION_DIGITS] for outcome in (baseline, current))
        changed.insert(0, f"data split {old} -> {new}")
    if not changed:
        return "same specification, code, versions and machine, other numbers: not reproduced"
    return "same specification, other numbers: " + ", ".join(changed)


def _value(outcome: RunResult, field: str) -> str:
    """A field of a record's provenance as text; hashes by their first digits."""
    text = said(outcome.provenance.get(field))
    return text[:VERSION_DIGITS] if field in ("git_revision", "code_fingerprint") else text


def _spec_changes(baseline: Mapping[str, Any], current: Mapping[str, Any]) -> Iterator[str]:
    """``method.config.top_k 5 -> 3`` for each changed field, by name; long values by their beginning."""
    old, new = dict(_leaves(baseline)), dict(_leaves(current))
    for name in sorted(old.keys() | new.keys()):
        if (name in old) != (name in new) or old.get(name) != new.get(name):
            texts = [str(side[name]) if name in side else "none" for side in (old, new)]
            yield f"{name} {' -> '.join(text if len(text) <= 24 else text[:20] + '...' for text in texts)}"


def _leaves(value: object, name: str = "") -> Iterable[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
