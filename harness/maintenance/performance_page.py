"""The numbers of docs/performance.md and of the README, from stored measurements.

``python -m smope_bench.harness.maintenance.performance_page docs/performance docs/performance.md README.md`` renews them. A page has two kinds of
marks, each naming a file of the folder without its ``.json``: a table between ``<!-- measured: NAME -->`` and
``<!-- end of measured -->``, and a number between ``<!-- measured: NAME/ROW/MEASURE -->`` and ``<!-- end -->``, its median, or
what ``/least``, ``/most``, ``/spread`` or ``/inverse`` behind the measure says.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from smope_bench.harness.errors import UserError, did_you_mean
from smope_bench.harness.timing import records as bench_store
from smope_bench.harness.timing.display import heading, number, spread_text
from smope_bench.harness.timing.records import Stored, StoredRow

TABLE = re.compile(r"(<!-- measured: ([^/\s]+) -->\n)(.*?)(<!-- end of measured -->)", re.DOTALL)
NUMBER = re.compile(r"(<!-- measured: ([^/\s]+)/([^/>]+)/(\w+)(?:/(\w+))? -->)(.*?)(<!-- end -->)", re.DOTALL)
NOT_YET = "not measured yet"
DENSE = 0.6
"""Share of cells that must be filled for a column a measure; else there is a line a measure."""


def read_folder(folder: Path) -> dict[str, Stored]:
    """All measurements of a folder by file name without ending. Raises UserError for a file that is none."""
    return {file.stem: bench_store.read(file) for file in sorted(folder.glob("*.json"))}


def renewed(text: str, found: Mapping[str, Stored]) -> str:
    """``text`` with every table and number made anew. Raises UserError for a row or measure that is not there."""
    text = TABLE.sub(lambda mark: f"{mark[1]}\n{_table_of(mark[2], found)}\n{mark[4]}", text)
    return NUMBER.sub(lambda mark: f"{mark[1]}{_number_of(found, *mark.group(2, 3, 4, 5))}{mark[7]}", text)


def shown(text: str) -> set[str]:
    """Names of the measurements whose tables a page shows."""
    return {mark[2] for mark in TABLE.finditer(text)}


def table(kept: Stored) -> str:
    """A measurement as Markdown: the table, its notes, the command, and the conditions."""
    measures = list(dict.fromkeys(measure for row in kept.rows for measure in row.measures))
    filled = sum(len(row.measures) for row in kept.rows)
    is_dense = bool(kept.rows) and filled >= DENSE * len(measures) * len(kept.rows)
    lines = _wide(kept.rows, measures) if is_dense else _long(kept.rows)
    notes = [f"- {row.name}: {row.note}" for row in kept.rows if row.note]
    parts = ["\n".join(lines), *(["\n".join(notes)] if notes else []), f"`{kept.command}`", _conditions(kept)]
    return "\n\n".join(parts) + "\n"


def _wide(rows: Sequence[StoredRow], measures: Sequence[str]) -> list[str]:
    headings = ["of", *(heading(measure) for measure in measures)]
    lines = [_line(headings), _line(["---"] * len(headings))]
    return lines + [_line([row.name, *(_cell(row, measure) for measure in measures)]) for row in rows]


def _long(rows: Sequence[StoredRow]) -> list[str]:
    lines = [_line(["of", "measure", "median (least to most)"]), _line(["---"] * 3)]
    for row in rows:
        lines += [
            _line([row.name, heading(measure), spread_text(value.model_dump())])
            for measure, value in row.measures.items()
        ]
    return lines


def _cell(row: StoredRow, measure: str) -> str:
    return spread_text(row.measures[measure].model_dump()) if measure in row.measures else "–"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _conditions(kept: Stored) -> str:
    facts = [f"{key.replace('_', ' ')} {value}" for key, value in kept.conditions.items() if value is not None]
    return f"{', '.join(facts)}; {kept.made[:10]}, {kept.code_words}."


def _table_of(name: str, found: Mapping[str, Stored]) -> str:
    return table(found[name]) if name in found else f"*{NOT_YET}*\n"


def _number_of(found: Mapping[str, Stored], name: str, row_name: str, measure: str, form: str | None) -> str:
    if name not in found:
        return NOT_YET
    row = found[name].row(row_name)
    if row is None:
        names = [row.name for row in found[name].rows]
        raise UserError(f"the measurement {name!r} has no row {row_name!r}{did_you_mean(row_name, names)}")
    value = row.measures.get(measure)
    if value is None:
        raise UserError(f"row {row_name!r} of {name!r} has no {measure!r}{did_you_mean(measure, row.measures)}")
    forms = {
        "least": number(value.least),
        "most": number(value.most),
        "spread": spread_text(value.model_dump()),
        "inverse": number(1 / value.median) if value.median else "–",
    }
    if form is not None and form not in forms:
        raise UserError(f"a number of {name!r} is asked for as {form!r}{did_you_mean(form, forms)}")
    return number(value.median) if form is None else forms[form]


def renew(folder: Path, pages: Sequence[Path]) -> None:
    """Renew some pages in place. Raises UserError where the folder holds a measurement that none of them shows."""
    found = read_folder(folder)
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    lost = sorted(found.keys() - set().union(*map(shown, texts.values())))
    if lost:
        raise UserError(
            f"no page shows {', '.join(lost)}: add '<!-- measured: {lost[0]} -->' and '<!-- end of measured -->'"
        )
    for page, text in texts.items():
        page.write_text(renewed(text, found), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Renew pages: a folder, then the files."""
    folder, *pages = arguments or sys.argv[1:]
    try:
        renew(Path(folder), [Path(page) for page in pages])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
