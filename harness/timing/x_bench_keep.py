"""What the bench commands share: printing a measurement, keeping it, and holding it against a kept one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from smope_bench.harness.timing import records as bench_store
from smope_bench.harness.timing.records import Code, Stored, StoredRow, Value


@dataclass(frozen=True)
class Keeper:
    """Where a measurement goes. Made before anything is timed, so that a mistake costs no measurement."""

    bench: str
    command: str
    conditions: dict[str, Value]
    code: Code
    out: Path | None
    then: Stored | None

    def finish(self, rows: Sequence[StoredRow], found: Any, as_json: bool, show: Callable[[], None]) -> None:
        """Keep ``rows``; print ``found`` as JSON or ``show`` it, and the comparison with the earlier measurement."""
        now = bench_store.stored(self.bench, self.command, self.conditions, rows, self.code)
        if self.out is not None:
            bench_store.write(self.out, now)
        if as_json:
            print(json.dumps(self._as_json(found, now), indent=2, ensure_ascii=False))
            return
        show()
        if self.then is not None:
            _show_compared(now, self.then)

    def _as_json(self, found: Any, now: Stored) -> Any:
        if self.then is None:
            return found
        against = [
            asdict(row) | {"now": row.now.model_dump(), "then": row.then.model_dump()}
            for row in bench_store.compared(now, self.then)
        ]
        return {**(found if isinstance(found, dict) else {"rows": found}), "against": against}


def make_keeper(
    context: typer.Context, out: Path | None, against: Path | None, device: str = "cpu", **asked: Value
) -> Keeper:
    """For the command of ``context`` on ``device`` with the sizes ``asked``; arithmetic must be pinned already.

    Raises UserError for a file that cannot be compared with, or a place that cannot be written.
    """
    bench, conditions = str(context.info_name), bench_store.conditions_here(device, **asked)
    then = None
    if against is not None:
        then = bench_store.read(against)
        bench_store.require_comparable(then, bench, conditions, against)
    if out is not None:
        bench_store.require_writable(out)
    return Keeper(bench, bench_store.command_line(context), conditions, bench_store.code_here(), out, then)


def _show_compared(now: Stored, then: Stored) -> None:
    from smope_bench.harness.timing import display as bench_columns

    print(f"against {then.command}, {then.made}, {then.code_words}:")
    bench_columns.print_compared(bench_store.compared(now, then))
    for key in sorted(bench_store.MAY_DIFFER & now.conditions.keys() & then.conditions.keys()):
        if now.conditions[key] != then.conditions[key]:
            print(f"{key} was {then.conditions[key]}, is {now.conditions[key]}")
    if alone := bench_store.unmatched(now, then):
        print(f"in one of them only: {', '.join(alone)}")
