"""What makes SMoPE's parts matter: steps a task, classes a task, and how alike the tasks are, with each part taken away in turn.

``parts_by_tasks`` learns 80 of the 200 classes of ``emoji_r``, ``parts_by_steps`` 40. The prototype loss is off everywhere, since
it needs sparse selection.
"""

from __future__ import annotations

from typing import Any

from smope_bench.benchmarks.suites.schema import Column, Row, Suite

SEEDS = (0, 1, 2, 3, 4)
NO_PROTOTYPES: dict[str, Any] = {"alpha_proto": 0.0}
WHOLE = "Noise, selection, router loss"
PARTS: dict[str, dict[str, Any]] = {
    WHOLE: NO_PROTOTYPES,
    "no adaptive noise": NO_PROTOTYPES | {"epsilon": 0.0},
    "no router loss": NO_PROTOTYPES | {"alpha_router": 0.0},
    # Noise and router loss act on the selection alone.
    "no sparse selection": NO_PROTOTYPES | {"top_k": 0, "epsilon": 0.0, "alpha_router": 0.0},
}
EPOCHS = 2
"""Of the recipe."""


def _emoji(label: str, **config: Any) -> Column:
    return Column(label, "emoji_r", config, "tiny_colour")


STUDY: tuple[Suite, ...] = (
    Suite(
        name="parts_by_steps",
        title="SMoPE's parts by steps a task",
        summary="each part taken away at 1, 4 and 16 times the recipe's steps: four tasks of 10 emoji classes",
        rows=tuple(
            Row(f"{label}, steps × {times}", "smope", {**settings, "schedule": {"epochs": EPOCHS * times}})
            for times in (1, 4, 16)
            for label, settings in PARTS.items()
        ),
        tiny=(_emoji("emoji, 4 of 20 tasks", tasks=20, stop_after=4),),
        seeds=SEEDS,
        metrics=("faa", "caa", "fm"),
        is_tiny_only=True,
    ),
    Suite(
        name="parts_by_tasks",
        title="SMoPE's parts by size and likeness of tasks",
        summary="each part taken away on tasks of 10, 20 and 40 emoji classes, and with related classes together or apart",
        rows=tuple(Row(label, "smope", settings) for label, settings in PARTS.items()),
        tiny=(
            _emoji("10 classes a task", tasks=20, stop_after=8),
            _emoji("20 classes a task", tasks=10, stop_after=4),
            _emoji("40 classes a task", tasks=5, stop_after=2),
            _emoji("20 related classes", tasks=10, stop_after=4, related="together"),
            _emoji("20 unrelated classes", tasks=10, stop_after=4, related="apart"),
        ),
        seeds=SEEDS,
        metrics=("faa", "caa", "fm"),
        is_tiny_only=True,
        reference=WHOLE,
    ),
)
