import io
import os
import re
from typing import Any

import pytest
from rich.console import Console, ConsoleDimensions

from smope_bench.harness.console import duration, make_console
from smope_bench.harness.execution.monitoring.display import Display, LineDisplay, LiveDisplay, make_display
from smope_bench.harness.execution.monitoring.progress import run_label
from smope_bench.harness.execution.scheduler import RunStatus
from smope_bench.harness.planning.planner import PlannedRun
from smope_bench.harness.run_spec import BackboneRef, Component, RunSpec
from tests.harness.stand_ins import wait_for  # pyright: ignore[reportMissingImports]


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


def plain_console(terminal: bool = False, width: int = 120) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=width, color_system=None), out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (187, "3:07 min"), (3599.7, "1:00 h"), (7500, "2:05 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_labels_name_both_seeds_where_they_differ() -> None:
    assert run_label(planned(order=2, train=2)) == "SMoPE · digits · seed 2"
    assert run_label(planned(order=0, train=10)) == "SMoPE · digits · order 0, seed 10"


def test_the_output_decides_the_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_display(plain_console(terminal=True)[0], 3), LiveDisplay)
    assert isinstance(make_display(plain_console()[0], 3), LineDisplay)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_display(plain_console(terminal=True)[0], 3), LineDisplay), "its cursor cannot move"


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


def work(done: int, phase: str = "statistics", unit: str = "images") -> dict[str, Any]:
    return {"event": "work", "task": 0, "phase": phase, "done": done, "total": 50_000, "unit": unit}


def test_closed_forms_and_evaluation_give_a_sign_of_life_with_a_count() -> None:
    console, out = plain_console()
    clock = Clock()
    display, run = LineDisplay(console, 4, clock), planned()
    display.update(run, started(10))
    for done in range(0, 50_000, 256):
        clock.now += 1.0
        display.update(run, work(done))
    beats = [line.partition("running   ")[2] for line in out.getvalue().splitlines() if "running" in line]
    assert len(beats) == 196 // 30
    assert beats[0] == "0.0 of 4 runs done; SMoPE · digits · seed 0: task 1 of 10, statistics 7,424 of 50,000 images"
    display.update(run, step(1))
    clock.now += 31.0
    display.update(run, step(2))
    assert out.getvalue().rstrip().splitlines()[-1].endswith("runs done"), "steps are going on again"


def test_a_sign_of_life_needs_no_event() -> None:
    console, out = plain_console()
    clock = Clock()
    display, run = LineDisplay(console, 4, clock), planned()
    display.beat()
    display.update(run, started(10))
    for _ in range(300):  # a decomposition that reports nothing
        clock.now += 1.0
        display.beat()
    beats = [line.partition("running   ")[2] for line in out.getvalue().splitlines() if "running" in line]
    assert len(beats) == 10
    assert beats[0] == "0.0 of 4 runs done"
    assert beats[-1] == "0.0 of 4 runs done; SMoPE · digits · seed 0: task 1 of 10, no news for 5:00 min"


def test_the_display_itself_looks_whether_a_sign_of_life_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smope_bench.harness.execution.monitoring.display.LOOK_S", 0.01)
    console, out = plain_console()
    clock = Clock()
    with LineDisplay(console, 4, clock) as display:
        display.update(planned(), started(10))
        clock.now += 30.0
        wait_for(lambda: "running" in out.getvalue(), 5.0)


NARROW = pytest.mark.parametrize("width", [40, 60, 80])
LONG = "A method of a long name + alignment of its classifier"


def screen(text: str) -> list[str]:
    """Lines that were drawn, without the codes that move the cursor."""
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]", text)]


@NARROW
@pytest.mark.parametrize("no_colour", [False, True])
def test_bars_fit_a_narrow_terminal_and_their_numbers_stay(
    width: int, no_colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=True, width=width, no_color=no_colour, color_system="standard")
    display = LiveDisplay(console, 40, clock)
    with display:
        for row in (LONG, "short"):
            display.update(planned(row), started(10))
        clock.now += 100.0
        for task in range(2):
            display.update(planned(LONG), evaluated(task))
        display.update(planned(LONG), work(25_600))
        display._progress.refresh()
        drawn = screen(out.getvalue())
        display.update(planned(LONG), FINISHED)
        display.finish(RunStatus(planned(LONG), "done"))
        display.finish(RunStatus(planned("short"), "failed", "RuntimeError: a sentence of some length"))
    (bar,) = {line.strip() for line in drawn if "statistics" in line}
    assert ("6:40 min left" if width > 40 else "6:40 min") in bar and "3/10 statistics 51 %" in bar
    assert "A met" in bar
    assert any("0/40" in line for line in drawn)
    ended = [line for line in screen(out.getvalue()) if "✓" in line or "✗" in line]
    assert "FAA 87.65 %" in ended[0] and "1:40 min" in ended[0] and "A metho" in ended[0]
    assert "RuntimeError" in ended[1]
    assert max(map(len, screen(out.getvalue()))) <= width, "nothing wraps"
    assert ("\x1b[36m" in out.getvalue() or "\x1b[32m" in out.getvalue()) is not no_colour


@NARROW
def test_lines_fit_a_terminal_that_cannot_move_its_cursor(width: int) -> None:
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=True, width=width, _environ={"TERM": "dumb"})
    console.size = ConsoleDimensions(width, 20)  # as make_console does
    display = make_display(console, 40)
    assert isinstance(display, LineDisplay)
    display = LineDisplay(console, 40, clock)
    display.update(planned(LONG), started(10))
    clock.now += 31
    display.update(planned(LONG), work(512))
    display.update(planned(LONG), FINISHED)
    display.finish(RunStatus(planned(LONG), "done"))
    display.finish(RunStatus(planned(LONG), "failed", "RuntimeError: " + "x" * 90))
    lines = out.getvalue().splitlines()
    assert len(lines) == 4 and max(map(len, lines)) <= width
    assert "running 0.0/40; A m" in lines[1]
    assert "finished FAA  87.65 %" in lines[2] and "FAILED [2/40]" in lines[3]


def test_the_width_of_a_terminal_that_cannot_move_its_cursor_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")  # takes the output for a terminal
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((60, 20)))
    monkeypatch.delenv("COLUMNS", raising=False)
    assert make_console().width == 60


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


@pytest.mark.parametrize("terminal", [False, True])
def test_a_checkpoint_that_cannot_be_written_is_said_once_a_run(terminal: bool) -> None:
    console, out = plain_console(terminal=terminal)
    run, fault = planned(), {"event": "checkpoint_failed", "reason": "No space left on device"}
    with (LiveDisplay if terminal else LineDisplay)(console, 1, Clock()) as display:
        display.update(run, started())
        for _ in range(3):
            display.update(run, fault)
    text = " ".join(out.getvalue().split())
    said = "SMoPE · digits · seed 0: a checkpoint cannot be written (No space left on device); the run goes on"
    assert text.count(said) == 1
