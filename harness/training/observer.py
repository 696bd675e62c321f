"""Observations of a run for figures, made while it trains. They change no number of the run.

Without names nothing is called or computed. With names, modes of modules and random generators are restored after every
observation.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from smope_bench.benchmarks.stream import Task, View
from smope_bench.harness.errors import UserError
from smope_bench.harness.hardware.device_lost import is_device_lost
from smope_bench.harness.records.observations import (
    ENGINE_OBSERVES,
    LABELS,
    PROMPT_MASS,
    VALIDATION_LOSS,
    Arrays,
    require_observable,
)
from smope_bench.harness.training.evaluator import Evaluator
from smope_bench.methods.common.api import Method
from smope_bench.methods.common.prompts.prompt_mass import PromptMass
from smope_bench.methods.common.vit.memory_plan import is_memory_shortage

IMAGES = 512
MASS_IMAGES = 64
"""Test images on which the share of attention that prompts receive is measured, the same at all stages of a run."""


class Observer:
    """Observes one run. ``names``: the requested observations and those of earlier attempts or records of the run."""

    def __init__(self, requested: Iterable[str], before: Iterable[str], method: Method, evaluator: Evaluator) -> None:
        """Raises UserError where the method or the stream does not offer a ``requested`` observation.

        Names in ``before`` that this code no longer offers are dropped.
        """
        self._method = method
        self._evaluator = evaluator
        tasks = evaluator.stream.tasks
        offered = {*method.observes, *ENGINE_OBSERVES}
        self.names = tuple(sorted({*requested, *(offered & set(before))}))
        require_observable(
            self.names,
            method.observes,
            method=method.name,
            asker="the run",
            has_validation=all(len(task.validation) for task in tasks),
        )
        self._validates = VALIDATION_LOSS in self.names
        if self._validates and method.is_closed_form:
            raise UserError(
                f"method {method.name!r} does not train in epochs: it has no {VALIDATION_LOSS!r} to observe"
            )
        self._of_method = [name for name in self.names if name not in ENGINE_OBSERVES]
        self._states: dict[str, list[NDArray]] = {}
        self._losses: list[tuple[int, str, int, float]] = []
        self._masses: list[tuple[int, int, float]] = []
        self._images: Arrays = {}
        self.epoch = 0
        """Finished epochs of the task."""
        self._seconds = 0.0

    # -- while the run goes on -----------------------------------------------------------------------------------------

    def training_starts(self, task: Task, phase: str) -> None:
        """Call before the first step of a task."""
        self.epoch = 0
        self._validate(task, phase)
        if not self._masses:
            with self._timed():
                self._weigh(task.index)

    def epoch_ended(self, task: Task, phase: str) -> None:
        """Call after every epoch; epochs are counted through all phases of a task."""
        self.epoch += 1
        self._validate(task, phase)

    def task_ended(self) -> None:
        """Call after every task: copies the observed state of the method, and measures what its prompts receive."""
        self._weigh(self._method.task_index + 1)
        if not self._of_method:
            return
        with self._undisturbed():
            state = self._method.observed_state()
        for name in self._of_method:
            if name in state:
                self._states.setdefault(name, []).append(_array(state[name]))

    def run_ended(self) -> None:
        """Call after the last task: shows the method a fixed choice of test images for observations of single images."""
        names = [name for name in self._of_method if name not in self._states]
        if not names:
            return
        parts: dict[str, list[NDArray]] = {name: [] for name in names}
        views = evenly_chosen_images(self._evaluator.stream.tests, IMAGES)
        with self._undisturbed():
            for batch in (batch for view in views for batch in self._evaluator.batches(view)):
                seen = self._method.observed_batch(batch)
                for name in names:
                    if name not in seen:
                        raise UserError(f"method {self._method.name!r} lists {name!r} in observes but never gives it")
                    parts[name].append(_array(seen[name]))
        self._images = {name: np.concatenate(arrays) for name, arrays in parts.items()}
        self._images[LABELS] = np.concatenate([view.labels for view in views])

    def _validate(self, task: Task, phase: str) -> None:
        if not self._validates:
            return
        with self._timed(), self._undisturbed():
            loss = self._validation_loss(task)
        self._losses.append((task.index, phase, self.epoch, loss))

    def _validation_loss(self, task: Task) -> float:
        """Mean cross-entropy of the task's held-out images over its own classes."""
        try:
            logits = torch.cat(list(self._evaluator.logits(task.validation)))
        except Exception as error:  # some methods can predict only after their task has ended
            raise UserError(
                f"method {self._method.name!r} cannot be observed by {VALIDATION_LOSS!r}: its predict fails in the middle of"
                f" training ({error})"
            ) from error
        own = logits[:, task.classes.start : task.classes.stop].float()
        labels = torch.from_numpy(task.validation.labels - task.classes.start).to(own.device)
        return float(F.cross_entropy(own, labels))

    def _weigh(self, tasks_done: int) -> None:
        """Shares of attention that prompts receive on a few test images, by block; none where ``predict`` needs training."""
        if PROMPT_MASS not in self.names:
            return
        mass, method = PromptMass(), self._method
        with self._undisturbed(), mass.watching(method.backbone):
            try:
                for batch in (batch for view in self._sample for batch in self._evaluator.batches(view)):
                    method.predict(batch)
            except Exception as error:  # some methods can predict only after their first task has ended
                if tasks_done > method.task_index or is_memory_shortage(error) or is_device_lost(error):
                    raise
                return
        shares = mass.shares()
        if not shares:
            raise UserError(
                f"method {method.name!r} adds no prompts to the attention of the backbone: it has no {PROMPT_MASS!r} to observe;"
                " leave that method out"
            )
        self._masses += [(tasks_done, block, share) for block, share in shares.items()]

    @cached_property
    def _sample(self) -> list[View]:
        return evenly_chosen_images(self._evaluator.stream.tests, MASS_IMAGES)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Time within does not count as training time."""
        started = time.monotonic()
        yield
        self._seconds += time.monotonic() - started

    def _undisturbed(self) -> contextlib.AbstractContextManager[None]:
        return undisturbed(self._method, self._evaluator.device)

    # -- state and results ---------------------------------------------------------------------------------------------

    def take_seconds(self) -> float:
        """Seconds of observation during training since the last call; they do not count as training time."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def state(self) -> Arrays:
        """Observations so far, which checkpoints store."""
        found = {name: np.stack(arrays) for name, arrays in self._states.items()}
        if self._validates:
            tasks, phases, epochs, losses = zip(*self._losses, strict=True) if self._losses else ((), (), (), ())
            found[f"{VALIDATION_LOSS}.task"] = np.array(tasks, dtype=np.int64)
            found[f"{VALIDATION_LOSS}.phase"] = np.array(phases, dtype=np.str_)
            found[f"{VALIDATION_LOSS}.epoch"] = np.array(epochs, dtype=np.int64)
            found[f"{VALIDATION_LOSS}.loss"] = np.array(losses, dtype=np.float64)
        if PROMPT_MASS in self.names:
            done, blocks, shares = zip(*self._masses, strict=True) if self._masses else ((), (), ())
            found[f"{PROMPT_MASS}.tasks_done"] = np.array(done, dtype=np.int64)
            found[f"{PROMPT_MASS}.block"] = np.array(blocks, dtype=np.int64)
            found[f"{PROMPT_MASS}.share"] = np.array(shares, dtype=np.float64)
        return found

    def restore(self, state: Mapping[str, NDArray]) -> None:
        """Restore a result of ``state``."""
        self._states = {name: list(state[name]) for name in self._of_method if name in state}
        if self._validates:
            columns = (state[f"{VALIDATION_LOSS}.{part}"].tolist() for part in ("task", "phase", "epoch", "loss"))
            self._losses = list(zip(*columns, strict=True))
        if PROMPT_MASS in self.names:
            columns = (state[f"{PROMPT_MASS}.{part}"].tolist() for part in ("tasks_done", "block", "share"))
            self._masses = list(zip(*columns, strict=True))

    def arrays(self) -> Arrays:
        """All observations, for publication."""
        return {**self.state(), **self._images}


@contextlib.contextmanager
def undisturbed(method: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode without gradients; restores the modes of all modules and all random generators."""
    modes = [(module, module.training) for module in method.modules()]
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
            method.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def evenly_chosen_images(views: Sequence[View], limit: int) -> list[View]:
    """At most ``limit`` images, equally many of each class and evenly spaced within it; the same in every run."""
    classes = [(view, np.flatnonzero(view.labels == label)) for view in views for label in np.unique(view.labels)]
    classes = [classes[i] for i in _evenly(len(classes), limit)]
    quota = limit // max(len(classes), 1)
    chosen: dict[View, list[NDArray[np.int64]]] = {}
    for view, positions in classes:
        chosen.setdefault(view, []).append(positions[_evenly(len(positions), quota)])
    found = ((view, np.concatenate(parts)) for view, parts in chosen.items())
    return [View(view.images, view.rows[positions], view.labels[positions]) for view, positions in found]


def _evenly(count: int, wanted: int) -> NDArray[np.int64]:
    kept = min(count, wanted)
    return np.arange(kept) * count // max(kept, 1)


def _array(tensor: Tensor) -> NDArray:
    """A copy as NumPy array; later training does not change it."""
    found = tensor.detach().to("cpu", copy=True)
    return found.float().numpy() if found.dtype in (torch.bfloat16, torch.float16) else found.numpy()
