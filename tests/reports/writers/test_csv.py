"""Fields of a CSV that a spreadsheet would run, or that would end a line."""

from __future__ import annotations

import csv
import io

import pytest

from smope_bench.reports.tables.table import Block, Heading, Row, Table, TableCell
from smope_bench.reports.writers.csv import table_csv


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\n", "\r"])
def test_no_sign_that_a_spreadsheet_runs_begins_a_field_and_none_ends_a_line(sign: str) -> None:
    table = Table("k", "T", "Row", (Heading("x"),), (Block((Row(f"{sign}cmd{sign}", (TableCell("1", (-1.5,)),)),)),))
    (_, (_, label, number, *_)) = csv.reader(io.StringIO(table_csv(table), newline=""))
    assert (label, number) == (f"'{sign}cmd{sign}".replace("\r", "\n"), "-1.5")
