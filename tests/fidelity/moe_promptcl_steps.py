"""HiDe-Prompt and NoRGa beside their official code at single points: logits, losses, gradients, and three steps."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from smope_bench.harness.training.optimization import OptimizationSegment, declare_trainable
from smope_bench.methods.common.api import Batch, Phase, TaskInfo
from smope_bench.methods.hide_prompt import HidePrompt
from tests.fidelity.ledger import Entry  # pyright: ignore[reportMissingImports]
from tests.fidelity.moe_promptcl import (  # pyright: ignore[reportMissingImports]
    CPU,
    PER_TASK,
    SHAPE,
    Official,
    Pictures,
    Retrieval,
    add_parameters,
    by_our_names,
    class_mask,
    official_tensors,
    optimizer_of,
    our_method,
    raw,
    settings,
    split_rates,
)


def enter(method: HidePrompt, data: Pictures, index: int, phase: str) -> Phase:
    """Put our method into a phase of a task, its parameters declared as the engine does."""
    count = len(data) // PER_TASK
    task = TaskInfo(index, data.classes, (count,) * PER_TASK)
    method.enter_task(task)
    method.begin_task(task)
    chosen = next(each for each in method.phases() if each.name == phase)
    method.begin_phase(chosen)
    declare_trainable(method, method.parameter_groups())
    return chosen


def compare_steps(entry: Entry, title: str, official: Official, cls: type[HidePrompt], retrieval: Retrieval) -> None:
    """Logits, losses and gradients at one point of each task's kind, and parameters after three steps."""
    for index in (0, 1):
        tii, prompted = official.models(retrieval)
        method = our_method(cls, tii, prompted, retrieval)
        data = Pictures(method.backbone, index)
        where = f"{title}, task {index + 1}"
        _prototypes(official.engine, method, index)
        if index and hasattr(prompted.e_prompt, "act_scale"):
            prompted.e_prompt.act_scale.requires_grad_(False)
        enter(method, data, index, "prompts")
        with torch.no_grad():
            method.prompts[index].add_(0.1)
            pool = prompted.e_prompt.prompt
            pool[:, :, index] = method.prompts[index].permute(1, 0, 3, 2, 4)
        _one_step(entry, where, official, method, prompted, data, index)
        _three_steps(entry, where, official, method, (tii, prompted), data, index)
        if retrieval == "corrected":
            _inference_steps(entry, where, official, method, tii, data, index)


def _prototypes(engine: Any, method: HidePrompt, index: int) -> None:
    torch.manual_seed(5)
    engine.cls_mean = {c: torch.randn(SHAPE["embed_dim"]) for c in range(PER_TASK * index)}
    for number, mean in engine.cls_mean.items():
        method.statistics.mean[number], method.statistics.count[number] = mean, 1


def _one_step(
    entry: Entry, where: str, official: Official, method: HidePrompt, prompted: Any, data: Pictures, index: int
) -> None:
    args, batch = settings(), data.train[0]
    own = torch.full((len(batch.images), 1), index)
    out = prompted(batch.images, task_id=index, prompt_id=own, train=True, prompt_momentum=args.prompt_momentum)
    features = method._own_features(batch.images, method._with_momentum())
    entry.add(f"{where}: logits", method.head(features), out["logits"])
    contrastive = official.engine.orth_loss(out["pre_logits"], batch.targets, CPU, args)
    without = method.config.model_copy(update={"contrastive": 0.0})
    loss = method.training_step(batch)
    with patch.object(method, "config", without):
        entry.add(f"{where}: contrastive term", loss - method.training_step(batch), contrastive)
    still = torch.optim.SGD([p for p in prompted.parameters() if p.requires_grad], lr=0.0)
    seen = official.engine.train_one_epoch(
        prompted, torch.nn.Identity(), torch.nn.CrossEntropyLoss(), raw([batch]), still, CPU, 0, 1e9,
        task_id=index, class_mask=class_mask(), target_task_map=None, args=args,
    )  # fmt: skip
    entry.add(f"{where}: loss", loss, float(seen["Loss"]))
    loss.backward()
    theirs = {"prompts": prompted.e_prompt.prompt.grad, "head.weight": prompted.head.weight.grad}
    theirs["head.bias"] = prompted.head.bias.grad
    if hasattr(prompted.e_prompt, "act_scale") and index == 0:
        theirs["gates"] = prompted.e_prompt.act_scale.grad
    known = by_our_names(theirs)
    ours = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    for name, gradient in ours.items():
        entry.add(f"{where}: gradient of {name}", gradient, known.pop(name))
    leftover = [name for name, gradient in known.items() if gradient.abs().max() > 0]
    if leftover:
        raise RuntimeError(f"official gradients without a counterpart: {leftover}")


def _three_steps(
    entry: Entry, where: str, official: Official, method: HidePrompt, models: Any, data: Pictures, index: int
) -> None:
    args, (tii, prompted) = settings(), models
    stretch = OptimizationSegment(method.setup.schedule, method.parameter_groups(), 2)
    for batch in data.train:
        stretch.set_rate(len(data.train))
        stretch.descend(method.training_step(batch), method)
    official.engine.train_one_epoch(
        prompted, torch.nn.Identity(), torch.nn.CrossEntropyLoss(), raw(data.train),
        optimizer_of(args, split_rates(args, prompted)), CPU, 0, 1.0, task_id=index, class_mask=class_mask(), args=args,
    )  # fmt: skip
    add_parameters(entry, f"{where}, after three steps", method, tii, prompted)


def _inference_steps(
    entry: Entry, where: str, official: Official, method: HidePrompt, tii: Any, data: Pictures, index: int
) -> None:
    args, whole = settings(lr=0.001), data.train[0]
    # Three images: with as many of each class, the gradients of the last layers nearly cancel out.
    batch = Batch(whole.images[:3], whole.targets[:3], whole.features[:3])
    phase = enter(method, data, index, "task inference")
    entry.add(f"{where}: task-inference logits", method.inference(batch.features), tii(batch.images)["logits"])
    still = torch.optim.SGD([p for p in tii.parameters() if p.requires_grad], lr=0.0)
    run = partial(official.tii_engine.train_one_epoch, tii, torch.nn.CrossEntropyLoss())
    seen = run(raw([batch]), still, CPU, 0, 1e9, task_id=index, class_mask=class_mask(), args=args)
    loss = method.training_step(batch)
    entry.add(f"{where}: task-inference loss", loss, float(seen["Loss"]))
    loss.backward()
    theirs = {name: p.grad for name, p in official_tensors(tii, _NoPrompts()).items() if name.startswith("inference")}
    for name, gradient in theirs.items():
        entry.add(f"{where}: gradient of {name}", dict(method.named_parameters())[name].grad, gradient)
    schedule = method.setup.schedule.model_copy(update={"lr": phase.lr, "shape": phase.shape})
    stretch = OptimizationSegment(schedule, method.parameter_groups(), phase.epochs)
    for each in data.train:
        stretch.set_rate(len(data.train))
        stretch.descend(method.training_step(each), method)
    run(raw(data.train), optimizer_of(args, tii), CPU, 0, 1.0, task_id=index, class_mask=class_mask(), args=args)
    official_after = official_tensors(tii, _NoPrompts())
    mine = torch.cat([p.flatten() for p in method.inference.parameters()])
    names = [f"inference.{name}" for name, _ in method.inference.named_parameters()]
    entry.add(
        f"{where}, after three steps: task inference", mine, torch.cat([official_after[n].flatten() for n in names])
    )


class _NoPrompts:
    """Stands where only the task-inference network is asked for."""

    def __init__(self) -> None:
        self.head = torch.nn.Linear(1, 1)
        self.e_prompt = SimpleNamespace(prompt=torch.nn.Parameter(torch.zeros(1)))
