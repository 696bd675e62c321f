"""What a suite's results say, in a few sentences: how much was run at which scale, what is decided, and what is not."""

from __future__ import annotations

from collections.abc import Sequence

from smope_bench.benchmarks.suites import SUITES
from smope_bench.reports.loading.model import Column, RowKind, SuiteResults
from smope_bench.reports.statistics.paired_tests import LEAST_UNITS, Comparison, Family, Verdict, compare
from smope_bench.reports.text import listed, shortened

MOST = 4
"""Benchmarks of a suite that are spoken of one by one."""
_EVERY: dict[RowKind, str] = {"floor": "every floor", "method": "every other method", "adapter": "every adapter"}
_SOME: dict[RowKind, str] = {"floor": "floors", "adapter": "adapters"}
_ALL = "every other row"
_TIED: tuple[Verdict, ...] = ("no difference shown", "equal")


def answer(results: SuiteResults) -> tuple[str, ...]:
    """Scale and number of runs; a sentence on each benchmark, grouped by the verdicts on the row compared with; what they rest on.

    No row is called best. Empty without a finished run.
    """
    columns = [column for column in results.columns if any(cell.outcomes for cell in results.cells_of(column))]
    if not columns:
        return ()
    families = {column.label: compare(results, column) for column in columns}
    decided = {label: family for label, family in families.items() if family and family.units >= LEAST_UNITS}
    said = [_extent(results, columns)]
    if _is_single(results):
        return *said, *_single(results, columns), *_cautions(results, columns)
    shown = [column for column in columns if column.label in decided][:MOST]
    said += [_verdicts(decided[column.label], len(columns) > 1) for column in shown]
    if len(decided) > MOST:
        said.append(f"{len(decided) - MOST} further benchmarks are in the statistics below.")
    open_ = [column for column in columns if column.label not in decided and not results.caution(column)]
    few = f"with fewer than {LEAST_UNITS} class orders or training seeds a row"
    for is_stale, why in ((True, "by stale runs, which are of another version of the code"), (False, few)):
        if labels := [column.label for column in open_ if _is_stale(results, column) == is_stale]:
            where = f"On {listed(labels)}: n" if len(columns) > 1 else "N"
            said.append(f"{where}othing can be decided {why}.")
    bases = dict.fromkeys(_basis(family) for family in decided.values())
    return *said, *bases, *_cautions(results, columns)


def _is_stale(results: SuiteResults, column: Column) -> bool:
    """Whether all that a column shows is stale."""
    return all(cell.state == "stale" for cell in results.cells_of(column) if cell.outcomes)


def _extent(results: SuiteResults, columns: Sequence[Column]) -> str:
    counts = sorted({len(cell.used) for column in columns for cell in results.cells_of(column) if cell.used})
    seeds = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"{counts[0]} seed{'s' * (counts[0] != 1)}"
    scale = (
        "Tiny scale, not the papers'"
        if results.tiny
        else "The papers' scale"
        if results.suite in SUITES
        else "Own suite"
    )
    done, planned = results.counts().get("ok", 0), len(results.runs)
    missing = "" if done == planned else f"; {done} of {planned} runs are done"
    return f"{scale}: {len(results.rows)} rows on {listed([column.label for column in columns], 3)}, {seeds} a row{missing}."


def _is_single(results: SuiteResults) -> bool:
    return all(len(cell.used) < 2 for cell in results.all_cells)


def _single(results: SuiteResults, columns: Sequence[Column]) -> tuple[str, str]:
    faa = [found.mean for column in columns for cell in results.cells_of(column) if (found := cell.summary("faa"))]
    return (
        "One seed says nothing about other class orders and training seeds: no row is called better than another.",
        f"What is drawn are single runs, from {min(faa):.1f} to {max(faa):.1f} % final average accuracy; from {LEAST_UNITS} seeds "
        "on, rows are compared.",
    )


def _cautions(results: SuiteResults, columns: Sequence[Column]) -> tuple[str, ...]:
    return tuple(caution for column in columns if (caution := results.caution(column)))


def _verdicts(family: Family, is_named: bool) -> str:
    """``With 3 class orders, B and C cannot be told apart from A; A is above every floor and below D.``"""
    assert family.reference is not None
    name = shortened(family.reference.label)
    tied = _group(family, *_TIED)
    apart = f"no other row can be told apart from {name}"
    parts = [apart if tied == _ALL else f"{tied} cannot be told apart from {name}"] if tied else []
    few = [shortened(one.row.label) for one in family.comparisons if not _is_tested(one)]
    directions: tuple[tuple[str, Verdict], ...] = (("above", "worse"), ("below", "better"))
    places = [f"{word} {group}" for word, verdict in directions if (group := _group(family, verdict))]
    if places:
        parts.append(f"{name} is {' and '.join(places)}")
    if same := _group(family, "undecided"):
        parts.append(f"no test decides on {same}, whose difference from it is the same in every run")
    parts += [f"too few runs of {listed(few, 6)} to say anything"] if few else []
    where = f"{family.column.label}: with" if is_named else "With"
    return f"{where} {_units(family)}, {'; '.join(parts) or f'nothing can be compared with {name}'}."


def _is_tested(one: Comparison) -> bool:
    return one.difference is not None and one.difference.n >= LEAST_UNITS


def _group(family: Family, *verdicts: Verdict) -> str:
    """The rows with these verdicts: methods by their names, several floors or adapters by their number, all of a kind as one."""
    mine = [one.row for one in family.comparisons if one.verdict in verdicts and _is_tested(one)]
    if len(mine) > 1 and len(mine) == len(family.comparisons):
        return _ALL
    names: list[str] = []
    for kind in dict.fromkeys(row.kind for row in mine):
        own = [shortened(row.label) for row in mine if row.kind == kind]
        total = sum(one.row.kind == kind for one in family.comparisons)
        if len(own) > 1 and len(own) == total and kind in _EVERY:
            names.append(_EVERY[kind])
        elif len(own) > 1 and kind in _SOME:
            names.append(f"{len(own)} of {total} {_SOME[kind]}")
        else:
            names += own if len(own) <= 7 else [*own[:6], f"{len(own) - 6} more"]
    return listed(names)


def _units(family: Family) -> str:
    return f"{family.units} {'training seeds of one class order' if family.is_one_order else 'class orders'}"


def _basis(family: Family) -> str:
    """The test, its correction, and what more seeds would change."""
    over = f"{family.size} comparison{'s' * (family.size != 1)}"
    unit = "training seeds" if family.is_one_order else "class orders"
    if family.test == "signed rank":
        test = f"By the exact signed-rank test on FAA, corrected for {over} (Holm)."
    else:
        test = (
            f"By the paired t-test on FAA, corrected for {over} (Holm), assuming normal differences; without that, "
            f"{family.needed} {unit} could decide."
        )
    chosen = (
        " The row compared with is the best of these runs, and the correction is over every pair." * family.is_chosen
    )
    return f"{test}{chosen}{' Nothing is said about other class orders.' * family.is_one_order}"
