"""Tables of statistics: paired comparisons, average ranks, stability over class orders, and sources of variance."""

from __future__ import annotations

from collections.abc import Sequence

from smope_bench.reports.formatting import KIND_HELP, KIND_NAMES, column_text, interval, notes
from smope_bench.reports.loading.model import KINDS, Cell, Column, ResultRow, SuiteResults, run_ids
from smope_bench.reports.statistics.images import ImageDifference, ReadAnswers, image_differences
from smope_bench.reports.statistics.paired_tests import (
    ALPHA,
    LEAST_UNITS,
    Comparison,
    Family,
    Verdict,
    compare,
    compare_all,
)
from smope_bench.reports.statistics.ranking import Ranking, Stability, friedman_words, rank_rows, stability
from smope_bench.reports.statistics.samples import sample
from smope_bench.reports.statistics.variance import REMEDY, VarianceSplit, split_variance
from smope_bench.reports.tables.table import Block, Heading, Row, Table, TableCell
from smope_bench.reports.text import NONE, Tone, file_name, number, p_text, signed

INTERVAL_HELP = "Two-sided t-interval of the mean difference: for normal differences, and not corrected for other rows."
HEADINGS = (
    Heading(
        "n",
        help="Class orders that both rows were run with; training seeds of one order are averaged. Where there is a single "
        "class order: its training seeds.",
        fields=("n", "pairs"),
    ),
    Heading("Difference", help="Mean of row minus reference, in points.", fields=("difference", "std")),
    Heading("95 % interval", help=INTERVAL_HELP, fields=("ci_low", "ci_high")),
    Heading(
        "Effect size",
        help="Cohen's d_z, the mean difference over its standard deviation, times Hedges' correction for few values: "
        "J(m) = G(m/2) / (sqrt(m/2) G((m-1)/2)), m = n - 1, G the gamma function. A dash where all differ by the same, and "
        "with fewer than three.",
        fields=("effect_size",),
    ),
    Heading("Won, tied, lost", help="How often the row is better, equal, worse.", fields=("wins", "ties", "losses")),
    Heading("p", help="Two-sided, by the test that is named below the table, uncorrected.", fields=("p",), sort="up"),
    Heading("p (Holm)", help="The same, corrected for all tests of the family.", fields=("p_holm",), sort="up"),
    Heading("Verdict", help="What may be said at 0.05.", fields=("verdict",), sort="text", is_numeric=False),
)
IMAGE_HEADINGS = (
    Heading("Images x seeds", help="Test images, and pairs of runs with the same seeds.", fields=("images", "seeds")),
    Heading(
        "Difference", help="Mean of row minus reference over the seeds, in points.", fields=("difference", "std_error")
    ),
    Heading("95 % interval", help="Over test images, seeds as they are.", fields=("ci_low", "ci_high")),
    Heading("p (Holm)", help="Two-sided, corrected for all rows.", fields=("p", "p_holm"), sort="up"),
    Heading("Verdict", help="At 0.05.", fields=("verdict",), sort="text", is_numeric=False),
)
_TONES: dict[Verdict, Tone] = {"better": "good", "worse": "bad", "undecided": "word", "not compared": "word"}


def paired_table(results: SuiteResults, column: Column, number_: int, metric: str = "faa") -> Table | None:
    """Every sequential row against the reference; ``None`` where no two rows share two class orders or training seeds."""
    family = compare(results, column, metric)
    if family is None or family.reference is None or _is_bare(family):
        return None
    blocks = tuple(
        Block(lines, KIND_NAMES[kind], KIND_HELP[kind])
        for kind in KINDS
        if (lines := tuple(_line(one, column) for one in family.comparisons if one.row.kind == kind))
    )
    key = f"{file_name(results.suite)}-paired-{number_}"
    title = f"Every row against {family.reference.label}{_where(results, column)}"
    said = tuple(dict.fromkeys((*_words(family), *family.left_out, *notes(results, column))))
    lead = (
        f"{results.metric(metric).heading} of each row against {family.reference.label}, run against run with the same class order "
        "and the same training seed."
    )
    return Table(key, title, "Row", HEADINGS, blocks, lead, said)


def pairs_table(results: SuiteResults, column: Column, number_: int, metric: str = "faa") -> Table | None:
    """Every pair of sequential rows; ``None`` as for ``paired_table``."""
    family = compare_all(results, column, metric)
    if family is None or _is_bare(family):
        return None
    lines = tuple(_line(one, column, f"{one.row.label} against {one.reference.label}") for one in family.comparisons)
    key, title = f"{file_name(results.suite)}-pairs-{number_}", f"Every pair of rows{_where(results, column)}"
    said = tuple(dict.fromkeys((*_words(family), *family.left_out, *notes(results, column))))
    return Table(key, title, "Rows", HEADINGS, (Block(lines),), "The first row of each pair minus the second.", said)


def images_table(
    results: SuiteResults, column: Column, number_: int, reference: str, read: ReadAnswers
) -> Table | None:
    """Every sequential row against the reference over the test images; ``None`` where no predictions are stored."""
    found = image_differences(results, column, reference, read)
    if not found:
        return None
    lines = tuple(_image_line(one, column) for one in found)
    lead = (
        f"FAA of each row against {reference}: what would change with other test images of the same classes, the trained models "
        "staying as they are."
    )
    said = (
        "The interval is that of a paired bootstrap over test images within classes, for all seeds at once, in closed form. It "
        "answers whether these trained models differ on images such as these, and not whether the methods differ under other "
        "class orders or training seeds: that takes the paired comparison over several class orders.",
        *notes(results, column),
    )
    key, title = f"{file_name(results.suite)}-images-{number_}", f"The choice of test images{_where(results, column)}"
    return Table(key, title, "Row", IMAGE_HEADINGS, (Block(lines),), lead, said)


def _image_line(one: ImageDifference, column: Column) -> Row:
    def entry(text: str, *values: float | int | str | None, tone: Tone = "") -> TableCell:
        return TableCell(text, values, runs=one.runs, cell=(one.row.label, column.label), tone=tone)

    words = "more than the images explain" if one.adjusted <= ALPHA else "the images may explain it"
    entries = (
        entry(f"{one.images} x {one.seeds}", one.images, one.seeds),
        entry(signed(one.mean), one.mean, one.std),
        entry(f"[{number(one.low, 1)}, {number(one.high, 1)}]", one.low, one.high, tone="muted"),
        entry(p_text(one.adjusted), one.p, one.adjusted),
        entry(words, words),
    )
    return Row(one.row.label, entries, url=one.row.url)


def _where(results: SuiteResults, column: Column) -> str:
    return f": {column_text(column)}" if len(results.columns) > 1 else ""


def _is_bare(family: Family) -> bool:
    return all(one.difference is None or one.difference.n < 2 for one in family.comparisons)


def _words(family: Family) -> list[str]:
    tests = f"{family.size} test{'s' * (family.size != 1)}"
    if family.reference is None:
        found = [f"Holm's correction is over {tests}, one for every pair of rows."]
    elif family.is_chosen:
        found = [
            f"Reference: {family.reference.label}, the sequential row with the best mean. These runs chose it, and it could have "
            f"been any row: Holm's correction is over {tests}, one for every pair of rows, of which those with it are shown."
        ]
    else:
        found = [f"Reference: {family.reference.label}, fixed beforehand. Holm's correction is over the {tests} shown."]
    found.append(_test_words(family))
    if family.is_one_order:
        found.append(
            "All runs share one class order: what is said holds for that order, not for class orders in general."
        )
    compared = [one.difference for one in family.comparisons if one.difference is not None]
    if any(one.std == 0 and one.n > 1 for one in compared):
        found.append("Where all differ by the same, there is no interval and no effect size.")
    return found


def _test_words(family: Family) -> str:
    unit = "training seed" if family.is_one_order else "class order"
    if not family.size:
        return f"No test: with fewer than {LEAST_UNITS} {unit}s nothing can be decided; that is not evidence of no difference."
    if family.test == "signed rank":
        return f"Test: Wilcoxon's signed-rank test, exact, over {family.units} {unit}s; it assumes no distribution."
    return (
        f"Test: the paired t-test over {family.units} {unit}s. It assumes that differences are normally distributed from {unit} "
        f"to {unit}, which so few cannot show. The exact signed-rank test, which assumes nothing, cannot fall below {ALPHA} "
        f"here, whatever the runs show; it would decide from {family.needed} {unit}s on."
    )


def _line(one: Comparison, column: Column, label: str = "") -> Row:
    place, found = (one.row.label, column.label), one.difference

    def entry(text: str, *values: float | int | str | None, tone: Tone = "") -> TableCell:
        return TableCell(text, values, runs=one.runs, cell=place, tone=tone)

    said = entry(one.words, one.words, tone=_TONES.get(one.verdict, ""))
    name = label or one.row.label
    if found is None:
        return Row(name, (entry("0", 0, 0), *(entry(NONE, tone="muted") for _ in HEADINGS[2:]), said))
    counts = (one.wins, one.ties, one.losses)
    more = f" ({one.pairs} runs)" if one.pairs > found.n else ""
    entries = (
        entry(f"{found.n}{more}", found.n, one.pairs),
        entry(signed(found.mean), found.mean, found.std),
        entry(interval(found), found.low, found.high, tone="muted"),
        entry(signed(one.effect), one.effect),
        entry(" / ".join(map(str, counts)), *counts),
        entry(p_text(one.p), one.p),
        entry(p_text(one.adjusted), one.adjusted),
        said,
    )
    return Row(name, entries, url="" if label else one.row.url)


def statistics_tables(
    results: SuiteResults, read: ReadAnswers | None = None, *, all_pairs: bool = False
) -> tuple[Table, ...]:
    """All statistics of a suite on FAA that its runs allow; none for one run a cell on one benchmark.

    ``read``: stored predictions, for the comparison over test images. ``all_pairs``: compare every pair of rows, too.
    """
    paired = list[Table | None]()
    for i, column in enumerate(results.columns, 1):
        paired.append(paired_table(results, column, i))
        family = compare(results, column)
        if read is not None and family is not None and family.reference is not None:
            paired.append(images_table(results, column, i, family.reference.label, read))
        if all_pairs:
            paired.append(pairs_table(results, column, i))
    ranking = rank_rows(results)
    ranks = None if ranking is None else _ranks_table(results, ranking)
    found = [*paired, ranks, _stability_table(results), _variance_table(results)]
    return tuple(grid for grid in found if grid is not None)


def rank_text(rank: float) -> str:
    """``3`` or ``2.5``: a rank, or a mean of ranks with two decimals."""
    return str(round(rank)) if float(rank).is_integer() else number(rank, 1 if float(2 * rank).is_integer() else 2)


def _ranks_table(results: SuiteResults, ranking: Ranking) -> Table:
    table = ranking.table
    columns = [column for column in results.columns if any(label == column.label for label, _ in table.blocks)]
    headings = [Heading("Mean rank", help="Over all blocks; 1 is best.", fields=("mean_rank", "blocks"), sort="up")]
    headings += [
        Heading(column.label, "Mean rank on", "Over its class orders.", ("mean_rank", "blocks"), "up")
        for column in columns
        if len(columns) > 1
    ]
    places = {mean: place for place, mean in enumerate(sorted({round(mean, 9) for _, mean in ranking.order})[:2], 1)}

    def line(label: str, mean: float) -> Row:
        i = table.rows.index(label)
        entries = [
            TableCell(number(mean), (mean, len(table.blocks)), places.get(round(mean, 9), 0), runs=table.runs_of(label))
        ]
        for column in columns if len(columns) > 1 else ():
            own = [float(table.ranks[b, i]) for b, block in enumerate(table.blocks) if block[0] == column.label]
            runs, cell = table.runs_of(label, column.label), (label, column.label)
            entries.append(
                TableCell(number(sum(own) / len(own)), (sum(own) / len(own), len(own)), runs=runs, cell=cell)
            )
        return Row(label, tuple(entries))

    lead = (
        "Every row's rank by FAA within each block (one benchmark under one class order, averaged over its training seeds), "
        "averaged over blocks; equal rows share the mean of their ranks. Sequential rows and complete blocks only."
    )
    said = tuple(dict.fromkeys((*friedman_words(ranking), *table.left_out, *notes(results))))
    lines = tuple(line(*pair) for pair in ranking.order)
    return Table(
        f"{file_name(results.suite)}-ranks", "Average ranks", "Row", tuple(headings), (Block(lines),), lead, said
    )


def _stability_table(results: SuiteResults) -> Table | None:
    found = [one for column in results.columns if (one := stability(results, column)) is not None]
    if not found:
        return None
    rows = [row for row in results.rows if any(row.label in one.table.rows for one in found)]
    headings = tuple(
        Heading(
            one.column.label, help=column_text(one.column), fields=("value", "best_rank", "worst_rank", "class_orders")
        )
        for one in found
    )
    agreement = Row("Kendall's W", tuple(_agreement(one) for one in found))
    firsts = tuple(Row(row.label, tuple(_first(one, row) for one in found), url=row.url) for row in rows)
    blocks = (
        Block(
            (agreement,), "Agreement", "1 when all class orders rank the rows alike, 0 when they have nothing in common"
        ),
        Block(firsts, "First place", "in how many class orders no row is better; in small type the row's ranks"),
    )
    lead = "How far the ranking of the sequential rows by FAA depends on the order in which the classes arrive."
    said = [
        "Kendall's W is corrected for ties. Training seeds are averaged within a class order; where each order has one "
        "training seed, a change of rank may be that of the training seed.",
        *(text for one in found for text in one.table.left_out),
        *notes(results),
    ]
    key = f"{file_name(results.suite)}-stability"
    return Table(key, "Stability over class orders", "Row", headings, blocks, lead, tuple(dict.fromkeys(said)))


def _agreement(one: Stability) -> TableCell:
    orders, runs = len(one.table.blocks), tuple(run for row in one.table.rows for run in one.table.runs_of(row))
    text = "all rows are equal" if one.w is None else number(one.w)
    small = f"{orders} orders, {len(one.table.rows)} rows"
    return TableCell(text, (one.w, None, None, orders), small=small, runs=runs, tone="word" if one.w is None else "")


def _first(one: Stability, row: ResultRow) -> TableCell:
    if row.label not in one.table.rows:
        return TableCell("not ranked", tone="word", cell=(row.label, one.column.label))
    orders, first, (best, worst) = len(one.table.blocks), one.firsts[row.label], one.places[row.label]
    ranks = rank_text(best) if best == worst else f"{rank_text(best)} to {rank_text(worst)}"
    cell, runs = (row.label, one.column.label), one.table.runs_of(row.label)
    return TableCell(f"{first} of {orders}", (first, best, worst, orders), small=f"rank {ranks}", runs=runs, cell=cell)


def _variance_table(results: SuiteResults) -> Table | None:
    splits = {cell.place: split_variance(sample(cell, "faa").values) for cell in results.all_cells}
    if all(split.runs < 2 for split in splits.values()):
        return None
    if all(split.train_std is None for split in splits.values()):
        behind = [run_ids(results.cells_of(column)) for column in results.columns]
        entries = [TableCell(f"cannot be separated: {REMEDY}", runs=runs, tone="word") for runs in behind]
        lines = (Row("All rows", tuple(entries)),)
    else:
        lines = tuple(
            Row(
                row.label,
                tuple(_split_cell(results.cell(row, one), splits[row.label, one.label]) for one in results.columns),
                url=row.url,
            )
            for row in results.rows
            if any(splits[row.label, column.label].runs for column in results.columns)
        )
    fields = ("order_share", "ci_low", "ci_high", "order_std", "training_std", "class_orders", "runs")
    headings = tuple(Heading(column.label, help=column_text(column), fields=fields) for column in results.columns)
    lead = (
        "How much of the variance of FAA between a row's runs comes from the class order, the rest coming from the training "
        "seed; in small type the standard deviations of both, in points."
    )
    key = f"{file_name(results.suite)}-variance"
    said = (*_variance_words(list(splits.values())), *notes(results))
    return Table(key, "Where the spread comes from", "Row", headings, (Block(lines),), lead, said)


def _variance_words(splits: Sequence[VarianceSplit]) -> list[str]:
    found = []
    if any(split.share is not None for split in splits):
        found.append(
            "Training seeds are nested in class orders (random effects, by mean squares). Brackets hold the exact 95 % "
            "interval for normal effects, where every order has as many runs; with few orders it is wide."
        )
    if any(split.is_clipped for split in splits):
        found.append("Set to 0: the estimate for the class order was below zero, which a variance cannot be.")
    if any(split.runs > 1 and split.train_std is None for split in splits):
        found.append(
            "Where each class order has one training seed, no statistic can say which of the two a difference between runs "
            f"comes from: {REMEDY}."
        )
    return found


def _split_cell(measured: Cell, split: VarianceSplit) -> TableCell:
    cell, runs = measured.place, measured.run_ids
    values = (split.share, split.low, split.high, split.order_std, split.train_std, split.orders, split.runs)
    if split.share is None:
        small = "" if split.train_std is None else f"training seed {number(split.train_std)}"
        words = (split.problem or NONE) if split.runs else NONE
        return TableCell(words, values if split.runs else (), small=small, runs=runs, cell=cell, tone="word")
    reach = "" if split.low is None or split.high is None else f" [{100 * split.low:.0f}, {100 * split.high:.0f}]"
    small = f"order {number(split.order_std)}, training seed {number(split.train_std)}"
    marks = ("set to 0",) if split.is_clipped else ()
    return TableCell(f"{100 * split.share:.0f} %{reach}", values, marks=marks, small=small, runs=runs, cell=cell)
