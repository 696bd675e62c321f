"""What a table says of itself: which runs stand behind which of its columns."""

from __future__ import annotations

from smope_bench.reports.tables.table import Block, Heading, Row, Table, TableCell, traces


def test_columns_of_one_group_with_other_runs_are_told_apart() -> None:
    headings = (
        Heading("Mean"),
        Heading("A", "Mean on"),
        Heading("B", "Mean on"),
        Heading("C", "Other"),
        Heading("D", "Other"),
    )
    entries = (
        TableCell("1", runs=("a", "b")),
        TableCell("1", runs=("a",)),
        TableCell("1", runs=("b",)),
        *(TableCell("1", runs=("c",)),) * 2,
    )
    line = Row("L", entries)
    found = dict(traces(Table("k", "T", "Row", headings, (Block((line,)),)), line))
    assert found == {"Mean": ("a", "b"), "Mean on: A": ("a",), "Mean on: B": ("b",), "Other": ("c",)}
