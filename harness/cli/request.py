"""What a user asks to be run or planned, on the command line or from Python: read and checked before anything heavy is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from smope_bench.harness.cli import options as opt
from smope_bench.harness.run_options import RunOptions

if TYPE_CHECKING:
    from smope_bench.harness.planning.selection import Selection
    from smope_bench.harness.registry.named import Names


@dataclass(frozen=True)
class Request:
    """Runs that a user asks for. ``trained``, ``counted``: suites that train, and suites that only count operations."""

    trained: list[str]
    counted: list[str]
    selection: Selection
    options: RunOptions
    notes: tuple[str, ...] = ()
    """What has no effect."""


def read_request(
    suites: Sequence[str],
    options: RunOptions,
    *,
    tiny: bool = False,
    methods: Names | None = None,
    benchmarks: Names | None = None,
    backbone: str | None = None,
    seeds: Sequence[str] | None = None,
    settings: Sequence[str] | None = None,
    recipe: opt.RecipeName = opt.RecipeName.published,
    recipe_of: str | None = None,
    limit: int | None = None,
    precision: opt.PrecisionName = opt.PrecisionName.fp32,
) -> Request:
    """Read the options of ``run`` and ``plan``; files and classes among methods and benchmarks become plugins of ``options``.

    Raises UserError.
    """
    from smope_bench.harness.cost.cost_suites import require_countable, split_counted
    from smope_bench.harness.registry.named import read_names

    trained, counted = split_counted(suites)
    method_names, method_files = read_names("method", methods)
    benchmark_names, benchmark_files = read_names("benchmark", benchmarks)
    selection = opt.read_selection(
        tiny, method_names, benchmark_names, seeds, settings, precision, recipe, recipe_of, limit, backbone
    )
    notes = tuple(require_countable(counted, trained, selection))
    given = {file.expanduser().resolve() for file in options.plugins}
    more = [file for file in dict.fromkeys((*method_files, *benchmark_files)) if file not in given]
    return Request(trained, counted, selection, replace(options, plugins=(*options.plugins, *more)), notes)
