"""What there is and what is planned, as plain rows: the content of ``list`` and ``plan``, for tables and JSON alike."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from benchmarks.errors import BenchmarkError
from benchmarks.suites import SUITES
from harness.plan import PlannedRun, estimate
from harness.progress import duration, make_console
from harness.provenance import code_fingerprint
from harness.registry import Registries, Registry
from harness.spec import Component
from harness.store import Record, Store

Rows = list[dict[str, Any]]
Columns = tuple[tuple[str, Callable[[dict[str, Any]], str]], ...]
"""Headings with the text that a row shows under them."""

_STATE_STYLES = {"done": "green", "failed": "red", "stale": "yellow", "new": "cyan"}


def _text(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: str(row.get(key) or "")


def _summary(row: dict[str, Any]) -> str:
    return f"[red]{escape(row['error'])}[/]" if row.get("error") else escape(row["summary"])


def _name(row: dict[str, Any]) -> str:
    owner = "" if row.get("owner", "built-in") == "built-in" else f"\n[dim]{escape(row['owner'])}[/]"
    return f"[bold]{escape(row['name'])}[/]{owner}"


def _sources(row: dict[str, Any]) -> str:
    parts = [row.get("paper"), row.get("url"), row.get("code")]
    return "\n".join(escape(part) for part in parts if part)


def _state(row: dict[str, Any]) -> str:
    return f"[{_STATE_STYLES[row['state']]}]{row['state']}[/]"


def _seeds(row: dict[str, Any]) -> str:
    order, train = row["order_seed"], row["train_seed"]
    return str(order) if order == train else f"{order}:{train}"


def _passes(row: dict[str, Any]) -> str:
    passes = row["train_image_passes"]
    return "?" if passes is None else f"{passes:,}"


def _seconds(row: dict[str, Any]) -> str:
    return "?" if row["seconds"] is None else duration(row["seconds"])


LIST_COLUMNS: dict[str, Columns] = {
    "methods": (("method", _name), ("kind", _text("kind")), ("what it is", _summary), ("paper and code", _sources)),
    "benchmarks": (("benchmark", _name), ("what it is", _summary), ("images from", _text("source"))),
    "backbones": (("backbone", _name), ("what it is", _summary), ("px", _text("image_size"))),
    "suites": (("suite", _name), ("what it compares", _summary), ("methods", lambda row: str(len(row["methods"])))),
}
STEP_COLUMNS: Columns = (
    ("step of", lambda row: escape(row["name"])),
    ("median ms", lambda row: f"{1000 * row['median_s']:.0f}"),
    ("least to most", lambda row: f"{1000 * row['least_s']:.0f} to {1000 * row['most_s']:.0f}"),
    ("times bare", lambda row: f"{row['ratio_to_bare']:.3f}"),
    ("least to most ", lambda row: f"{row['least_ratio']:.3f} to {row['most_ratio']:.3f}"),
)
PLAN_COLUMNS: Columns = (
    ("run", lambda row: row["run_id"]),
    ("state", _state),
    ("row", lambda row: escape(row["row"])),
    ("benchmark", lambda row: escape(row["benchmark"])),
    ("seeds", _seeds),
    ("image passes", _passes),
    ("time", _seconds),
)
_RIGHT = frozenset({"seeds", "image passes", "time", "px", "methods"})


def print_rows(rows: Rows, columns: Columns) -> None:
    """Print rows as a table, as wide as it needs where the output is not a terminal."""
    console = make_console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, _ in columns:
        table.add_column(heading, justify="right" if heading in _RIGHT else "left")
    for row in rows:
        table.add_row(*(render(row) for _, render in columns))
    console.print(table)


def plan_summary(rows: Rows) -> str:
    """``24 runs: 18 done, 6 new; about 2:10 min of computing are left`` for the rows of ``list_plan``."""
    states = Counter(row["state"] for row in rows)
    counts = ", ".join(f"{states[state]} {state}" for state in _STATE_STYLES if states[state])
    left = {row["run_id"]: row["seconds"] for row in rows if row["state"] != "done"}
    if not left:
        return f"{len(rows)} runs: {counts}; nothing is left to do."
    known = [seconds for seconds in left.values() if seconds is not None]
    if not known:
        return f"{len(rows)} runs: {counts}; times are known once runs of the same kind have finished."
    guess = sum(known) * len(left) / len(known)
    return f"{len(rows)} runs: {counts}; about {duration(guess)} of computing, divided by the workers, is left."


def list_methods(registries: Registries) -> Rows:
    """Methods with the papers they come from."""
    return _listed(
        registries.methods,
        lambda method: {
            "kind": method.card.kind,
            "title": method.card.title,
            "summary": method.card.summary,
            "paper": method.card.paper,
            "url": method.card.paper_url,
            "code": method.card.code_url,
            "settings": sorted(method.Config.model_fields),
        },
    )


def list_benchmarks(registries: Registries) -> Rows:
    """Benchmarks with where their images come from."""
    return _listed(
        registries.benchmarks,
        lambda benchmark: {
            "title": benchmark.card.title,
            "summary": benchmark.card.summary,
            "source": benchmark.card.source,
            "licence": benchmark.card.licence,
            "settings": sorted(benchmark.Config.model_fields),
        },
    )


def list_backbones(registries: Registries) -> Rows:
    """Backbones with the hash that their weights must have."""
    return _listed(
        registries.backbones,
        lambda backbone: {
            "summary": backbone.summary,
            "image_size": backbone.image_size,
            "random": backbone.is_random,
            "sha256": backbone.sha256,
        },
    )


def list_suites() -> Rows:
    """Suites with what they compare."""
    return [
        {
            "name": suite.name,
            "title": suite.title,
            "summary": suite.summary,
            "methods": [row.label for row in suite.rows],
            "tiny_benchmarks": [column.label for column in suite.tiny],
            "full_benchmarks": [column.label for column in suite.full],
            "seeds": list(suite.seeds),
        }
        for suite in SUITES.values()
    ]


def list_plan(runs: Sequence[PlannedRun], store: Store, registries: Registries, data: Path) -> Rows:
    """Each planned run with its state and what it would cost: passes over images, and seconds where one is known."""
    seconds, images = _median_seconds(store), _TrainImages(registries, data)
    return [
        {
            "run_id": run.run_id,
            "state": store.state(run.run_id, code_fingerprint()),
            "suite": run.suite,
            "row": run.row,
            "method": run.method,
            "benchmark": run.benchmark,
            "order_seed": run.spec.order_seed,
            "train_seed": run.spec.train_seed,
            "recipe": run.recipe,
            **estimate(run, images.count(run.spec.benchmark), seconds),
        }
        for run in runs
    ]


def _listed(registry: Registry, describe: Callable[[Any], dict[str, Any]]) -> Rows:
    """One row a name; what cannot be loaded or described is listed with its error and hides nothing else."""
    rows = []
    for entry in registry.listing():
        facts: dict[str, Any] = {"error": entry.error}
        if entry.value is not None:
            try:
                facts = describe(entry.value)
            except (AttributeError, ValueError) as error:
                facts = {"error": f"{registry.kind} {entry.name!r} cannot be described: {error}"}
        rows.append({"name": entry.name, "owner": entry.owner, **facts})
    return rows


def _median_seconds(store: Store) -> dict[tuple[str, str], float]:
    """Median computing time of finished runs by (method, benchmark)."""
    found: dict[tuple[str, str], list[float]] = {}
    for record in store.scan():
        if isinstance(record, Record):
            key = (record.spec["method"]["name"], record.spec["benchmark"]["name"])
            found.setdefault(key, []).append(float(record.result["timings"].get("total_s", 0.0)))
    return {key: statistics.median(values) for key, values in found.items()}


class _TrainImages:
    """Counts the training images of benchmarks whose data is already in place; planning fetches nothing."""

    def __init__(self, registries: Registries, data: Path) -> None:
        self._registries, self._data = registries, data
        self._counts: dict[str, int | None] = {}

    def count(self, component: Component) -> int | None:
        key = component.model_dump_json()
        if key not in self._counts:
            self._counts[key] = self._read(component)
        return self._counts[key]

    def _read(self, component: Component) -> int | None:
        benchmark = self._registries.benchmarks.load(component.name)
        try:
            return len(benchmark(benchmark.Config(**component.config), self._data).image_set("train").labels)
        except (BenchmarkError, OSError):
            return None
