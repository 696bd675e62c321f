"""The life whose file operations are recorded: prepare data, train two runs, interrupt and resume them, report, extend one.

``python life.py OUTSIDE`` lives it in the working folder, from the project's tests. ``OUTSIDE``: a
folder with the user's own pictures and suite, which no call writes to.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PLACE = ("--results", "results", "--data", "data")
ALONE = ("--executor", "serial", "--device", "cpu", *PLACE)
METHODS = ("linear_probe", "l2p++")
SUITE = """
title: Power
tiny: true
seeds: [0]
columns:
  - benchmark: imagefolder
    settings: {{path: {pictures}, tasks: 2}}
rows: [{rows}]
settings: {{schedule.epochs: 1, schedule.batch_size: 6}}
"""
STATUS_OF_A_SIGNAL = 130


def make_outside(folder: Path, methods: Sequence[str]) -> None:
    """Write the user's pictures, four classes and a fifth for later, and the suite."""
    draw = np.random.default_rng(0)
    for label in range(5):
        place = folder / ("more" if label == 4 else "pictures") / f"class {label}"
        place.mkdir(parents=True)
        colour = 50 * label
        for number in range(6):
            pixels = (colour + draw.integers(0, 50, (32, 32, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")
    text = SUITE.format(pictures=json.dumps(str(folder / "pictures")), rows=", ".join(methods))
    (folder / "power.yaml").write_text(text, encoding="utf-8")


def calls(outside: Path) -> list[list[str]]:
    """The commands in order. The second is interrupted where a life is recorded; the third is the same and resumes.

    A report is among them where the suite has several methods.
    """
    suite = str(outside / "power.yaml")
    one_method = "," not in (outside / "power.yaml").read_text(encoding="utf-8").partition("rows")[2].partition("]")[0]
    run = ["run", suite, "--checkpoint-every", "0", *ALONE]
    return [
        ["data", "prepare", "imagefolder", "--from", str(outside / "pictures"), "--data", "data"],
        run,
        run,
        *([] if one_method else [["report", suite, "--results", "results", "--out", "report"]]),
        ["extend", "{first}", "--from", str(outside / "more"), "--checkpoint-every", "0", *ALONE],
    ]


def call(words: Sequence[str]) -> int:
    """Do a command in this process in the working folder; its exit status. ``{first}`` is the first finished run of the suite."""
    from smope_bench import run_all

    if "{first}" in words:
        words = [first_run() if word == "{first}" else word for word in words]
    return run_all.main(list(words))


def quietly(words: Sequence[str]) -> tuple[int, str]:
    """``call``, and what it printed to standard error."""
    said = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(said):
        status = call(words)
    return status, said.getvalue()


def first_run() -> str:
    """Id of the suite's run of the first method."""
    for file in sorted(Path("results").glob("*/result.json")):
        spec = json.loads(file.read_text(encoding="utf-8"))["spec"]
        if spec["method"]["name"] == METHODS[0] and not spec.get("parent"):
            return file.parent.name
    return "none"


def _interrupt_in_second_task() -> None:
    """Let Ctrl-C come in the middle of the first run that reaches its second task."""
    from smope_bench.harness.records.event_log import RunLog

    log = RunLog.log

    def stopped(self: Any, event: str, **facts: Any) -> None:
        log(self, event, **facts)
        if event == "epoch" and facts.get("task") == 1:
            RunLog.log = log
            signal.raise_signal(signal.SIGINT)

    RunLog.log = stopped


def main() -> int:
    """Live it; the exit status is 1 where a call ended otherwise than it should."""
    for number, words in enumerate(calls(Path(sys.argv[1]))):
        if number == 1:
            _interrupt_in_second_task()
        status = call(words)
        print(f"call {number} ended", flush=True)
        if status != (STATUS_OF_A_SIGNAL if number == 1 else 0):
            print(f"{words} ended with status {status}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
