"""Executors by name: a function of the room ``harness/executors/``, of an installed package or of a plugin file.

An executor takes jobs and yields one result each, wherever they are done. The room is searched, not listed: a module with a
decorated function is found without editing another file. Importing this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smope_bench.harness.execution.job import Job, JobResult, OnEvent
from smope_bench.harness.registry.registry import Registry, open_room
from smope_bench.harness.run_options import RunOptions

ROOM = "smope_bench.harness.executors"
Place = Literal["process", "machine", "cluster"]
Run = Callable[[Sequence[Job], RunOptions, OnEvent], Iterator[JobResult]]


@dataclass(frozen=True)
class Executor:
    """A way to do jobs. Calling it runs them and yields one result a job, in the order in which they end."""

    name: str
    run: Run
    place: Place
    """``process``: one after another in this process; ``machine``: several at a time, as many as this machine's memory holds;
    ``cluster``: elsewhere, where the devices of this machine do not matter."""
    takes: tuple[str, ...] = ()
    """Options that have a meaning for this executor: ``address``, ``slurm``."""
    is_here: Callable[[RunOptions], bool] = lambda _: False
    """For a cluster: whether with these options it is this machine, so that its devices matter."""

    def trains_here(self, options: RunOptions) -> bool:
        """Whether runs use this machine's devices."""
        return self.place != "cluster" or self.is_here(options)

    def __call__(self, jobs: Sequence[Job], options: RunOptions, on_event: OnEvent) -> Iterator[JobResult]:
        return self.run(jobs, options, on_event)

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (self.run.__doc__ or "").strip().partition("\n")[0]


def executor(
    name: str, *, place: Place, takes: tuple[str, ...] = (), is_here: Callable[[RunOptions], bool] = lambda _: False
) -> Callable[[Run], Executor]:
    """Decorator: makes ``run(jobs, options, on_event)`` the executor that ``--executor NAME`` chooses."""
    return lambda run: Executor(name, run, place, takes, is_here)


def open_executors(plugins: Sequence[Path] = ()) -> Registry:
    """All executors by name. Raises UserError for a plugin file that cannot be imported or takes a name that exists."""
    return open_room("executor", ROOM, plugins)
