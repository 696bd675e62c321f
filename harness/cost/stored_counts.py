"""Executed operations an image of every built-in method, kept beside this file: counting them all takes half a minute.

``python -m smope_bench.harness.cost.stored_counts`` writes ``stored_counts.json`` anew, for ViT-B/16 and for a micro backbone. The tests count the
micro part again, which takes no time: where a method's computation changes, they say that the file is old.
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
    """Operations an image: a step of each training phase, forward, backward and query; and a prediction, query included."""

    phases: Mapping[str, int]
    test: int
    queries_at_test: bool


@dataclass(frozen=True)
class StoredCounts:
    """The file's content: ViT-B/16 alone, and the methods on it.

    ``forward`` and ``backward``: as this code runs it, the last block for the class token alone. ``complete``: both, every
    block for every token. ``published_pass``: a forward by the published convention.
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
    """What is kept of a row of the cost table."""
    return {
        "phases": {phase.name: phase.step.total for phase in row.phases},
        "test": row.test.forward,
        "queries_at_test": row.test.query,
    }


def count_all() -> dict[str, Any]:
    """The file's content, counted."""
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
