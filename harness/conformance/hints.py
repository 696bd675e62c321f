"""What the conformance kit notices without judging: signs that a method does not do what its author thinks."""

from __future__ import annotations

import difflib
import inspect
import traceback
from pathlib import Path
from types import FunctionType

from smope_bench.harness.conformance.runner import Finished, same_bits
from smope_bench.methods.common.api import Method

ALIKE = 0.6
"""How near a name must come to a hook's, as ``difflib`` counts: ``after_task`` and ``end_task`` have 0.67."""


def mistaken_hooks(method: type[Method]) -> str:
    """Public methods that look like hooks and are none, as the end of a sentence; empty where there are none."""
    hooks = [
        name
        for name, value in vars(Method).items()
        if isinstance(value, FunctionType) and not name.startswith("_") and name != "enter_task"  # the engine's own
    ]
    found = []
    for name, value in vars(method).items():
        if name.startswith("_") or name in vars(Method) or not isinstance(value, FunctionType):
            continue
        found += [f"{name} (like {near})" for near in difflib.get_close_matches(name, hooks, n=1, cutoff=ALIKE)]
    return f"; no hook, so that nobody calls it from outside: {', '.join(found)}" if found else ""


def untrained(done: Finished) -> str:
    """Parameters that training never moved, or not after some task, as the end of a sentence."""
    states = [done.before, *(stage.state for stage in done.stages)]
    names = [name for name, _ in done.session.method.named_parameters() if all(name in state for state in states)]
    moved = {
        name: [task for task in range(1, len(states)) if not same_bits(states[task - 1][name], states[task][name])]
        for name in names
    }
    never = [name for name in names if not moved[name]]
    last = len(states) - 1
    early = [f"{name} (task {moved[name][-1]})" for name in names if moved[name] and moved[name][-1] < last]
    said = (("never changed", never), ("changed last in", early))
    return "".join(f"; {what}: {', '.join(which)}" for what, which in said if which)


def where(error: BaseException, method: type[Method]) -> str:
    """The place in the method's own file that an error came from, such as `` (end_task, my_prompt.py line 47)``."""
    try:
        file = inspect.getfile(method)
    except (TypeError, OSError):
        return ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({frames[-1].name}, {Path(file).name} line {frames[-1].lineno})" if frames else ""
