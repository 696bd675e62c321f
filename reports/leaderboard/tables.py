"""Tables of a leaderboard: every number with who ran it where, the folders side by side, and runs that they disagree on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from smope_bench.reports.formatting import KIND_HELP, KIND_NAMES, counted, notes, number
from smope_bench.reports.leaderboard.merge import Board, Conflict, Identity, Joined, Source, source_text
from smope_bench.reports.loading.load import VERSION_DIGITS
from smope_bench.reports.loading.model import KINDS, Cell, Column, Run
from smope_bench.reports.loading.run_result import RunResult
from smope_bench.reports.tables.benchmark import benchmark_headings, benchmark_line, shown_metrics
from smope_bench.reports.tables.comparison import environment_table
from smope_bench.reports.tables.integrity import integrity_table
from smope_bench.reports.tables.table import Block, Heading, Row, Table, TableCell
from smope_bench.reports.text import NONE, listed

_BOARD_LEAD = (
    "Mean ± standard deviation (n - 1) over the runs of all folders that share settings and code, sorted by FAA. Bold is the "
    "best and underlined the second among sequential rows; no significance is claimed."
)
_TEXT = {"sort": "text", "is_numeric": False}
_WHO = (
    Heading("Run by", help="Labels of the folders that have the runs, with their number.", **_TEXT),
    Heading("Machine", help="The device that computed, as its driver names it.", **_TEXT),
    Heading("Code", help="Git revision; plugins by the hash of their source.", **_TEXT),
)


def board_table(board: Board, column: Column, key: str, pages: Mapping[Identity, str], only: Identity | None) -> Table:
    """One column of a board, best first. ``pages``: of each method; ``only``: the rows of this one, marked as among all rows."""
    metrics = shown_metrics(board, column, brief=True)
    ranks = {metric.name: board.ranks(column, metric.name) for metric in metrics}
    cells = [cell for cell in board.cells_of(column) if cell.used and only in (None, board.methods[cell.row.label])]
    blocks = []
    for kind in KINDS:
        mine = sorted((cell for cell in cells if cell.row.kind == kind), key=_by_mean)
        lines = tuple(_board_line(board, cell, ranks, pages if only is None else {}) for cell in mine)
        blocks += [Block(lines, KIND_NAMES[kind], KIND_HELP[kind])] if lines else []
    title = column.label if board.title in column.label else f"{board.title}: {column.label}"
    headings = (*benchmark_headings(metrics), *_WHO)
    return Table(key, title, "Method", headings, tuple(blocks), _BOARD_LEAD, tuple(notes(board, column)))


def _by_mean(cell: Cell) -> tuple[float, str]:
    found = cell.summary("faa")
    return (-round(found.mean, 2) if found else 0.0, cell.row.label)


def _board_line(board: Board, cell: Cell, ranks: Mapping[str, Mapping[str, int]], pages: Mapping[Identity, str]) -> Row:
    line = benchmark_line(cell, ranks)
    revisions = Counter(_version(outcome) for outcome in cell.outcomes)
    plugins = dict.fromkeys(source for outcome in cell.outcomes for source in outcome.plugins.values())
    texts = (held_by(cell.used), counted(Counter(map(machine, cell.outcomes))), counted(revisions))
    small = ("", "", ", ".join(map(source_text, plugins)))
    who = (
        TableCell(text, (text,), small=beside, runs=cell.run_ids, cell=cell.place)
        for text, beside in zip(texts, small, strict=True)
    )
    by_hand = ", ".join(dict.fromkeys(setting for run in cell.used for setting in run.settings))
    return replace(line, cells=(*line.cells, *who), small=by_hand, page=pages.get(board.methods[cell.row.label], ""))


def held_by(runs: Iterable[Run]) -> str:
    """``alice``, or ``alice (3 runs), alice and bob (1 run)``."""
    return counted(Counter(listed(run.sources) for run in runs))


def machine(outcome: RunResult) -> str:
    """The device that a run computed on."""
    return str(outcome.provenance.get("device_name") or outcome.provenance.get("device") or "not known")


def _version(outcome: RunResult) -> str:
    revision = outcome.provenance.get("git_revision")
    return f"git {str(revision)[:VERSION_DIGITS]}" if revision else f"code {outcome.fingerprint[:VERSION_DIGITS]}"


def contents_tables(
    joined: Joined, pages: Mapping[Identity, str], boards: Mapping[Identity, str]
) -> tuple[Table, Table]:
    """What there is: a row a benchmark and a row a method, each with its page."""
    headings = (
        Heading("Settings", help="Settings of data, backbone and precision; only within one are rows compared."),
        Heading("Rows", help="Methods, each with its settings and code."),
        Heading("Runs"),
        Heading("Run by", **_TEXT),
    )
    lines = [_contents_line(board.title, [board], None, boards[board.identity]) for board in joined.boards]
    lead = "Each has a page with every row, who ran it and where."
    benchmarks = Table("benchmarks", "Benchmarks", "Benchmark", headings, (Block(tuple(lines)),), lead)
    others = (Heading("Benchmarks"), *headings[1:])
    lines = [_contents_line(name, joined.boards, method, pages[method]) for method, name in joined.methods.items()]
    return benchmarks, Table("methods", "Methods", "Method", others, (Block(tuple(lines)),), lead)


def _contents_line(label: str, boards: Sequence[Board], method: Identity | None, page: str) -> Row:
    """The row of a benchmark, or of a ``method`` on all boards."""
    mine = [[cell for cell in board.all_cells if cell.used and is_of(board, cell, method)] for board in boards]
    cells = [cell for some in mine for cell in some]
    runs = [run for cell in cells for run in cell.used]
    first = len({cell.column.label for cell in cells}) if method is None else sum(map(bool, mine))
    counts = (first, len({(cell.column.benchmark, cell.row.label) for cell in cells}), len(runs))
    entries = [TableCell(str(count), (count,)) for count in counts]
    return Row(label, (*entries, TableCell(held_by(runs), (held_by(runs),))), page=page)


def is_of(board: Board, cell: Cell, method: Identity | None) -> bool:
    """Whether a cell is of a method; of every one where it is None."""
    return method is None or board.methods[cell.row.label] == method


def source_tables(joined: Joined) -> tuple[Table, ...]:
    """The folders, their versions and machines side by side, and the runs that they disagree on where there are any."""
    headings = (
        Heading("Records", help="Records in the folder."),
        Heading("Shown", help="Results in the tables of this site."),
        Heading(
            "Shared", help="Of these, results that another folder has, too, equal to the last digit: counted once."
        ),
        Heading(
            "Disputed",
            help="Results that were left out: another folder has other numbers for the run, by the same code.",
        ),
        Heading("Left out", help="Records that cannot be used."),
        Heading("Newest", **_TEXT),
    )
    lines = tuple(_source_line(source, joined) for source in joined.sources)
    lead = (
        "A folder goes by the label that it was given; nothing else is said of whoever ran it than what records hold."
    )
    folders = Table("folders", "Folders", "Folder", headings, (Block(lines),), lead)
    sides = [
        (source.label, f"Of the usable runs of {source.label}.", list(source.outcomes.values()))
        for source in joined.sources
    ]
    lead = "Where the runs of each folder were made. Runs of several versions of the code have a row each, and are not ranked."
    environments = environment_table("environments-of-folders", sides, lead)
    return (folders, environments, *([_conflict_table(joined.conflicts)] if joined.conflicts else []))


def _source_line(source: Source, joined: Joined) -> Row:
    runs = [run for board in joined.boards for run in board.runs if source.label in run.sources]
    held = [held for conflict in joined.conflicts for held in conflict.held if held.source == source.label]
    counts = (
        source.integrity.records,
        len(runs),
        sum(len(run.sources) > 1 for run in runs),
        sum(not one.is_used for one in held),
        len(source.integrity.broken),
    )
    newest = max((str(one.provenance.get("finished") or "") for one in source.outcomes.values()), default="") or NONE
    entries = [TableCell(str(count), (count,), tone="" if count else "muted") for count in counts]
    return Row(source.label, (*entries, TableCell(newest, (newest,))))


def _conflict_table(conflicts: Sequence[Conflict]) -> Table:
    headings = (
        Heading("Method", **_TEXT),
        Heading("Benchmark", **_TEXT),
        Heading("FAA"),
        *_WHO[1:],
        Heading("Treated as", **_TEXT),
    )
    blocks = []
    for conflict in conflicts:
        lines = []
        for held in conflict.held:
            outcome, faa = held.outcome, held.outcome.metrics["faa"]
            texts = (
                str(outcome.spec["method"]["name"]),
                str(outcome.spec["benchmark"]["name"]),
                machine(outcome),
                _version(outcome),
                "kept apart: other code" if held.is_used else "left out: same code, other numbers",
            )
            entries = [TableCell(text, (text,)) for text in texts]
            score = TableCell(number(faa), (faa,), runs=(conflict.run_id,))
            lines.append(Row(held.source, (*entries[:2], score, *entries[2:])))
        blocks.append(Block(tuple(lines), conflict.run_id))
    lead = (
        "One specification and several results. Made by one version of the code, none of them takes part in any mean: which is "
        "right cannot be known, and machines may differ in the last bits. Made by several versions, each has its row."
    )
    return Table("disputed", "Runs with different results", "Folder", headings, tuple(blocks), lead)


def left_out_table(sources: Sequence[Source]) -> Table | None:
    """Records and manifests of all folders that cannot be used; None where there is none."""
    found = [(source, table) for source in sources if (table := integrity_table(source.integrity)) is not None]
    if not found:
        return None
    blocks = [
        replace(block, title=f"{source.label}: {block.title}") for source, table in found for block in table.blocks
    ]
    lead = f"What cannot be used of {listed([source.label for source, _ in found])} takes part in no table."
    return replace(found[0][1], blocks=tuple(blocks), lead=lead)
