"""The table of paired comparisons on one benchmark: every row against the reference, and what may be said of it."""

from __future__ import annotations

from smope_bench.reports.formatting import (
    KIND_HELP,
    KIND_NAMES,
    METRIC_NAMES,
    NONE,
    column_text,
    file_name,
    interval,
    notes,
    signed,
)
from smope_bench.reports.loading.model import KINDS, Column, SuiteResults
from smope_bench.reports.statistics.paired_tests import ALPHA, Comparison, Family, Verdict, compare
from smope_bench.reports.tables.table import Block, Entry, Grid, Heading, Line, Tone

HEADINGS = (
    Heading(
        "Pairs", help="Runs of both rows with the same class order and training seed.", fields=("pairs", "class_orders")
    ),
    Heading("Difference", help="Mean of row minus reference, in points.", fields=("difference", "std")),
    Heading(
        "95 % interval",
        help="Two-sided t-interval of the mean difference: for normal differences, and not corrected for other rows.",
        fields=("ci_low", "ci_high"),
    ),
    Heading(
        "Effect size",
        help="Cohen's d_z, the mean difference over its standard deviation, times Hedges' correction for few pairs: "
        "J(m) = G(m/2) / (sqrt(m/2) G((m-1)/2)), m = pairs - 1, G the gamma function. A dash where all pairs differ by the "
        "same, and with fewer than three.",
        fields=("effect_size",),
    ),
    Heading(
        "Won, tied, lost", help="Pairs in which the row is better, equal, worse.", fields=("wins", "ties", "losses")
    ),
    Heading("p", help="Exact two-sided Wilcoxon signed-rank test, uncorrected.", fields=("p",), sort="up"),
    Heading("p (Holm)", help="The same, corrected for all tests of the family.", fields=("p_holm",), sort="up"),
    Heading(
        "Against the reference", help="What may be said at 0.05.", fields=("verdict",), sort="text", is_numeric=False
    ),
)
_TONES: dict[Verdict, Tone] = {"better": "good", "worse": "bad", "undecided": "word", "not compared": "word"}


def paired_grid(results: SuiteResults, column: Column, number_: int, metric: str = "faa") -> Grid | None:
    """Every sequential row against the one of the best mean; ``None`` where no two rows share two runs."""
    family = compare(results, column, metric)
    if family is None or all(one.difference is None or one.difference.n < 2 for one in family.comparisons):
        return None
    blocks = tuple(
        Block(lines, KIND_NAMES[kind], KIND_HELP[kind])
        for kind in KINDS
        if (lines := tuple(_line(one, column) for one in family.comparisons if one.row.kind == kind))
    )
    where = f": {column_text(column)}" if len(results.columns) > 1 else ""
    key = f"{file_name(results.suite)}-paired-{number_}"
    title = f"Every row against {family.reference.label}{where}"
    said = tuple(dict.fromkeys((*_words(family), *family.left_out, *notes(results, column))))
    return Grid(key, title, "Row", HEADINGS, blocks, _lead(family, metric), said)


def p_text(p: float | None) -> str:
    """``0.062``, ``< 0.001``, or a dash."""
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _lead(family: Family, metric: str) -> str:
    return (
        f"{METRIC_NAMES[metric]} of each row against {family.reference.label}, run against run with the same class order and "
        "the same training seed."
    )


def _words(family: Family) -> list[str]:
    label, size = family.reference.label, family.size
    tests = f"{size} test{'s' * (size != 1)}"
    if family.is_chosen:
        found = [
            f"Reference: {label}, the sequential row with the best mean. These runs chose it, and it could have been any row: "
            f"Holm's correction is over {tests}, one for every pair of rows, of which those with {label} are shown."
        ]
    else:
        found = [f"Reference: {label}, fixed beforehand. Holm's correction is over the {tests} shown."]
    found.append(
        "The test is exact: with n differing pairs no p-value is below 2 / 2^n. Where even that, after Holm, stays above "
        f"{ALPHA}, the runs cannot decide, whatever they show; that is not evidence of no difference."
    )
    compared = [one for one in family.comparisons if one.difference is not None]
    if any(one.difference is not None and one.orders < one.difference.n for one in compared):
        found.append(
            "Some pairs share a class order, and are independent only given that order: what is said holds for these class "
            "orders, not for class orders in general."
        )
    if any(one.difference is not None and one.difference.std == 0 for one in compared):
        found.append("Where all pairs differ by the same, the interval has no width and there is no effect size.")
    return found


def _line(one: Comparison, column: Column) -> Line:
    place, found = (one.row.label, column.label), one.difference

    def entry(text: str, *values: float | int | str | None, tone: Tone = "") -> Entry:
        return Entry(text, values, runs=one.runs, cell=place, tone=tone)

    said = entry(one.words, one.words, tone=_TONES.get(one.verdict, ""))
    if found is None:
        return Line(one.row.label, (entry("0", 0, 0), *(entry(NONE, tone="muted") for _ in HEADINGS[2:]), said))
    counts = (one.wins, one.ties, one.losses)
    orders = f" ({one.orders} order{'s' * (one.orders != 1)})" if one.orders < found.n else ""
    entries = (
        entry(f"{found.n}{orders}", found.n, one.orders),
        entry(signed(found.mean), found.mean, found.std),
        entry(interval(found), found.low, found.high, tone="muted"),
        entry(signed(one.effect), one.effect),
        entry(" / ".join(map(str, counts)), *counts),
        entry(p_text(one.p), one.p),
        entry(p_text(one.adjusted), one.adjusted),
        said,
    )
    return Line(one.row.label, entries, url=one.row.url)
