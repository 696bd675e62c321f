"""Do the report's statistics keep what they promise? Checks against made-up runs whose truth is known.

``python -m smope_bench.reports.statistics.simulation`` prints the table of docs/reports.md. Seeds of a method scatter on the logit
scale of accuracy, class orders shift all methods alike, and an accuracy is a share of so many test images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit, roots_hermitenorm

from smope_bench.harness.metrics import PERCENT
from smope_bench.reports.loading.model import summarise
from smope_bench.reports.statistics.paired_tests import ALPHA, chosen_test, holm, signed_rank, t_test

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """True accuracy and its standard deviation between runs, in percent and points; images a test."""

    accuracy: float
    spread: float
    images: int

    @property
    def scale(self) -> float:
        """Standard deviation on the logit scale."""
        share = self.accuracy / 100
        return self.spread / 100 / (share * (1 - share))

    @property
    def centre(self) -> float:
        """The median on the logit scale with which the mean accuracy is ``accuracy``; by Gauss-Hermite quadrature."""
        points, weights = roots_hermitenorm(60)

        def excess(centre: float) -> float:
            values = expit(centre + self.scale * points)
            return float((values * weights).sum() / weights.sum()) - self.accuracy / 100

        start = float(logit(self.accuracy / 100))
        return float(brentq(excess, start - 20, start + 20))  # pyright: ignore[reportArgumentType]

    def runs(self, deviations: Floats, rng: np.random.Generator) -> Floats:
        """Measured accuracies in percent for standard normal ``deviations`` of any shape."""
        chance = expit(self.centre + self.scale * deviations)
        return 100 * rng.binomial(self.images, chance) / self.images


WORLDS = tuple(
    World(accuracy, spread, images)
    for accuracy, spread in ((50.0, 2.0), (90.0, 1.0), (99.0, 0.3))
    for images in (300, 10_000)
)
HARD = (World(70.0, 15.0, 300), World(99.0, 1.0, 10_000))
"""Spread as of a tiny rehearsal, and spread as large as the distance to 100, where no interval of few seeds is right."""
SEEDS = (3, 5, 10)


def coverage(world: World, seeds: int, repeats: int, rng: np.random.Generator) -> float:
    """Share of ``repeats`` experiments whose 95 % interval of the mean holds the true accuracy.

    Experiments whose runs are all equal have no interval; they count as not holding it.
    """
    values = world.runs(rng.standard_normal((repeats, seeds)), rng)
    found = [summarise(row, PERCENT) for row in values.tolist()]
    return sum(
        one is not None and one.low is not None and one.high is not None and one.low <= world.accuracy <= one.high
        for one in found
    ) / len(found)


def false_claims(world: World, seeds: int, rows: int, repeats: int, rng: np.random.Generator) -> float:
    """Share of experiments in which any of ``rows`` methods is told from a reference that is just as good.

    Half of the variance between runs is the class order's, which all methods share.
    """
    claims = 0
    for _ in range(repeats):
        order = rng.standard_normal(seeds)
        runs = world.runs(np.sqrt(0.5) * (order + rng.standard_normal((rows + 1, seeds))), rng)
        claims += _is_claimed(runs)
    return claims / repeats


def _is_claimed(runs: Floats) -> bool:
    """Whether the rows after the first are told from it by the report's rule; ``runs`` is (rows, seeds)."""
    differences = (runs[1:] - runs[0]).tolist()
    test = chosen_test([runs.shape[1]] * len(differences))
    chances = [signed_rank(found).p if test == "signed rank" else t_test(found) for found in differences]
    return any(p <= ALPHA for p in holm([1.0 if p is None else p for p in chances]))


def table(repeats: int = 10_000, claims: int = 20_000, rows: int = 12) -> Iterator[str]:
    """Lines of the Markdown table."""
    rng = np.random.default_rng(0)
    yield f"| accuracy | spread | images | seeds | interval holds the truth | false claim among {rows} rows |"
    yield "|--:|--:|--:|--:|--:|--:|"
    for world in (*WORLDS, *HARD):
        for seeds in SEEDS:
            held = coverage(world, seeds, repeats, rng)
            claimed = false_claims(world, seeds, rows, claims, rng)
            start = f"| {world.accuracy:g} % | {world.spread:g} | {world.images:,} | {seeds}"
            yield f"{start} | {100 * held:.1f} % | {100 * claimed:.1f} % |"


if __name__ == "__main__":
    for line in table():
        print(line)
