import io
import re
from typing import Any

import pytest
from rich.console import Console

from smope_bench.harness.console import duration
from smope_bench.harness.execution.progress import Display, LineDisplay, LiveDisplay, make_display, run_label
from smope_bench.harness.execution.scheduler import RunStatus
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.run_spec import BackboneRef, Component, RunSpec


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def planned(row: str = "SMoPE", order: int = 0, train: int = 0) -> PlannedRun:
    spec = RunSpec(
        method=Component(name="m", config={"row": row}),
        benchmark=Component(name="digits"),
        backbone=BackboneRef(name="tiny", sha256="0"),
        schedule={},
        order_seed=order,
        train_seed=train,
    )
    return PlannedRun(suite="s", row=row, method="m", benchmark="digits", spec=spec)


def started(tasks: int = 5, done: int = 0) -> dict[str, Any]:
    return {"event": "run_started", "total_tasks": tasks, "tasks_done": done}


def step(n: int, total: int = 20, task: int = 0) -> dict[str, Any]:
    return {"event": "step", "task": task, "phase": "train", "step": n, "total_steps": total}


def evaluated(task: int) -> dict[str, Any]:
    return {"event": "task_evaluated", "task": task, "accuracies": []}


FINISHED = {"event": "run_finished", "faa": 87.654}


def plain_console(terminal: bool = False) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=120, color_system=None), out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (187, "3:07 min"), (3599.7, "1:00 h"), (7500, "2:05 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_labels_name_both_seeds_where_they_differ() -> None:
    assert run_label(planned(order=2, train=2)) == "SMoPE · digits · seed 2"
    assert run_label(planned(order=0, train=10)) == "SMoPE · digits · order 0, seed 10"


def test_the_output_decides_the_display() -> None:
    assert isinstance(make_display(plain_console(terminal=True)[0], 3), LiveDisplay)
    assert isinstance(make_display(plain_console()[0], 3), LineDisplay)


def test_lines_have_a_time_a_run_and_its_result() -> None:
    console, out = plain_console()
    clock = Clock()
    display, run = LineDisplay(console, 2, clock), planned()
    with display:
        display.update(run, started())
        for n in range(1, 11):
            clock.now += 0.5
            display.update(run, step(n))
        display.update(run, FINISHED)
        display.finish(RunStatus(run, "done"))
        display.finish(RunStatus(planned("joint"), "failed", "loss is nan [at] step 3"))
    lines = out.getvalue().splitlines()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "
    assert len(lines) == 3
    assert re.fullmatch(stamp + r"started   SMoPE · digits · seed 0", lines[0])
    assert re.fullmatch(stamp + r"finished  SMoPE · digits · seed 0  FAA  87\.65 %  5 s \[1/2\]", lines[1])
    assert re.fullmatch(stamp + r"FAILED    joint · digits · seed 0: loss is nan \[at\] step 3 \[2/2\]", lines[2])


def test_a_long_run_gives_a_sign_of_life_every_half_minute() -> None:
    console, out = plain_console()
    clock = Clock()
    display, run = LineDisplay(console, 4, clock), planned()
    display.update(run, started(1))
    for n in range(1, 101):
        clock.now += 1.0
        display.update(run, step(n, 100))
    beats = [line for line in out.getvalue().splitlines() if "running" in line]
    assert len(beats) == 3
    assert beats[0].endswith("running   0.3 of 4 runs done, about 6:10 min left")


def test_failures_with_long_messages_stay_on_one_line() -> None:
    console, out = plain_console()
    LineDisplay(console, 1, Clock()).finish(RunStatus(planned(), "failed", "x" * 500))
    assert out.getvalue().count("\n") == 1


def drive(display: Display, clock: Clock) -> None:
    first, second = planned("first"), planned("second [red]")
    with display:
        display.update(first, started(2))
        display.update(second, started())
        for task in range(2):
            clock.now += 5.0
            display.update(first, step(20, task=task))
            display.update(first, evaluated(task))
            display.update(second, step(1 + task))
        display.update(first, FINISHED)
        display.finish(RunStatus(first, "done"))
        display.finish(RunStatus(second, "failed", "out of [memory]"))


def test_finished_runs_stay_above_the_bars() -> None:
    console, out = plain_console(terminal=True)
    clock = Clock()
    drive(LiveDisplay(console, 5, clock), clock)
    text = out.getvalue()
    assert "✓ first · digits · seed 0  FAA 87.65 %  10 s" in text
    assert "✗ second [red] · digits · seed 0  out of [memory]" in text


def test_bars_show_each_run_in_flight_and_the_time_left() -> None:
    console, out = plain_console(terminal=True)
    clock = Clock()
    display = LiveDisplay(console, 5, clock)
    with display:
        display.update(planned("first"), started(4))
        clock.now += 10.0
        display.update(planned("first"), evaluated(0))
        display.update(planned("first"), step(10, task=1))
        display.update(planned("first"), step(20, task=1))
        display._progress.refresh()
    text = out.getvalue()
    assert "all runs" in text and "0/5" in text
    assert "first · digits · seed 0" in text and "task 2 of 4" in text and "10 s left" in text
    assert "1:30 min left" in text  # half a run in 10 s: four and a half runs are left


def test_the_time_left_of_a_resumed_run_counts_what_was_done_here() -> None:
    console, out = plain_console(terminal=True)
    clock = Clock()
    display = LiveDisplay(console, 1, clock)
    with display:
        display.update(planned(), started(10, done=8))
        clock.now += 30.0
        display.update(planned(), evaluated(8))
        display._progress.refresh()
    last = out.getvalue().rpartition("all runs")[2]
    assert "task 10 of 10" in last and last.count("30 s left") == 2  # the run's and the sweep's
