"""The papers' numbers that come with the project can be read and make sense."""

from __future__ import annotations

import csv
from importlib.resources import files


def test_published_results_are_whole() -> None:
    text = files("reports").joinpath("published_results.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) > 200
    assert {row["metric"] for row in rows} >= {"faa", "caa"}
    keys = [
        tuple(row[key] for key in ("paper", "table", "benchmark", "tasks", "backbone", "variant", "method", "metric"))
        for row in rows
    ]
    assert len(keys) == len(set(keys))
    for row in rows:
        assert int(row["tasks"]) > 0
        if row["metric"] in ("faa", "caa"):
            assert 0 <= float(row["mean"]) <= 100
        assert row["std"] == "" or 0 <= float(row["std"]) < 20
