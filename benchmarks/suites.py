"""Suites: which rows, columns and seeds make a comparison. Data only; ``harness.plan`` turns a suite into runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """A row of the table: a method, with the settings that make it differ from its recipe."""

    label: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """A column group of the table: a benchmark with its settings and the backbone it is run on."""

    label: str
    benchmark: str
    config: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = "tiny"


@dataclass(frozen=True)
class Suite:
    """A comparison. ``tiny`` columns run on data and weights that come with the installation, ``full`` ones do not."""

    name: str
    title: str
    summary: str
    rows: tuple[Row, ...]
    tiny: tuple[Column, ...]
    full: tuple[Column, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    is_tiny_only: bool = False
    """A suite that has no paper form: it runs tiny without being asked."""
    settings: tuple[str, ...] = ()
    """Settings of every row that has the field, written as on the command line."""


ALIGNED = {"tap": {"enabled": True}}

FLOORS = (
    Row("Linear probe", "linear_probe"),
    Row("Linear probe + TAP", "linear_probe", ALIGNED),
    Row("One prompt", "one_prompt"),
    Row("One prompt + TAP", "one_prompt", ALIGNED),
    Row("Nearest class mean", "ncm"),
    Row("Ridge", "ridge"),
)
REFERENCES = (
    Row("RanPAC", "ranpac"),
    Row("RanPAC + first-task prompt", "ranpac", {"first_task_tuning": True}),
)
CEILINGS = (Row("Joint (head)", "joint_head"), Row("Joint (prompt + head)", "joint"))
METHODS = (
    Row("L2P++", "l2p++"),
    Row("Deep L2P++", "deep_l2p++"),
    Row("DualPrompt", "dualprompt"),
    Row("CODA-Prompt", "coda_prompt"),
    Row("OVOR", "ovor"),
    Row("HiDe-Prompt", "hide_prompt"),
    Row("NoRGa", "norga"),
    Row("VQ-Prompt", "vq_prompt"),
    Row("Hash", "hash_prompt"),
    Row("SMoPE", "smope"),
)
ZOO = METHODS + FLOORS + REFERENCES + CEILINGS

DIGITS_5 = Column("digits, 5 tasks", "digits", {"tasks": 5})
DIGITS_2 = Column("digits, 2 tasks", "digits", {"tasks": 2})
GLYPHS_10 = Column("glyphs, 10 tasks", "glyphs", {"tasks": 10})

CI_SETTINGS = (
    "schedule.epochs=1",
    "tap.epochs=5",
    "task_inference.epochs=2",
    "task_inference.tap.epochs=5",
)
"""A few steps of each phase: nothing learned well, everything computed."""

_OFF: dict[str, Any] = {
    "score_agg": "mean",
    "top_k": 5,
    "epsilon": 0.0,
    "tap": {"enabled": False},
    "dense_start": False,
    "alpha_router": 0.0,
    "alpha_proto": 0.0,
}


def _ablation() -> tuple[Row, ...]:
    """The eight cumulative rows of Table 4; a part that is switched on takes its value from the recipe."""
    one_prompt = _OFF | {"score_agg": "per_token", "top_k": 0}
    aggregated = one_prompt | {"score_agg": "mean"}
    sparse, steps = dict(_OFF), [("One prompt", one_prompt), ("+ score aggregation", aggregated)]
    steps.append(("+ sparse selection", dict(sparse)))
    for label, part in (
        ("+ adaptive noise", "epsilon"),
        ("+ TAP", "tap"),
        ("+ dense start", "dense_start"),
        ("+ router loss", "alpha_router"),
        ("+ prototype loss", "alpha_proto"),
    ):
        del sparse[part]
        steps.append((label, dict(sparse)))
    return tuple(Row(label, "smope", settings) for label, settings in steps)


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
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
        Suite(
            name="table4",
            title="Table 4: the parts of SMoPE, added one by one",
            summary="cumulative ablation; tiny form on glyphs in ten tasks",
            rows=_ablation(),
            tiny=(GLYPHS_10,),
        ),
    )
}


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
