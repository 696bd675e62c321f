"""Short memory as the conformance kit tries it: recomputed blocks, and batches divided into a few images at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from smope_bench.harness.checkpointing.random_state import random_state, restore_random_state
from smope_bench.harness.conformance.prediction_checks import TOLERANCE, logits_of
from smope_bench.harness.conformance.runner import Finished, different, run, state_of
from smope_bench.harness.conformance.verdicts import CheckResult
from smope_bench.harness.registry.registry import Registries
from smope_bench.harness.training.trainer import Trainer
from smope_bench.methods.common.api import Batch, Phase
from smope_bench.methods.common.backbone.memory_plan import MemoryPlan

TITLE = "short of memory"
RECOMPUTED, DIVIDED = MemoryPlan(checkpoint_blocks=True), MemoryPlan(micro_batch=3)
SMALLEST = 1e-3
"""Differences count in units of a tensor's largest entry, or of this: what is smaller cancels, and is nothing but rounding."""


def survives_short_memory(first: Finished, name: str, registries: Registries, root: Path) -> CheckResult:
    """Recomputed blocks must leave every bit as it is; a few images at a time, every number but for rounding.

    Rounding grows from step to step, so losses and gradients are compared where they start from the same state.
    """
    moved = _moved_by_recomputation(first, name, registries, root / "recomputed")
    if moved:
        return CheckResult(TITLE, False, f"{RECOMPUTED.words}: differs in {', '.join(moved)}")
    steps = _Steps()
    divided = run(name, registries, root / "divided", prepare=steps.watch, stop=("task_evaluated", 1))
    gaps = steps.gaps | {"predictions": _gap_of_predictions(divided)}
    if first.session.method.is_closed_form:
        gaps |= differences(first.stages[len(divided.stages) - 1].state, divided.stages[-1].state)
    worst = max(gaps, key=lambda key: gaps[key])
    if gaps[worst] > TOLERANCE:
        return CheckResult(TITLE, False, f"{DIVIDED.words}: {worst} differs by {gaps[worst]:.1e} of its size")
    return CheckResult(
        TITLE,
        True,
        f"{RECOMPUTED.words}: same predictions, same state; {DIVIDED.words}: largest relative difference {gaps[worst]:.1e}",
    )


def _moved_by_recomputation(first: Finished, name: str, registries: Registries, folder: Path) -> list[str]:
    """What is not the same to the bit after two tasks."""

    def recompute(session: Trainer) -> None:
        session.backbone.memory = RECOMPUTED

    again = run(name, registries, folder, prepare=recompute, stop=("task_evaluated", 1))
    there = again.session.progress.predictions
    same_answers = first.session.progress.predictions[: len(there)] == there
    moved = different(first.stages[len(again.stages) - 1].state, again.stages[-1].state)
    return moved or ([] if same_answers else ["predictions"])


class _Steps:
    """Takes the first step of each phase with all images at once too, from the same state, and keeps how far they differ."""

    def __init__(self) -> None:
        self.gaps: dict[str, float] = {}

    def watch(self, session: Trainer) -> None:
        """Have the session train a few images at a time, and look on."""
        session.backbone.memory = DIVIDED
        method = session.method
        begin_phase, training_step = method.begin_phase, method.training_step
        is_first = False

        def begun(phase: Phase) -> None:
            nonlocal is_first
            is_first = True
            begin_phase(phase)

        def stepped(batch: Batch) -> Tensor:
            nonlocal is_first
            if is_first:
                is_first, plans = False, (MemoryPlan(), DIVIDED)
                whole, parts = (_outcome(session, training_step, batch, plan) for plan in plans)
                self._note(differences(whole, parts))
            return training_step(batch)

        method.__dict__.update(begin_phase=begun, training_step=stepped)

    def _note(self, found: Mapping[str, float]) -> None:
        for key, gap in found.items():
            self.gaps[key] = max(gap, self.gaps.get(key, 0.0))


def _outcome(session: Trainer, step: Callable[[Batch], Tensor], batch: Batch, plan: MemoryPlan) -> dict[str, Tensor]:
    """Loss, gradients and state of a step under ``plan``; the method's state and the generators are put back after it."""
    method = session.method
    kept, attributes, draws = state_of(method), dict(vars(method)), random_state(session.device)
    session.backbone.memory = plan
    loss = step(batch)
    trained = {name: tensor for name, tensor in method.named_parameters() if tensor.requires_grad}
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    found = {"the loss": loss.detach(), **state_of(method)}
    named = zip(trained, gradients, strict=True)
    found |= {f"the gradient of {name}": gradient for name, gradient in named if gradient is not None}
    vars(method).update(attributes)
    method.load_state_dict(kept)
    restore_random_state(*draws, session.device)
    return found


def _gap_of_predictions(done: Finished) -> float:
    """How far the logits of all test images differ between all images of a task at once and a few at a time."""
    rows = [len(view) for view in done.session.stream.tests]
    found: list[Tensor] = []
    for plan in (MemoryPlan(), DIVIDED):
        done.session.backbone.memory = plan
        found.append(logits_of(done, torch.arange(sum(rows)).split(rows)))
    return _gap(*found)


def differences(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> dict[str, float]:
    """How far tensors of the same name differ, in units of the largest entry; infinitely where only one side has them."""
    names = one.keys() | two.keys()
    return {name: _gap(one[name], two[name]) if name in one and name in two else float("inf") for name in sorted(names)}


def _gap(one: Tensor, two: Tensor) -> float:
    if one.shape != two.shape:
        return float("inf")
    if not one.numel():
        return 0.0
    one, two = (tensor.detach().double().nan_to_num() for tensor in (one, two))
    return float((one - two).abs().max()) / max(SMALLEST, float(one.abs().max()))
