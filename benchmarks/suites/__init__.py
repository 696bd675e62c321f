"""Suites: rows, columns and seeds of a comparison. Data only; ``harness.planning.planner`` turns a suite into runs.

``tables`` and ``figures`` have the SMoPE paper's, ``hash`` the Hash paper's; suites that exist only at tiny size are here, with the
variants of the search for their recipes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from smope_bench.benchmarks.suites.figures import FIGURES
from smope_bench.benchmarks.suites.hash import HASH_SUITES
from smope_bench.benchmarks.suites.schema import DIGITS_2, DIGITS_5, GLYPHS_10, ZOO, Column, Row, Suite
from smope_bench.benchmarks.suites.tables import TABLES

__all__ = ["SEARCH_GRID", "SUITES", "Candidate", "Column", "Row", "Suite"]

CI_SETTINGS = (
    "schedule.epochs=1",
    "tap.epochs=5",
    "task_inference.epochs=2",
    "task_inference.tap.epochs=5",
)
"""A few steps of each phase: nothing learned well, everything computed."""

REHEARSALS: tuple[Suite, ...] = (
    Suite(
        name="smoke",
        title="Smoke: every method on real digits",
        summary="handwritten digits in five tasks with the tiny backbone: a few minutes on two cores, no download",
        rows=ZOO,
        tiny=(DIGITS_5,),
        seeds=(0, 1, 2),
        is_tiny_only=True,
    ),
    Suite(
        name="glyphs",
        title="Glyphs: the many-class rehearsal",
        summary="100 character classes in renditions, ten tasks, tiny backbone, five seeds",
        rows=ZOO,
        tiny=(GLYPHS_10,),
        is_tiny_only=True,
    ),
    Suite(
        name="ci",
        title="CI: does everything still compute what it did",
        summary="every method for one epoch a task on digits in two tasks; expected accuracies are stored beside it",
        rows=ZOO,
        tiny=(DIGITS_2,),
        seeds=(0,),
        is_tiny_only=True,
        settings=CI_SETTINGS,
    ),
)

SUITES: dict[str, Suite] = {suite.name: suite for suite in (*REHEARSALS, *TABLES, *FIGURES, *HASH_SUITES)}


@dataclass(frozen=True)
class Candidate:
    """A row of the tiny suites with the one extra setting that the search varies, written as on the command line."""

    row: str
    key: str
    values: tuple[Any, ...]


SEARCH_GRID: tuple[Candidate, ...] = (
    Candidate("L2P++", "prompt_init", (1.0, 0.2)),
    Candidate("Deep L2P++", "prompt_lr_mult", (1.0, 0.2)),
    Candidate("DualPrompt", "prompt_init", (1.0, 0.2)),
    Candidate("CODA-Prompt", "prompt_lr_mult", (1.0, 5.0)),
    Candidate("OVOR", "prompt_init", (1.0, 0.2)),
    Candidate("HiDe-Prompt", "head_lr_mult", (0.1, 1.0)),
    Candidate("NoRGa", "head_lr_mult", (0.1, 1.0)),
    Candidate("VQ-Prompt", "prompt_init", (1.0, 0.2)),
    Candidate("Hash", "head_lr_mult", (0.1, 1.0)),
    Candidate("SMoPE", "prompt_init", (1.0, 0.2)),
    Candidate("One prompt", "prompt_init", (1.0, 0.2)),
    Candidate("Linear probe", "beta1", (0.9, 0.0)),
    Candidate("RanPAC + first-task prompt", "prompt_init", (1.0, 0.2)),
    Candidate("Joint (head)", "beta1", (0.9, 0.0)),
    Candidate("Joint (prompt + head)", "prompt_init", (1.0, 0.2)),
)
