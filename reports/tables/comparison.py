"""Two results folders side by side: which numbers moved, by how much, and what else is different.

``now`` is the folder that is reported, ``then`` the one that it is held against. Runs are paired by their seeds, so that a
difference is one between runs of the same class order; the interval is the t-interval of these differences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from smope_bench.reports.formatting import CELL_HELP, column_text, interval, mean_std
from smope_bench.reports.loading.environments import FIELD_LABELS, said
from smope_bench.reports.loading.load import VERSION_DIGITS, Loaded
from smope_bench.reports.loading.model import Cell, Run, SuiteResults, Summary, summarise
from smope_bench.reports.loading.run_result import RunResult
from smope_bench.reports.statistics.samples import DIGITS
from smope_bench.reports.tables.table import Block, Entry, Grid, Heading, Line
from smope_bench.reports.text import NONE, file_name, signed

FIELDS: Mapping[str, str] = {
    key: FIELD_LABELS[key]
    for key in (
        "project", "git_revision", "git_dirty", "code_fingerprint", "plugins", "python", "torch", "timm", "numpy", "platform",
        "cpu", "device", "device_name",
    )
}  # fmt: skip
"""What is recorded of an environment, by the names of a record's provenance."""
_HASHES = frozenset({"git_revision", "code_fingerprint"})
_MOST = 3
_ABSENT = "none"


def value_of(outcome: RunResult, key: str) -> str:
    """A field of a record's provenance as text; hashes by their first digits."""
    text = said(outcome.provenance.get(key))
    return text[:VERSION_DIGITS] if key in _HASHES else text


def causes(pairs: Sequence[tuple[RunResult, RunResult]]) -> list[str]:
    """What differs between (then, now) of every pair, each cause once, in the order of pairs.

    Pairs of one specification with equal numbers have nothing to explain, whatever made them.
    """
    differing = [pair for pair in pairs if pair[0].run_id != pair[1].run_id or not _are_equal(*pair)]
    return list(dict.fromkeys(_cause(then, now) for then, now in differing))


def _are_equal(then: RunResult, now: RunResult) -> bool:
    return then.accuracy_matrix == now.accuracy_matrix


def _cause(then: RunResult, now: RunResult) -> str:
    if then.run_id != now.run_id:
        return "other specification: " + _listed(_changes(then.spec, now.spec))
    changed = [
        f"{label} {value_of(then, key)} -> {value_of(now, key)}"
        for key, label in FIELDS.items()
        if then.provenance.get(key) != now.provenance.get(key)
    ]
    if then.split_hash != now.split_hash:
        old, new = (str(outcome.split_hash)[:VERSION_DIGITS] for outcome in (then, now))
        changed.insert(0, f"data split {old} -> {new}")
    if not changed:
        return "same specification, code, versions and machine, other numbers: not reproduced"
    return "same specification, other numbers: " + ", ".join(changed)


def _listed(changes: Iterable[str]) -> str:
    found = list(changes)
    more = len(found) - _MOST
    return ", ".join(found[:_MOST]) + (f" and {more} more" if more > 0 else "")


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``method.config.top_k 5 -> 3``, a dotted field each, in the order of names."""
    before, after = dict(_leaves(then)), dict(_leaves(now))
    names = sorted(before.keys() | after.keys())
    return [
        f"{name} {_text(before, name)} -> {_text(after, name)}"
        for name in names
        if (name in before) != (name in after) or before.get(name) != after.get(name)
    ]


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _text(leaves: Mapping[str, object], name: str) -> str:
    """A value as a reader meets it in a specification; long ones (hashes, lists) by their beginning."""
    if name not in leaves:
        return _ABSENT
    text = str(leaves[name])
    return text if len(text) <= 24 else text[:20] + "..."


ChangeVerdict = Literal["equal", "within", "beyond", "single", "apart", "here", "there"]

METRIC = "faa"
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


@dataclass(frozen=True)
class Moved:
    """One cell in both folders, ``None`` where a folder does not plan it."""

    now: Cell | None
    then: Cell | None

    @property
    def cell(self) -> Cell:
        """The cell of either folder, for its labels."""
        found = self.now or self.then
        assert found is not None
        return found

    @cached_property
    def pairs(self) -> tuple[tuple[RunResult, RunResult], ...]:
        """(then, now) of every pair of averaged runs with the same seeds, by seeds."""
        then, now = _by_seeds(self.then), _by_seeds(self.now)
        return tuple((then[seeds], now[seeds]) for seeds in sorted(then.keys() & now.keys()))

    @cached_property
    def differences(self) -> tuple[float, ...]:
        """FAA now less FAA then, a pair; beyond ``DIGITS`` decimals it is the rounding of floats."""
        both = [(then.metrics[METRIC], now.metrics[METRIC]) for then, now in self.pairs]
        return tuple(round(now - then, DIGITS) for then, now in both if now is not None and then is not None)

    @cached_property
    def summary(self) -> Summary | None:
        """Summary of the paired differences."""
        return summarise(self.differences)

    @cached_property
    def verdict(self) -> ChangeVerdict:
        """What became of the cell."""
        if self.now is None or self.then is None:
            return "there" if self.now is None else "here"
        if not self.pairs or self.summary is None:
            return "apart"
        if all(then.accuracy_matrix == now.accuracy_matrix for then, now in self.pairs):
            return "equal"
        low, high = self.summary.low, self.summary.high
        if low is None or high is None:
            return "single"
        return "within" if low <= 0 <= high else "beyond"

    @property
    def runs(self) -> tuple[str, ...]:
        """Ids of the runs of both folders, those of then first, each once."""
        return tuple(dict.fromkeys(run.run_id for cell in (self.then, self.now) if cell for run in cell.used))


def against_grids(mine: Loaded, other: Loaded) -> tuple[Grid, ...]:
    """What moved from ``other`` (then) to ``mine`` (now): a summary, both environments, and a grid a shared suite."""
    suites = {results.suite: results for results in mine.suites}
    others = {results.suite: results for results in other.suites}
    names = [*suites, *(name for name in others if name not in suites)]
    moved = {name: _moved(suites.get(name), others.get(name)) for name in names}
    sides = f"Then: {_named(other, 'the other folder')}. Now: {_named(mine, 'this folder')}."
    shared = [name for name in names if name in suites and name in others]
    return (
        _summary_grid(moved, sides),
        _environment_grid(mine, other, sides),
        *(_suite_grid(suites[name], moved[name], sides, key) for name, key in _keys(shared).items()),
    )


def _named(loaded: Loaded, default: str) -> str:
    return loaded.label or default


def _by_seeds(cell: Cell | None) -> dict[tuple[int, int], RunResult]:
    used = cell.used if cell else ()
    return {(run.order_seed, run.train_seed): run.outcome for run in used if run.outcome is not None}


def _moved(now: SuiteResults | None, then: SuiteResults | None) -> list[Moved]:
    """Every cell that one of the folders plans, column by column in the order of ``now``."""
    sides = [side for side in (now, then) if side is not None]
    columns = dict.fromkeys(column.label for side in sides for column in side.columns)
    rows = dict.fromkeys(row.label for side in sides for row in side.rows)
    found = [Moved(_planned(now, row, column), _planned(then, row, column)) for column in columns for row in rows]
    return [moved for moved in found if moved.now or moved.then]


def _planned(results: SuiteResults | None, row: str, column: str) -> Cell | None:
    cell = results.cells.get((row, column)) if results else None
    return cell if cell is not None and cell.runs else None


def _summary_grid(moved: dict[str, list[Moved]], sides: str) -> Grid:
    headings = tuple(Heading(word, help=said.capitalize() + ".") for word, said in WORDS.values())

    def line(label: str, cells: Sequence[Moved]) -> Line:
        entries = []
        for verdict in WORDS:
            of_it = [one for one in cells if one.verdict == verdict]
            runs = tuple(dict.fromkeys(run for one in of_it for run in one.runs))
            entries.append(Entry(str(len(of_it)), (len(of_it),), runs=runs, tone="" if of_it else "muted"))
        return Line(label, tuple(entries))

    suites = tuple(line(name, cells) for name, cells in moved.items())
    total = line("all suites", [one for cells in moved.values() for one in cells])
    blocks = (Block(suites), Block((total,), "Together")) if len(suites) > 1 else (Block(suites),)
    lead = f"{sides} How many cells of each suite moved."
    return Grid("against-summary", "What moved between the folders", "suite", headings, blocks, lead, (_CHANCE,))


def _environment_grid(mine: Loaded, other: Loaded, sides: str) -> Grid:
    then, now = (_outcomes(loaded) for loaded in (other, mine))
    rows: list[tuple[str, Callable[[RunResult], str]]] = [
        (label, lambda outcome, key=key: value_of(outcome, key)) for key, label in FIELDS.items()
    ]
    lines = [_environment_line(label, then, now, read) for label, read in rows]
    counts = [Entry(str(len(side)), (len(side),), runs=tuple(one.run_id for one in side)) for side in (then, now)]
    headings = tuple(
        Heading(word, help=f"Of the usable runs of {name}.", sort="text", is_numeric=False)
        for word, name in (("then", _named(other, "the other folder")), ("now", _named(mine, "this folder")))
    )
    blocks = (Block((Line("Usable runs", tuple(counts)), *lines)),)
    lead = f"{sides} Where the runs of both folders were made."
    return Grid("against-environments", "Versions, machines and code", "field", headings, blocks, lead)


def _outcomes(loaded: Loaded) -> list[RunResult]:
    """The usable outcomes of all suites, each run once, by id."""
    found = {outcome.run_id: outcome for results in loaded.suites for outcome in results.outcomes}
    return [found[run_id] for run_id in sorted(found)]


def _environment_line(
    label: str, then: Sequence[RunResult], now: Sequence[RunResult], read: Callable[[RunResult], str]
) -> Line:
    said = [_counted(map(read, side)) for side in (then, now)]
    marks = ("differs",) if then and now and {*map(read, then)} != {*map(read, now)} else ()
    return Line(label, tuple(Entry(text, (text,)) for text in said), marks)


def _counted(values: Iterable[str]) -> str:
    """``2.4.0``, or ``2.4.0 (12 runs), 2.5.0 (3 runs)`` where there are several."""
    met = Counter(values)
    if len(met) < 2:
        return next(iter(met), NONE)
    ordered = sorted(met.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{value} ({n} run{'s' * (n != 1)})" for value, n in ordered)


def _keys(suites: Iterable[str]) -> dict[str, str]:
    """A key of its own for the grid of each suite, whatever suites are called."""
    keys: dict[str, str] = {}
    for suite in suites:
        keys[suite] = file_name(suite, ["summary", "environments", *keys.values()])
    return keys


def _suite_grid(results: SuiteResults, moved: Sequence[Moved], sides: str, key: str) -> Grid:
    columns: dict[str, list[Moved]] = {}
    for one in moved:
        columns.setdefault(one.cell.column.label, []).append(one)
    blocks = tuple(Block(tuple(map(_line, cells)), column_text(cells[0].cell.column)) for cells in columns.values())
    title = f"{results.title}: then and now"
    return Grid(
        f"against-{key}", title, "method", _HEADINGS, blocks, f"{sides} Runs are paired by their seeds.", (_CHANCE,)
    )


def _line(moved: Moved) -> Line:
    word, said = WORDS[moved.verdict]
    why = _why(moved)
    entries = (
        _accuracy(moved.then, moved.cell, is_mine=False),
        _accuracy(moved.now, moved.cell, is_mine=True),
        _difference(moved),
        _largest(moved),
        Entry(word, (word,), note=said, tone="muted" if moved.verdict == "equal" else ""),
        Entry(why, (why,)),
    )
    return Line(moved.cell.row.label, entries)


def _accuracy(cell: Cell | None, place: Cell, *, is_mine: bool) -> Entry:
    leads = (place.row.label, place.column.label) if is_mine and cell else None
    if cell is None:
        return Entry("not planned", (None, None, 0), note=CELL_HELP["unplanned"], tone="word")
    summary = cell.summary(METRIC) if cell.outcomes else None
    if summary is None:
        return Entry(cell.state, (None, None, 0), note=cell.note or CELL_HELP[cell.state], cell=leads, tone="word")
    runs = tuple(run.run_id for run in cell.used)
    values = (summary.mean, summary.std, summary.n)
    return Entry(mean_std(summary), values, marks=cell.marks, small=f"n = {summary.n}", runs=runs, cell=leads)


def _difference(moved: Moved) -> Entry:
    summary = moved.summary
    if summary is None:
        return Entry(NONE, (None, None, None, 0), note=WORDS[moved.verdict][1], tone="muted")
    is_sure = moved.verdict == "beyond"
    tone = "" if not is_sure else "good" if summary.mean > 0 else "bad"
    values = (summary.mean, summary.low, summary.high, summary.n)
    small = f"{interval(summary)}, n = {summary.n}" if summary.low is not None else f"n = {summary.n}"
    return Entry(moved_text(summary.mean), values, small=small, runs=_paired_runs(moved), tone=tone)


def _largest(moved: Moved) -> Entry:
    if not moved.differences:
        return Entry(NONE, (None,), note=WORDS[moved.verdict][1], tone="muted")
    largest = max(moved.differences, key=abs)
    return Entry(moved_text(largest), (largest,), runs=_paired_runs(moved))


def _paired_runs(moved: Moved) -> tuple[str, ...]:
    return tuple(dict.fromkeys(outcome.run_id for pair in moved.pairs for outcome in pair))


def moved_text(value: float) -> str:
    """``+0.52``; what is not 0 but would be printed so keeps its size, as in ``+3.1e-07``."""
    return f"{value:+.1e}" if value and abs(value) < 0.005 else signed(value)


def _why(moved: Moved) -> str:
    """What differs between paired runs, and which runs have no partner."""
    if moved.now is None or moved.then is None:
        return WORDS[moved.verdict][1]
    parts = ["same to the last digit"] if moved.verdict == "equal" else []
    parts += causes(moved.pairs)
    then, now = ({(run.order_seed, run.train_seed) for run in cell.runs} for cell in (moved.then, moved.now))
    parts += _states(moved.then, then & now, "then") + _states(moved.now, then & now, "now")
    for seeds, word in ((then - now, "then"), (now - then, "now")):
        parts += [f"{len(seeds)} pair{'s' * (len(seeds) != 1)} of seeds only {word}"] if seeds else []
    return "; ".join(parts) or NONE


def _states(cell: Cell, shared: Collection[tuple[int, int]], when: str) -> list[str]:
    """What stands in the way of runs with ``shared`` seeds that are not averaged, e.g. ``1 run failed now (boom)``."""
    lost: dict[str, list[Run]] = {}
    used = {run.run_id for run in cell.used}
    for run in cell.runs:
        if run.run_id not in used and (run.order_seed, run.train_seed) in shared:
            lost.setdefault("not averaged" if run.state == "ok" else run.state, []).append(run)
    said = []
    for state, runs in lost.items():
        why = f" ({runs[0].problem})" if state in ("failed", "broken") and runs[0].problem else ""
        said.append(f"{len(runs)} run{'s' * (len(runs) != 1)} {state} {when}{why}")
    if cell.state == "stale" and cell.used:
        said.append(f"stale {when}")
    return said
