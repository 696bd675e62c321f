"""The check of short memory: recomputed hidden layers, recomputed blocks, and batches divided into a few images at a time.

Every plan must also take effect: a method that enters the backbone's blocks by another way than its passes is not helped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from smope_bench.harness.checkpointing.random_state import random_state, restore_random_state
from smope_bench.harness.conformance.checks.prediction import TOLERANCE, logits_of
from smope_bench.harness.conformance.runner import CheckRun, MethodUnderCheck, Verdict, different, state_of
from smope_bench.harness.training.trainer import Trainer
from smope_bench.methods.common.api import Batch, Phase
from smope_bench.methods.common.vit.memory_plan import MemoryPlan
from smope_bench.methods.common.vit.vit import PromptedViT

HIDDEN, RECOMPUTED = MemoryPlan(checkpoint_mlps=True), MemoryPlan(checkpoint_blocks=True)
DIVIDED = MemoryPlan(micro_batch=3)
SMALLEST = 1e-3
"""Differences are relative to a tensor's largest entry, but at least to this: smaller values are rounding errors."""


def survives_short_memory(subject: MethodUnderCheck) -> Verdict:
    """Recomputation must change no bit, and divided batches no number beyond rounding.

    Rounding grows from step to step, so losses and gradients are compared from the same state.
    """
    first = subject.first
    moved, passes = _moved_by_recomputation(subject)
    if moved:
        return False, f"{RECOMPUTED.words}: differs in {', '.join(moved)}"
    if passes.kept:
        return False, _without_effect(passes)
    steps = _Steps()
    divided = subject.again("divided", prepare=steps.watch, stop=("task_evaluated", 1))
    if steps.hidden.kept or steps.moved:
        moved = f"{HIDDEN.words}: differs in {', '.join(steps.moved)}"
        return False, _without_effect(steps.hidden) if steps.hidden.kept else moved
    if steps.passes.whole:
        most = max(steps.passes.whole.values())
        return (
            False,
            f"{DIVIDED.words}: without effect in {_numbered(steps.passes.whole)}, through which {most} go at once",
        )
    gaps = steps.gaps | {"predictions": _gap_of_predictions(divided)}
    if first.trainer.method.is_closed_form:
        gaps |= differences(first.stages[len(divided.stages) - 1].state, divided.stages[-1].state)
    worst = max(gaps, key=lambda key: gaps[key])
    if gaps[worst] > TOLERANCE:
        return False, f"{DIVIDED.words}: {worst} differs by {gaps[worst]:.1e} of its size"
    if not first.trainer.method.is_closed_form and not any(passes.graphs.values()):
        same = f"{RECOMPUTED.words}: no gradient goes through them"
    else:
        same = f"{RECOMPUTED.words}: same predictions, same state"
    return True, f"{same}; {DIVIDED.words}: largest relative difference {gaps[worst]:.1e}"


class BlockPasses:
    """Counts, by block, of how a memory plan of a backbone takes effect; listens until the backbone is freed.

    ``graphs``: passes that leave a graph for the backward pass. ``again``: recomputations in the backward pass. ``whole``: most
    images that went through a block at a time, where these are more than the plan's micro-batch.
    """

    def __init__(self, plan: MemoryPlan) -> None:
        """Passes under other plans are not counted."""
        self.plan = plan
        self.graphs, self.again, self.whole = Counter[int](), Counter[int](), Counter[int]()

    def listen(self, backbone: PromptedViT) -> None:
        """Count from now on. A norm is what every pass through a block, or through its MLP, calls first."""
        for number, block in enumerate(backbone.blocks):
            norm = block.norm2 if self.plan.checkpoint_mlps else block.norm1
            norm.register_forward_pre_hook(partial(self._note, backbone, number))

    def _note(self, backbone: PromptedViT, number: int, norm: nn.Module, given: tuple[Any, ...]) -> None:
        del norm
        tokens, most = given[0], self.plan.micro_batch
        if backbone.memory != self.plan:
            return
        if torch._C._current_graph_task_id() != -1:
            self.again[number] += 1
            return
        self.graphs[number] += tokens.requires_grad
        if most is not None and len(tokens) > most:
            self.whole[number] = max(self.whole[number], len(tokens))

    @property
    def kept(self) -> list[int]:
        """Blocks that left graphs and were never recomputed."""
        return [number for number, count in self.graphs.items() if count and not self.again[number]]


def _without_effect(passes: BlockPasses) -> str:
    return f"{passes.plan.words}: without effect in {_numbered(passes.kept)}, whose graph is kept all the same"


def _numbered(blocks: Any) -> str:
    return f"block{'s' * (len(blocks) > 1)} {', '.join(map(str, sorted(blocks)))}"


def _moved_by_recomputation(subject: MethodUnderCheck) -> tuple[list[str], BlockPasses]:
    """Names of what differs after two tasks, and what went through the blocks."""
    passes = BlockPasses(RECOMPUTED)

    def recompute(trainer: Trainer) -> None:
        trainer.backbone.memory = RECOMPUTED
        passes.listen(trainer.backbone)

    again = subject.again("recomputed", prepare=recompute, stop=("task_evaluated", 1))
    found, expected = again.trainer.progress.predictions, subject.first.trainer.progress.predictions
    moved = different(subject.first.stages[len(again.stages) - 1].state, again.stages[-1].state)
    return moved or ([] if expected[: len(found)] == found else ["predictions"]), passes


class _Steps:
    """Runs the first step of each phase also with the undivided batch, from the same state, and keeps the differences.

    ``moved``: names of what recomputed hidden layers change. ``hidden``, ``passes``: how they and divided batches take effect.
    """

    def __init__(self) -> None:
        self.gaps: dict[str, float] = {}
        self.moved: list[str] = []
        self.hidden, self.passes = BlockPasses(HIDDEN), BlockPasses(DIVIDED)

    def watch(self, trainer: Trainer) -> None:
        """Make a trainer divide its batches, and compare the first step of each phase."""
        trainer.backbone.memory = DIVIDED
        for passes in (self.hidden, self.passes):
            passes.listen(trainer.backbone)
        method = trainer.method
        begin_phase, training_step = method.begin_phase, method.training_step
        is_first = False

        def begun(phase: Phase) -> None:
            nonlocal is_first
            is_first = True
            begin_phase(phase)

        def stepped(batch: Batch) -> Tensor:
            nonlocal is_first
            if is_first:
                is_first, plans = False, (MemoryPlan(), HIDDEN, DIVIDED)
                whole, again, parts = (_step_result(trainer, training_step, batch, plan) for plan in plans)
                self.moved += different(whole, again)
                self._note(differences(whole, parts))
            return training_step(batch)

        method.__dict__.update(begin_phase=begun, training_step=stepped)

    def _note(self, found: Mapping[str, float]) -> None:
        for key, gap in found.items():
            self.gaps[key] = max(gap, self.gaps.get(key, 0.0))


def _step_result(
    trainer: Trainer, step: Callable[[Batch], Tensor], batch: Batch, plan: MemoryPlan
) -> dict[str, Tensor]:
    """Loss, gradients and state after a step under ``plan``; method and random generators are restored afterwards."""
    method = trainer.method
    kept, attributes, draws = state_of(method), dict(vars(method)), random_state(trainer.device)
    trainer.backbone.memory = plan
    loss = step(batch)
    trained = {name: tensor for name, tensor in method.named_parameters() if tensor.requires_grad}
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    found = {"the loss": loss.detach(), **state_of(method)}
    named = zip(trained, gradients, strict=True)
    found |= {f"the gradient of {name}": gradient for name, gradient in named if gradient is not None}
    vars(method).update(attributes)
    method.load_state_dict(kept)
    restore_random_state(*draws, trainer.device)
    return found


def _gap_of_predictions(done: CheckRun) -> float:
    """Relative difference between the logits of undivided and of divided test batches."""
    rows = [len(view) for view in done.trainer.stream.tests]
    found: list[Tensor] = []
    for plan in (MemoryPlan(), DIVIDED):
        done.trainer.backbone.memory = plan
        found.append(logits_of(done, torch.arange(sum(rows)).split(rows)))
    return _gap(*found)


def differences(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> dict[str, float]:
    """Relative differences of tensors by name; infinite where only one side has the tensor."""
    names = one.keys() | two.keys()
    return {name: _gap(one[name], two[name]) if name in one and name in two else float("inf") for name in sorted(names)}


def _gap(one: Tensor, two: Tensor) -> float:
    if one.shape != two.shape:
        return float("inf")
    if not one.numel():
        return 0.0
    one, two = (tensor.detach().double().nan_to_num() for tensor in (one, two))
    return float((one - two).abs().max()) / max(SMALLEST, float(one.abs().max()))
