"""Suites: which rows, columns and seeds make a comparison. Data only; the planner of the harness turns a suite into runs.

``tables`` and ``figures`` hold the SMoPE paper's suites, ``hash`` the Hash paper's, ``study`` a study of SMoPE's parts; other
rehearsals of tiny size alone are here.
"""

from __future__ import annotations

from smope_bench.benchmarks.suites.figures import FIGURES
from smope_bench.benchmarks.suites.hash import HASH_SUITES
from smope_bench.benchmarks.suites.schema import (
    DIGITS_2,
    DIGITS_5,
    EMOJI_10,
    GLYPH_DOMAINS,
    GLYPHS_10,
    SMOPE,
    ZOO,
    Column,
    Row,
    Suite,
)
from smope_bench.benchmarks.suites.study import STUDY
from smope_bench.benchmarks.suites.tables import TABLES

__all__ = ["SUITES", "Column", "Row", "Suite"]

CI_SETTINGS = (
    "schedule.epochs=1",
    "tap.epochs=5",
    "task_inference.epochs=2",
    "task_inference.tap.epochs=5",
)
"""A few steps of each phase: nothing learned well, everything computed."""

ONE_TASK_A_CLASS = ("ovor", "hide_prompt", "norga", "hash_prompt", "ease")
"""Methods for which a class must belong to one task; they are refused where classes come again."""

REHEARSALS: tuple[Suite, ...] = (
    Suite(
        name="smoke",
        title="Smoke: every method on real digits",
        summary="handwritten digits in five tasks with the tiny backbone: a few minutes on two cores, no download",
        rows=ZOO,
        tiny=(DIGITS_5,),
        seeds=(0, 1, 2),
        is_tiny_only=True,
        reference=SMOPE.label,
    ),
    Suite(
        name="glyphs",
        title="Glyphs: the many-class rehearsal",
        summary="100 character classes in renditions, ten tasks, tiny backbone, five seeds",
        rows=ZOO,
        tiny=(GLYPHS_10,),
        is_tiny_only=True,
        reference=SMOPE.label,
    ),
    Suite(
        name="rehearsal",
        title="Rehearsal: every method on emoji in renditions",
        summary="200 classes in ten tasks, five seeds, tested on families of drawings that were not trained on, colour backbone",
        rows=ZOO,
        tiny=(EMOJI_10,),
        is_tiny_only=True,
        reference=SMOPE.label,
    ),
    Suite(
        name="domains",
        title="Domains: known characters in new renditions",
        summary="domain-incremental: 20 character classes in six renditions, one a task, tiny backbone, five seeds",
        rows=tuple(row for row in ZOO if row.method not in ONE_TASK_A_CLASS),
        tiny=(GLYPH_DOMAINS,),
        metrics=("faa", "caa", "unseen"),
        is_tiny_only=True,
        reference=SMOPE.label,
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

SUITES: dict[str, Suite] = {suite.name: suite for suite in (*REHEARSALS, *STUDY, *TABLES, *FIGURES, *HASH_SUITES)}
