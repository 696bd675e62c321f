"""The methods, benchmarks, backbones, suites and executors that there are: a row each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smope_bench.benchmarks.errors import BenchmarkError
from smope_bench.benchmarks.suites import SUITES
from smope_bench.harness.console import Rows
from smope_bench.harness.errors import UserError
from smope_bench.harness.registry.plugins import call_outside_code
from smope_bench.harness.registry.registry import IN_DATA
from smope_bench.harness.text import plain_values, whole_commands

if TYPE_CHECKING:
    from smope_bench.harness.registry.registry import Registries, Registry


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


def list_benchmarks(registries: Registries, data: Path) -> Rows:
    """Benchmarks with where their images come from, and whether they are prepared."""
    return _listed(
        registries.benchmarks,
        lambda benchmark: {
            "title": benchmark.card.title,
            "summary": benchmark.card.summary,
            "source": benchmark.card.source,
            "licence": benchmark.card.licence,
            "state": benchmark_state(benchmark, registries, data),
            "settings": sorted(benchmark.Config.model_fields),
        },
    )


def list_backbones(registries: Registries, data: Path) -> Rows:
    """Backbones with the hash of their weights; None, and how to get them, if they are not prepared under ``data``.

    Those imported into ``data`` come last.
    """
    from smope_bench.harness.planning.assets import prepare_command
    from smope_bench.methods.common.backbone.backbones import WeightsMissingError
    from smope_bench.methods.common.backbone.imported import imported_under
    from smope_bench.methods.common.errors import MethodError

    def describe(backbone: Any) -> dict[str, Any]:
        facts = {"summary": backbone.summary, "image_size": backbone.image_size, "random": backbone.is_random}
        found = backbone.at(data)
        facts |= {"feature": found.feature, "verified": found.is_verified}
        try:
            return {**facts, "state": "ready", "sha256": found.sha256}
        except WeightsMissingError:
            return {
                **facts,
                "state": f"not prepared: {prepare_command([backbone.name], registries, data)}",
                "sha256": None,
            }

    rows = _listed(registries.backbones, describe)
    for own in imported_under(data):
        try:
            facts = describe(own)
        except MethodError as error:
            facts = {"error": whole_commands(str(error), registries.plugins, data)}
        rows.append(plain_values({"name": own.name, "owner": IN_DATA, **facts}))
    return rows


def benchmark_state(benchmark: Any, registries: Registries, data: Path) -> str:
    """Whether its images are there; generated ones and a user's own need no preparing by hand."""
    from smope_bench.harness.planning.assets import prepare_command

    if not getattr(benchmark, "remotes", ()):
        return "the user's own" if benchmark.takes_user_data else "made when needed"
    try:
        benchmark(benchmark.Config(), data).image_set("train")
    except (BenchmarkError, OSError):
        return f"not prepared: {prepare_command([benchmark.name], registries, data)}"
    return "ready"


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


def list_executors(plugins: Sequence[Path]) -> Rows:
    """Executors with where they do runs."""
    from smope_bench.harness.execution.executor_registry import open_executors

    return _listed(open_executors(plugins), lambda found: {"place": found.place, "summary": found.summary})


def list_trackers(plugins: Sequence[Path]) -> Rows:
    """Trackers with the library that they need."""
    from smope_bench.harness.tracking.tracker import open_trackers

    return _listed(open_trackers(plugins), lambda found: {"library": found.library, "summary": found.summary})


def size_text(count: int | None) -> str:
    if not count:
        return "size unknown"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"


def _listed(registry: Registry, describe: Callable[[Any], dict[str, Any]]) -> Rows:
    """One row a name; what cannot be loaded or described is listed with its error."""
    rows = []
    for entry in registry.listing():
        facts: dict[str, Any] = {"error": entry.error}
        if entry.value is not None:
            try:
                facts = call_outside_code(
                    partial(describe, entry.value), f"{registry.kind} {entry.name!r} cannot be described"
                )
            except UserError as error:
                facts = {"error": str(error)}
        # A plugin's card may hold markup, terminal escapes, or values that are no text.
        rows.append(plain_values({"name": entry.name, "owner": entry.owner, **facts}))
    return rows
