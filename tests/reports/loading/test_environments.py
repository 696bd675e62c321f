"""How the costs of runs are written."""

from __future__ import annotations

import pytest

from smope_bench.reports.loading.load import load_suite
from smope_bench.reports.tables.costs import cost_table


@pytest.mark.parametrize(
    ("seconds", "text"), [(119.96, "120.0 s"), (120, "2.0 min"), (7199, "120.0 min"), (7200, "2.0 h"), (None, "–")]
)
def test_times_are_in_the_unit_that_a_reader_expects(factory, seconds: float | None, text: str) -> None:
    factory.level("A", 80.0, timings={"total_s": seconds, "tasks": []})
    table = cost_table(load_suite(factory.write(), "smoke", None))
    assert table is not None and table.rows[0].cells[2].text == text
