"""How the tiny recipes were chosen: ``python -m smope_bench.harness.maintenance.search_tiny BENCHMARK --out LOG.csv``.

Every trained method gets the same number of trials from one grid over its base rate and one setting of its own. A trial
trains on three quarters of the training images and is scored by FAA on the rest, in a class order and with a seed that no
suite uses; test images are out of reach. Ties and near-ties are left to the reader of the log.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smope_bench.benchmarks.suites import SEARCH_GRID, SUITES

SEED = 1000
HOLDOUT = 0.25
RATES = (0.005, 0.015, 0.045)
# Where several methods were best at the smallest rate, all of them got a smaller one.
MORE_RATES = {"digits": (0.0015,)}


def rates_of(benchmark: str) -> tuple[float, ...]:
    """Base rates of a benchmark's grid."""
    return RATES + MORE_RATES.get(benchmark, ())


@dataclass(frozen=True)
class Trial:
    """One training run of the search."""

    benchmark: str
    row: str
    settings: tuple[str, ...]
    data: Path


def trials(benchmark: str, data: Path, extra: Sequence[str], rates: Sequence[float]) -> Iterator[Trial]:
    """All trials of a search, the same number for every candidate."""
    for candidate in SEARCH_GRID:
        for rate, value in itertools.product(rates, candidate.values):
            yield Trial(benchmark, candidate.row, (f"lr={rate}", f"{candidate.key}={value}", *extra), data)


def run_trial(trial: Trial) -> dict[str, Any]:
    """Train one trial and score it on held-out training images."""
    from smope_bench.harness.hardware.device import pin_arithmetic
    from smope_bench.harness.planning.planner import Planner, Selection
    from smope_bench.harness.planning.settings import parse_setting
    from smope_bench.harness.registry.registry import open_registries
    from smope_bench.harness.run_options import RunOptions
    from smope_bench.harness.tuning.trial import held_out_scores

    pin_arithmetic(1)
    registries = open_registries()
    suite = next(s for s in SUITES.values() if s.is_tiny_only and s.tiny[0].benchmark == trial.benchmark)
    row = next(row for row in suite.rows if row.label == trial.row)
    held = (f"benchmark.holdout={HOLDOUT}", f"benchmark.holdout_seed={SEED}")
    selection = Selection(settings=tuple(parse_setting(text) for text in (*held, *trial.settings)))
    spec, *_ = Planner(selection, registries, trial.data).spec(row, suite.tiny[0])
    spec = spec.model_copy(update={"order_seed": SEED, "train_seed": SEED})
    with tempfile.TemporaryDirectory() as folder:
        scores = held_out_scores(spec, RunOptions(Path(folder), trial.data), registries)
    return _entry(trial, scores.faa, scores.seconds)


def _entry(trial: Trial, faa: float, seconds: float) -> dict[str, Any]:
    return {
        "benchmark": trial.benchmark,
        "row": trial.row,
        "settings": " ".join(trial.settings),
        "held_out_faa": f"{faa:.2f}",
        "seconds": f"{seconds:.1f}",
    }


def search(benchmark: str, data: Path, out: Path, extra: Sequence[str], rates: Sequence[float], workers: int) -> None:
    """Run all trials and append them to the log as they finish."""
    from smope_bench.harness.registry.registry import open_registries

    opened = open_registries().benchmarks.load(benchmark)
    opened(opened.Config(), data).prepare()
    rows: list[Mapping[str, Any]] = []
    with ProcessPoolExecutor(workers) as pool:
        for entry in pool.map(run_trial, trials(benchmark, data, extra, rates)):
            rows.append(entry)
            print(*entry.values(), sep="  ", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    is_new = not out.exists()
    with out.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the search."""
    parser = argparse.ArgumentParser(prog="python -m smope_bench.harness.maintenance.search_tiny", description=__doc__)
    parser.add_argument("benchmark")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, required=True, help="CSV log; new trials are appended")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rates", type=float, nargs="+", help="base rates of the grid, instead of the benchmark's own")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    rates = options.rates or rates_of(options.benchmark)
    search(options.benchmark, options.data, options.out, options.settings, rates, options.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
