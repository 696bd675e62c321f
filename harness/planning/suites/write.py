"""A suite as a YAML file, from which the same runs are planned."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from smope_bench.benchmarks.suites import Column, Row, Suite
from smope_bench.harness.planning.settings import leaves, parse_setting
from smope_bench.harness.planning.suites.yaml_text import flow


def suite_text(suite: Suite, name: str) -> str:
    """A suite as a YAML file of that name, from which the same runs are planned.

    Columns that a suite has only where their images are prepared are left out.
    """
    full = suite.full or suite.tiny
    top = {
        "name": name,
        "title": suite.title,
        "summary": suite.summary,
        "tiny": suite.is_tiny_only,
        "counts_only": suite.counts_only,
        "seeds": list(suite.seeds),
        "settings": {setting.partition("=")[0]: parse_setting(setting).value for setting in suite.settings},
        "observe": list(suite.observe),
        "metrics": list(suite.metrics),
        "reference": suite.reference,
    }
    columns = {"columns": full, "tiny_columns": suite.tiny if suite.full else ()}
    parts: dict[str, list[dict[str, Any]]] = {
        "drawings": [asdict(one) for one in suite.drawings],
        **{key: [_column_entry(one) for one in some] for key, some in columns.items()},
        "rows": [_row_entry(one) for one in suite.rows],
        "tiny_rows": [_row_entry(one) for one in suite.tiny_rows],
    }
    lines = [flow({key: value})[1:-1] for key, value in top.items() if value not in (False, "", [], {})]
    for key, entries in parts.items():
        some = [{name: value for name, value in entry.items() if value not in ("", {})} for entry in entries]
        lines += [f"{key}:", *(f"  - {flow(entry)}" for entry in some)] if some else []
    return "\n".join(lines) + "\n"


def _row_entry(row: Row) -> dict[str, Any]:
    return {"label": row.label, "method": row.method, "settings": dict(leaves(row.settings))}


def _column_entry(column: Column) -> dict[str, Any]:
    settings = dict(leaves(column.config))
    return {"label": column.label, "benchmark": column.benchmark, "settings": settings, "backbone": column.backbone}
