"""Writes the numbers of docs/performance.md and of the README from stored measurements.

``python -m smope_bench.harness.maintenance.performance_page docs/performance docs/performance.md README.md`` updates the pages.
They have two kinds of marks, each naming a file of the folder without its ``.json``: a table between
``<!-- measured: NAME -->`` and ``<!-- end of measured -->``, and a number between ``<!-- measured: NAME/ROW/MEASURE -->`` and
``<!-- end -->``: the median, or what ``/least``, ``/most``, ``/spread`` or ``/inverse`` after the measure selects.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from smope_bench.harness.errors import UserError, did_you_mean
from smope_bench.harness.timing import records
from smope_bench.harness.timing.display import conditions_text, number, spread_text, table_cells
from smope_bench.harness.timing.records import Measurement

TABLE = re.compile(r"(<!-- measured: ([^/\s]+) -->\n)(.*?)(<!-- end of measured -->)", re.DOTALL)
NUMBER = re.compile(r"(<!-- measured: ([^/\s]+)/([^/>]+)/(\w+)(?:/(\w+))? -->)(.*?)(<!-- end -->)", re.DOTALL)
NOT_YET = "not measured yet"


def read_folder(folder: Path) -> dict[str, Measurement]:
    """The measurements of a folder by file name without ending. Raises UserError for a file that is not one."""
    return {file.stem: records.read(file) for file in sorted(folder.glob("*.json"))}


def renewed(text: str, found: Mapping[str, Measurement]) -> str:
    """``text`` with every table and number written anew. Raises UserError for an unknown row or measure."""
    text = TABLE.sub(lambda mark: f"{mark[1]}\n{_table_of(mark[2], found)}\n{mark[4]}", text)
    return NUMBER.sub(lambda mark: f"{mark[1]}{_number_of(found, *mark.group(2, 3, 4, 5))}{mark[7]}", text)


def shown(text: str) -> set[str]:
    """Names of the measurements whose tables a page shows."""
    return {mark[2] for mark in TABLE.finditer(text)}


def table(kept: Measurement) -> str:
    """A measurement as Markdown: the table, its notes, the command, and the conditions."""
    headings, cells = table_cells(kept.rows)
    lines = [_line(headings), _line(["---"] * len(headings)), *map(_line, cells)]
    notes = [f"- {row.name}: {row.note}" for row in kept.rows if row.note]
    conditions = f"{conditions_text(kept)}; {kept.made[:10]}, {kept.code_text}."
    parts = ["\n".join(lines), *(["\n".join(notes)] if notes else []), f"`{kept.command}`", conditions]
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _table_of(name: str, found: Mapping[str, Measurement]) -> str:
    return table(found[name]) if name in found else f"*{NOT_YET}*\n"


def _number_of(found: Mapping[str, Measurement], name: str, row_name: str, measure: str, form: str | None) -> str:
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
        "spread": spread_text(value),
        "inverse": number(1 / value.median) if value.median else "–",
    }
    if form is not None and form not in forms:
        raise UserError(f"a number of {name!r} is asked for as {form!r}{did_you_mean(form, forms)}")
    return number(value.median) if form is None else forms[form]


def renew(folder: Path, pages: Sequence[Path]) -> None:
    """Update pages in place. Raises UserError where none of them shows a measurement of the folder."""
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
    """Update pages; the arguments are a folder, then the files."""
    folder, *pages = arguments or sys.argv[1:]
    try:
        renew(Path(folder), [Path(page) for page in pages])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
