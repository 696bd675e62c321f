"""Optimisation of a phase: which parameters may move, at which rate, and one step of them."""

from __future__ import annotations

import itertools

import torch

from methods.common.api import Method, ParameterGroup, Phase
from methods.common.schedules import Schedule, adamw, learning_rate


def declare_trainable(method: Method, groups: list[ParameterGroup]) -> None:
    """Only what a phase declares may receive gradient."""
    declared = {id(parameter) for group in groups for parameter in group.parameters}
    for parameter in method.parameters():
        parameter.requires_grad_(id(parameter) in declared)
        parameter.grad = None


def declared_sizes(method: Method, groups: list[ParameterGroup]) -> dict[str, int]:
    """Names and sizes of the parameters that some groups declare."""
    declared = {id(parameter) for group in groups for parameter in group.parameters}
    return {name: tensor.numel() for name, tensor in method.named_parameters() if id(tensor) in declared}


class Stretch:
    """One optimiser with its schedule, over one phase or over several that continue it."""

    def __init__(
        self, schedule: Schedule, groups: list[ParameterGroup], epochs: int, done: int = 0, total: int = 0
    ) -> None:
        self.schedule = schedule
        self.epochs = epochs
        self.step = 0
        self.done = done
        self.total = total
        self.optimizer = adamw([(group.parameters, schedule.lr * group.lr_multiplier) for group in groups], schedule)

    def set_rate(self, per_epoch: int) -> None:
        """Give every group its rate for the step to come."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                self.schedule, group["base_lr"], step=self.step, loader_steps=per_epoch, epochs=self.epochs
            )

    def descend(self, loss: torch.Tensor, method: Method) -> None:
        """Gradients of ``loss``, clipped where the schedule says so, and one step."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.schedule.grad_clip > 0:
            tensors = [tensor for group in self.optimizer.param_groups for tensor in group["params"]]
            torch.nn.utils.clip_grad_norm_(tensors, self.schedule.grad_clip)
        method.apply_step(self.optimizer)
        self.step += 1
        self.done += 1


def stretch_epochs(phases: list[Phase], first: int) -> int:
    """Epochs of a phase and of those that continue it."""
    epochs = phases[first].epochs
    for phase in itertools.takewhile(lambda later: later.continues, phases[first + 1 :]):
        epochs += phase.epochs
    return epochs
