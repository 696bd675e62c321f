"""Loss curves come from event logs, and are absent where these have none."""

from __future__ import annotations

import json
import math

import pytest

from smope_bench.reports.build import make_document
from smope_bench.reports.figures.losses import losses_of
from smope_bench.reports.loading.load import load_suites


def epoch(task: int, loss: object, phase: str = "train") -> dict:
    return {"event": "epoch", "task": task, "phase": phase, "epoch": 0, "loss": loss}


@pytest.mark.usefixtures("only_svg")
def test_a_line_a_task_from_the_logs_of_the_runs(factory) -> None:
    logs = {0: [epoch(0, 2.0), epoch(0, 1.0), epoch(1, 1.5)], 1: [epoch(0, 4.0), epoch(0, 3.0), epoch(1, 0.5)]}
    for label, seeds in (("A", (0, 1)), ("B", (0,))):
        for seed in seeds:
            run = factory.spec("ncm", "digits", seed, seed, 2, row=label)
            factory.publish(label, run, [[90.0, None], [80.0, 70.0]])
            lines = logs[seed] if label == "A" else [{"event": "task_evaluated", "task": 0}]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (factory.store.path(run.run_id) / "events.jsonl").write_text(text, encoding="utf-8")
    store = factory.write()
    (group,) = make_document(load_suites(store, ["smoke"], None), store).sections[0].figures
    (figure,) = [one for one in group.figures if one.name.endswith("losses")]
    assert figure.alt == "Training loss on digits, first and last epoch: A from 3 to 1."
    assert len(figure.runs) == 2, "B has no losses"


@pytest.mark.parametrize(
    "events",
    [
        [],
        [epoch(0, math.nan)],
        [epoch(0, "x")],
        [{"event": "epoch"}],
        [{"event": "task_evaluated", "loss": 1.0, "task": 0}],
    ],
)
def test_logs_without_losses_draw_nothing(events: list[dict]) -> None:
    assert losses_of(events) is None


def test_tasks_and_phases_are_kept_apart() -> None:
    found = losses_of([epoch(0, 1.0, "a"), epoch(0, 2, "b"), epoch(1, 3.0, "a")])
    assert found is not None
    assert found.parts == ((1, "a"), (1, "b"), (2, "a")) and found.values == (1.0, 2.0, 3.0)
