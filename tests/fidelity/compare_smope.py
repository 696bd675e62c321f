"""SMoPE beside its official implementation: one whole run of two tasks, and every loss and gradient on its own."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from smope_bench.harness.training.optimization import OptimizationSegment, declare_trainable
from smope_bench.methods.common.alignment.tap import TapConfig
from smope_bench.methods.common.api import Batch, Phase, Setup, TaskInfo
from smope_bench.methods.common.prompts.experts import Choice
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.common.vit.attention_rules import Trace
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.smope import SMoPE, SMoPEConfig
from tests.fidelity.ledger import Entry, revision, run_adapter  # pyright: ignore[reportMissingImports]
from tests.fidelity.smope_repository import (  # pyright: ignore[reportMissingImports]
    ALPHA_PROTO,
    ALPHA_ROUTER,
    BATCH,
    CLASSES,
    EPOCHS,
    EPSILON,
    EXPERTS,
    FREEZE,
    LR,
    STEPS,
    TAP_EPOCHS,
    TAP_RATIO,
    TASKS,
    TOP_K,
    VIT,
    Images,
    Official,
)

SCHEDULE = Schedule(batch_size=BATCH, epochs=EPOCHS, lr=LR, freeze_steps=FREEZE, steps_per_epoch=STEPS)
SETTING = (
    f"A ViT of width {VIT['embed_dim']}, {VIT['num_heads']} heads, {VIT['depth']} blocks and 32 px with random weights;"
    f" {EXPERTS} experts a head, {TOP_K} used; {TASKS} tasks of {CLASSES} classes, {BATCH * STEPS} images each, batch {BATCH};"
    f" {EPOCHS // 2} dense epochs in the first task and {EPOCHS} sparse ones in each, under the official schedule with"
    f" {FREEZE} step at the floor rate; {TAP_EPOCHS} epochs of alignment a task. Quantities named *run* come from"
    f" {STEPS * (EPOCHS // 2 + 2 * EPOCHS)} optimiser steps, the counting passes, statistics and alignment without ever copying"
    " state between the two sides after the initialisation; all others are taken in one state that both share. The prefixes of the"
    " run differ most where a gradient is near Adam's eps of 1e-8: rounding is then visible in the step; with an eps of 1e-5 on"
    " both sides they agree to 5e-6."
)


def ours_from(official: Official, **changes: Any) -> SMoPE:
    """Our method on the official side's weights."""
    vit = VisionTransformer(**VIT)
    vit.load_state_dict(official.model.feat.state_dict())
    tap = TapConfig(epochs=TAP_EPOCHS, samples=BATCH * TAP_RATIO)
    values: dict[str, Any] = {"alpha_router": ALPHA_ROUTER, "alpha_proto": ALPHA_PROTO, "epsilon": EPSILON}
    config = SMoPEConfig(**(values | {"experts": EXPERTS, "top_k": TOP_K, "tap": tap} | changes))
    method = SMoPE(config, PromptedViT(vit), Setup(TASKS * CLASSES, TASKS, SCHEDULE))
    share(official, method)
    return method


@torch.no_grad()
def share(official: Official, method: SMoPE) -> None:
    """Copy everything learnt and counted from the official side."""
    method.prefix_keys.copy_(official.packed("e_pk"))
    method.prefix_values.copy_(official.packed("e_pv"))
    method.head.load_state_dict(official.model.last.state_dict())
    method.counts.copy_(official.packed("e_freq"))
    method.important.copy_(official.latch())
    if hasattr(official.model.prompt, "old_e_pk_0_0_0"):
        method.old_keys.copy_(official.packed("old_e_pk"))


def enter(method: SMoPE, task: int) -> None:
    info = TaskInfo(task, range(task * CLASSES, (task + 1) * CLASSES), (BATCH * STEPS // CLASSES,) * CLASSES)
    method.enter_task(info)
    method.begin_task(info)


def learn(method: SMoPE, data: Images, rates: list[list[float]], losses: list[float]) -> None:
    """The phases of a task, by the engine's own optimisation."""
    for phase in method.phases():
        method.begin_phase(phase)
        groups = method.parameter_groups()
        declare_trainable(method, groups)
        stretch = OptimizationSegment(SCHEDULE, groups, phase.epochs)
        for _ in range(phase.epochs):
            for batch in data.batches():
                stretch.set_rate(STEPS)
                rates.append([group["lr"] for group in stretch.optimizer.param_groups])
                loss = method.training_step(batch)
                losses.append(loss.item())
                stretch.descend(loss, method)


def end(method: SMoPE, data: Images, noise: Tensor, orders: Tensor) -> None:
    """Counting, statistics and alignment, with the draws that the official side gets."""
    seen, samples, used = method.seen_classes, BATCH * TAP_RATIO, method.old_classes * BATCH * TAP_RATIO
    by_row = [order % samples * seen + order // samples for order in orders]
    drawn = [rows.flatten(0, 1)[order[:used]] for rows, order in zip(noise, orders, strict=True)]
    with (
        mock.patch.object(torch, "randperm", mock.Mock(side_effect=by_row)),
        mock.patch.object(torch, "randn", mock.Mock(side_effect=drawn)),
    ):
        method.end_task(data)


def compare_run(entry: Entry, official: Official, method: SMoPE, data: Images) -> None:
    rates: list[list[float]] = []
    losses: list[float] = []
    generator = torch.Generator().manual_seed(2)
    for task in range(TASKS):
        seen, samples = (task + 1) * CLASSES, BATCH * TAP_RATIO
        noise = torch.randn(TAP_EPOCHS, seen, samples, VIT["embed_dim"], generator=generator)
        orders = torch.stack([torch.randperm(seen * samples, generator=generator) for _ in range(TAP_EPOCHS)])
        official.enter(task)
        enter(method, task)
        entry.add(f"run: frequently-used mask at the start of task {task + 1}", method.important, official.latch())
        official.learn()
        learn(method, data, rates, losses)
        before = {"keys": "e_pk", "values": "e_pv"}
        for name, kind in before.items():
            mine = getattr(method, f"prefix_{name}")
            entry.add(f"run: prefix {name} after the steps of task {task + 1}", mine, official.packed(kind))
        entry.add(f"run: classifier after the steps of task {task + 1}", method.head.weight, official.model.last.weight)
        official.align(task, noise, orders)
        end(method, data, noise, orders)
        entry.add(f"run: use counts after task {task + 1}", method.counts, official.packed("e_freq"))
    entry.add("run: learning rates of all steps", torch.tensor(rates), torch.tensor(official.rates))
    entry.add("run: loss of every step", torch.tensor(losses), torch.tensor(official.losses))
    for name, theirs in zip(("mean", "covariance"), official.statistics(), strict=True):
        entry.add(f"run: class {name}s", getattr(method.statistics, name), theirs)
    entry.add("run: classifier weights after alignment", method.head.weight, official.model.last.weight)
    entry.add("run: classifier biases after alignment", method.head.bias, official.model.last.bias)
    compare_predictions(entry, "run: ", official, method, data)


def compare_predictions(entry: Entry, prefix: str, official: Official, method: SMoPE, data: Images) -> None:
    theirs = official.tested_as_published(data.test)
    mine = method.predict(Batch(data.test))
    entry.add(f"{prefix}test logits after two tasks", mine, theirs)
    entry.add(f"{prefix}predictions after two tasks", mine.argmax(dim=1), theirs.argmax(dim=1))


def compare_step(entry: Entry, stage: str, official: Official, method: SMoPE, data: Images) -> None:
    """Losses and gradients of one training step in a state that both sides share."""
    share(official, method)
    images, labels = next(iter(data.parts()))
    dense = stage == "dense"
    method.begin_phase(Phase("dense" if dense else "sparse", 1))
    declare_trainable(method, method.parameter_groups())
    theirs = official.gradients(images, labels, dense=dense, router=ALPHA_ROUTER, proto=ALPHA_PROTO)
    loss = method.training_step(Batch(images, labels))
    loss.backward()
    entry.add(f"{stage}: loss", loss, theirs)
    gradients = {"keys": (method.prefix_keys, "e_pk"), "values": (method.prefix_values, "e_pv")}
    for name, (tensor, kind) in gradients.items():
        entry.add(f"{stage}: gradient of the {name}", required(tensor.grad), official.packed(kind, "grad"))
    for part in ("weight", "bias"):
        mine, their = getattr(method.head, part), getattr(official.model.last, part)
        entry.add(f"{stage}: gradient of the classifier's {part}", required(mine.grad), required(their.grad))


def compare_parts(entry: Entry, stage: str, official: Official, method: SMoPE, data: Images) -> None:
    """Scores and selections of every block, and each loss term alone, in training with noise and at test."""
    share(official, method)
    images, labels = next(iter(data.parts()))
    batch = Batch(images, labels)
    method.begin_phase(Phase("sparse", 1))
    for mode, training in {"training": True, "inference": False}.items():
        trace: Trace[Choice] = Trace()
        handicaps = method._training_handicaps(batch) if training else method._inference_handicaps(masked=True)
        with torch.no_grad():
            method.backbone(images, method._rules(*method._experts(), handicaps, trace))
            theirs = official.model(images, train=training, return_attn=True)[: len(trace)]
        scores = torch.stack([score.squeeze(2) for score, _ in theirs])
        picked = torch.stack([lowered.squeeze(2).topk(TOP_K).indices for _, lowered in theirs])
        chosen = torch.zeros_like(scores).scatter(-1, picked, 1.0)
        entry.add(f"{stage}: expert scores, {mode}", torch.stack([choice.scores for choice in trace]), scores)
        entry.add(f"{stage}: selections, {mode}", torch.stack([choice.selected for choice in trace]), chosen)
        if training:
            with torch.no_grad():
                router = method._router_loss(trace)
            entry.add(f"{stage}: router loss", router, official.extra_loss(images, router=1.0, proto=0.0))
    if method.task_index > 0:
        mine = method._prototype_loss(method.prefix_keys)
        entry.add(f"{stage}: prototype loss", mine, official.extra_loss(images, router=0.0, proto=1.0))
    plain = ours_from(official, alpha_router=0.0, alpha_proto=0.0)
    enter_quietly(plain, method.task_index, method)
    cross_entropy = plain.training_step(batch)
    theirs = official.gradients(images, labels, dense=False, router=0.0, proto=0.0)
    entry.add(f"{stage}: cross-entropy", cross_entropy, theirs)


def enter_quietly(method: SMoPE, task: int, like: SMoPE) -> None:
    """Put a method in the middle of a task in another one's state."""
    enter(method, task)
    method.load_state_dict(like.state_dict())
    method.begin_phase(Phase("sparse", 1))


def required(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def make(root: Path) -> Entry:
    """The whole comparison."""
    repository = root / "SMoPE"
    entry = Entry("smope", "SMoPE", "Minhchuyentoancbn/SMoPE", revision(repository), SETTING)
    entry.deviations += DEVIATIONS
    on_cpu = mock.patch.object(torch.Tensor, "cuda", lambda self: self.clone())
    with contextlib.redirect_stdout(sys.stderr), on_cpu:
        data = Images()
        official = Official(repository, data)
        first = ours_from(official)
        enter(first, 0)
        official.model.task_id, official.learner.valid_out_dim = 0, CLASSES
        official.learner.data_weighting(None)
        compare_step(entry, "dense", official, first, data)
        compare_parts(entry, "task 1", official, first, data)
        compare_step(entry, "task 1", official, first, data)
        official.learner.valid_out_dim = 0
        whole = ours_from(official)
        compare_run(entry, official, whole, data)
        official.learner.last_valid_out_dim = CLASSES  # as it is while the second task is trained
        compare_parts(entry, "task 2", official, whole, data)
        compare_step(entry, "task 2", official, whole, data)
        compare_predictions(entry, "task 2: ", official, whole, data)
        compare_live_test(entry, official, whole, data)
    return entry


def compare_live_test(entry: Entry, official: Official, whole: SMoPE, data: Images) -> None:
    """The official test inside the training loop, where counts are known: our ``mask_unused=always``."""
    masked = ours_from(official, mask_unused="always")
    enter_quietly(masked, whole.task_index, whole)
    with torch.no_grad():
        theirs = official.model(data.test)[:, : TASKS * CLASSES]
    entry.add("task 2: logits of the test in the training loop", masked.predict(Batch(data.test)), theirs)


DEVIATIONS = [
    (
        "the backbone is frozen",
        "the official code leaves it out of the optimiser but computes and keeps its gradients; results are the same",
    ),
    (
        "alignment draws only the pseudo-features that are read",
        "the official loop draws n of every class, shuffles and reads as many batches as there are old classes; labels are"
        " drawn first here and features after: the same distribution, compared above with the same draws on both sides",
    ),
    (
        "alignment is diagonal without a matrix",
        "the official code samples from a dense Gaussian with a diagonal covariance",
    ),
    (
        "class variances in double precision",
        "a streaming pass with sums in float64 stands for a float32 two-pass computation on kept features",
    ),
    (
        "use counts, the mask and the old keys are in the checkpoint",
        "the official checkpoint loses them, so that a run cannot be continued; the published evaluation therefore handicaps no"
        " unused expert, which `mask_unused=stats_only` reproduces",
    ),
]


if __name__ == "__main__":
    run_adapter(make)
