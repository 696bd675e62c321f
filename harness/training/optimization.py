"""Optimisation: trainable parameters, learning rate, steps and losses of a phase."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from smope_bench.harness.errors import RunDivergedError
from smope_bench.methods.common.api import Method, ParameterGroup, Phase
from smope_bench.methods.common.schedules import Schedule, learning_rate, optimizer_of


def declare_trainable(method: Method, groups: list[ParameterGroup]) -> None:
    """Let only the parameters that a phase declares receive gradients."""
    declared = {id(parameter) for group in groups for parameter in group.parameters}
    for parameter in method.parameters():
        parameter.requires_grad_(id(parameter) in declared)
        parameter.grad = None


def declared_sizes(method: Method, groups: list[ParameterGroup]) -> dict[str, int]:
    """Names and sizes of the parameters in ``groups``."""
    declared = {id(parameter) for group in groups for parameter in group.parameters}
    return {name: tensor.numel() for name, tensor in method.named_parameters() if id(tensor) in declared}


class OptimizationSegment:
    """One optimiser with its learning-rate schedule, over one phase or over several that continue it.

    ``step`` counts its own steps; ``done`` and ``total`` are steps of the whole task.
    """

    def __init__(
        self, schedule: Schedule, groups: list[ParameterGroup], epochs: int, done: int = 0, total: int = 0
    ) -> None:
        self.schedule = schedule
        self.epochs = epochs
        self.step = 0
        self.done = done
        self.total = total
        self.optimizer = optimizer_of(
            [(group.parameters, schedule.lr * group.lr_multiplier, group.weight_decay) for group in groups], schedule
        )

    def set_rate(self, per_epoch: int) -> None:
        """Set the learning rate of every group for the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                self.schedule, group["base_lr"], step=self.step, loader_steps=per_epoch, epochs=self.epochs
            )

    def descend(self, loss: torch.Tensor, method: Method) -> None:
        """Compute gradients of ``loss``, clip them where the schedule has a limit, and take one step."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.schedule.grad_clip > 0:
            tensors = [tensor for group in self.optimizer.param_groups for tensor in group["params"]]
            torch.nn.utils.clip_grad_norm_(tensors, self.schedule.grad_clip)
        method.apply_step(self.optimizer)
        # Fused optimisers leave the version counters as they are, by which ``Derived`` values notice a change.
        increment_version([tensor for group in self.optimizer.param_groups for tensor in group["params"]])
        self.step += 1
        self.done += 1

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The optimiser's state: tensors by parameter number and name, and JSON values of states and groups."""
        tensors: dict[str, Tensor] = {}
        plain: dict[str, Any] = {}
        found = self.optimizer.state_dict()
        for number, entries in found["state"].items():
            for name, value in entries.items():
                kept = tensors if isinstance(value, Tensor) else plain
                kept[f"{number}.{name}"] = value
        groups = [{key: value for key, value in group.items() if key != "params"} for group in found["param_groups"]]
        return tensors, {"states": plain, "groups": groups}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any], step: int, done: int) -> None:
        """Restore a result of ``state``. Raises ValueError, KeyError or RuntimeError where it is of other groups."""
        states: dict[int, dict[str, Any]] = {}
        for key, value in [*tensors.items(), *values["states"].items()]:
            number, _, name = key.partition(".")
            states.setdefault(int(number), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        merged = [{**group, **kept} for group, kept in zip(groups, values["groups"], strict=True)]
        self.optimizer.load_state_dict({"state": states, "param_groups": merged})
        self.step, self.done = step, done


class LossMeter:
    """Losses of one epoch. Each is read after the next step has been launched, so that the accelerator does not wait."""

    def __init__(self, check: Callable[[float, int], None], total: float = 0.0, count: int = 0) -> None:
        """``check(loss, step of the phase)`` is called for each loss and raises where it is not finite."""
        self.check = check
        self.total = total
        self.count = count
        self._waiting: tuple[Tensor, torch.cuda.Event | None, int] | None = None

    def note(self, loss: Tensor, step: int) -> None:
        """Store the loss of ``step``, which has been launched, and read the one before."""
        copied = self._copied(loss.detach())
        self.read_pending()
        self._waiting = (*copied, step)

    def read_pending(self) -> None:
        """Read the loss that has not been read yet. Raises the error of ``check``."""
        if self._waiting is None:
            return
        loss, event, step = self._waiting
        self._waiting = None
        if event is not None:
            event.synchronize()
        value = loss.item()
        self.check(value, step)
        self.total += value
        self.count += 1

    def mean(self) -> float:
        """Mean loss of a step; 0 before the first."""
        self.read_pending()
        return self.total / max(self.count, 1)

    @staticmethod
    def _copied(loss: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """A copy to the host, queued after the work of the step, and the event that marks its arrival."""
        if loss.device.type != "cuda":
            return loss, None
        host = torch.empty_like(loss, device="cpu", pin_memory=True)
        host.copy_(loss, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return host, event


def require_finite(loss: float, *, task: int, phase: str, step: int, lr: float) -> None:
    """Raise RunDivergedError, with the place, the last good task and a remedy, unless ``loss`` is finite."""
    if not math.isfinite(loss):
        good = f"last good task: {task - 1}" if task else "no task was finished"
        raise RunDivergedError(
            f"the loss became {loss} at step {step} of phase {phase!r} of task {task} ({good}); lower the rate,"
            f" for example --set schedule.lr={lr / 5:g}"
        )


def segment_epochs(phases: list[Phase], first: int) -> int:
    """Epochs of a phase and of those that continue it."""
    continuing = itertools.takewhile(lambda phase: phase.continues, phases[first + 1 :])
    return phases[first].epochs + sum(phase.epochs for phase in continuing)
