"""Executed operations per image of every built-in method, stored beside this file, as counting them takes half a minute.

``python -m smope_bench.harness.cost.stored_counts`` writes ``stored_counts.json``, for ViT-B/16 and for a micro backbone. Tests
count the micro part again, which is fast, and fail where a method's computation has changed.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smope_bench.harness.cost.report import MethodCost

FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class MethodCounts:
    """Operations per image: a step of each phase (forward, backward, query), and a prediction (query included)."""

    phases: Mapping[str, int]
    test: int
    queries_at_test: bool


@dataclass(frozen=True)
class StoredCounts:
    """Content of the file: counts of ViT-B/16 and of the methods on it.

    ``forward`` and ``backward``: with the last block for the class token alone, as this code runs it. ``complete``: their sum
    with every block for every token. ``published_pass``: a forward by the published convention.
    """

    forward: int
    backward: int
    complete: int
    published_pass: int
    methods: Mapping[str, MethodCounts]


@functools.cache
def stored_counts() -> StoredCounts:
    """Read the file."""
    found = json.loads(FILE.read_text(encoding="utf-8"))
    methods = {name: MethodCounts(**entry) for name, entry in found["methods"].items()}
    return StoredCounts(**found["backbone"], methods=methods)


def counts_of(row: MethodCost) -> dict[str, Any]:
    """The stored part of a row of the cost table."""
    return {
        "phases": {phase.name: phase.step.total for phase in row.phases},
        "test": row.test.forward,
        "queries_at_test": row.test.query,
    }


def count_all() -> dict[str, Any]:
    """Count the content of the file."""
    from smope_bench.harness.cost.report import count_costs
    from smope_bench.harness.registry.registry import open_registries
    from smope_bench.methods import BUILTIN
    from smope_bench.methods.common.backbone.backbones import MICRO

    registries = open_registries()
    report, micro = count_costs(registries, sorted(BUILTIN)), count_costs(registries, sorted(BUILTIN), MICRO)
    bare = report.backbone
    return {
        "backbone": {
            "forward": bare.own.forward,
            "backward": bare.own.backward,
            "published_pass": bare.published,
            "complete": bare.complete.total,
        },
        "methods": {row.method: counts_of(row) for row in report.rows},
        "micro": {row.method: counts_of(row) for row in micro.rows},
    }


def main() -> int:
    """Write the file."""
    FILE.write_text(json.dumps(count_all(), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
