"""Prints how often methods make the host wait for a GPU: ``python -m smope_bench.harness.maintenance.device_waits [METHOD ...]``.

Counted on the pretend device, in two tasks of the conformance kit: exact counts of a small run, no times.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from smope_bench.harness.conformance.checks.device import DeviceRun, run_on_pretend_device
from smope_bench.harness.conformance.runner import register
from smope_bench.harness.registry.registry import open_registries

HEADINGS = (
    "method",
    "a training step",
    "an optimiser step",
    "a batch of predict",
    "an evaluated test set",
    "after a task",
)


def waits_table(names: Sequence[str] = ()) -> str:
    """A Markdown table with a row for each method, by default for all; numbers are means over the run."""
    registries = open_registries()
    register(registries)
    lines = [f"| {' | '.join(HEADINGS)} |", f"|---|{'---|' * (len(HEADINGS) - 1)}"]
    for name in names or registries.methods.loadable_names():
        with TemporaryDirectory() as folder:
            found = run_on_pretend_device(name, registries, Path(folder))
        lines.append(table_row(name, found))
    return "\n".join(lines) + "\n"


def table_row(name: str, found: DeviceRun) -> str:
    """A method's line of the table."""
    cells = " | ".join("–" if each is None else f"{each:.3g}" for each in means(found))
    return f"| `{name}` | {cells} |"


def means(found: DeviceRun) -> tuple[float | None, ...]:
    """Host synchronisations by the units of ``HEADINGS``, without those of the data feed; None where there is no such unit."""
    progress = found.run.trainer.progress
    units = {
        "training_step": found.calls["training step"],
        "descend": found.calls["training step"],
        "predict": found.calls["batch of predict"],
        "measure": sum(accuracy is not None for row in progress.matrix for accuracy in row),
    }
    first = tuple(found.waits(phase).total() / count if count else None for phase, count in units.items())
    after = found.waits("end_task").total() + found.waits("fit_task").total()
    return (*first, after / progress.tasks_done)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(waits_table(sys.argv[1:]), end="")
