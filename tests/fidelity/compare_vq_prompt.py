"""VQ-Prompt beside its official implementation: one whole run of two tasks, and every loss and gradient on its own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from smope_bench.harness.training.optimization import declare_trainable
from smope_bench.methods.common.alignment.tap import TapConfig
from smope_bench.methods.common.api import Batch, Setup, TaskInfo
from smope_bench.methods.common.classifier import current_task_loss
from smope_bench.methods.common.vit.vit import PromptedViT
from smope_bench.methods.vq_prompt import VQPrompt, VQPromptConfig, quantise
from tests.fidelity.compare_smope import SCHEDULE, end, learn  # pyright: ignore[reportMissingImports]
from tests.fidelity.ledger import Entry, revision, run_adapter  # pyright: ignore[reportMissingImports]
from tests.fidelity.smope_repository import (  # pyright: ignore[reportMissingImports]
    BATCH,
    CLASSES,
    EPOCHS,
    FREEZE,
    STEPS,
    TAP_EPOCHS,
    TAP_RATIO,
    TASKS,
    VIT,
    Images,
    Official,
)

CODEWORDS, LENGTH, TEMPERATURE = 10, 8, 2.0
SETTING = (
    f"A ViT of width {VIT['embed_dim']}, {VIT['num_heads']} heads, {VIT['depth']} blocks and 32 px with random weights;"
    f" {CODEWORDS} codewords of {LENGTH} tokens in five blocks, temperature {TEMPERATURE:g}; {TASKS} tasks of {CLASSES} classes,"
    f" {BATCH * STEPS} images each, batch {BATCH}; {EPOCHS} epochs a task under the official schedule with {FREEZE} step at the"
    f" floor rate; {TAP_EPOCHS} epochs of alignment. Quantities named *run* come from {2 * EPOCHS * STEPS} optimiser steps,"
    " statistics and alignment without ever copying state between the two sides after the initialisation; all others are taken"
    " in one state that both share."
)


class QueriedImages(Images):
    """The same data with the frozen feature of each image, as the engine gives it."""

    backbone: PromptedViT

    def batches(self, *, shuffle: bool = False, drop_last: bool = False, augment: bool = True) -> Iterator[Batch]:
        return (self.queried(images, labels) for images, labels in self.parts())

    def queried(self, images: Tensor, labels: Tensor | None = None) -> Batch:
        return Batch(images, labels, self.backbone.features(images))


class OfficialVQ(Official):
    """The repository's learner and trainer around a small ViT."""

    def _make_learner(self, learners: Any) -> Any:
        return learners.VQPrompt(self._config() | {"prompt_param": [TASKS, [CODEWORDS, LENGTH, TEMPERATURE]]})

    def make(self, out_dim: int, prompt_flag: str, prompt_param: Any, pretrained: Any) -> Any:
        """The official wrapper, which knows ViT-B/16 alone, around smaller official parts."""
        width = VIT["embed_dim"]
        model = self.zoo.ViTZoo.__new__(self.zoo.ViTZoo)
        nn.Module.__init__(model)
        model.last, model.prompt_flag = nn.Linear(width, out_dim), prompt_flag
        model.task_id, model.pretrained = None, pretrained
        model.prompt = self.zoo.VQPrompt(width, *prompt_param, key_dim=width)
        model.feat = self.vit.VisionTransformer(**VIT)
        with torch.no_grad():  # sharper than the official initialisation, so that scores and gradients are not tiny
            for name, parameter in model.feat.named_parameters():
                if parameter.ndim > 1 and "embed" not in name:
                    parameter.normal_(std=0.15)
        return model

    def stacked(self, kind: str, what: str = "data") -> Tensor:
        """``e_p`` or ``e_k`` of all prompted blocks, or their gradients."""
        prompt = self.model.prompt
        return torch.stack([getattr(getattr(prompt, f"{kind}_{block}"), what) for block in prompt.e_layers])

    def chosen_codes(self, query: Tensor) -> Tensor:
        """Prompts (blocks, B, length, d) as the official module gives them to its blocks."""
        prompt = self.model.prompt
        with torch.no_grad():
            return torch.stack([torch.cat(prompt(query, block, None)[0], dim=1) for block in prompt.e_layers])

    def step_gradients(self, batch: Batch) -> Tensor:
        """Total loss by the official update with its optimiser held still; gradients stay in the model."""
        held = mock.Mock()
        held.zero_grad = self.model.zero_grad
        with mock.patch.object(self.learner, "optimizer", held):
            return self.learner.update_model(batch.images, batch.targets)[0]

    def loss_terms(self, batch: Batch, old: int, seen: int) -> tuple[Tensor, Tensor]:
        """Cross-entropy over the current classes, and the quantisation loss."""
        with torch.no_grad():
            logits, prompt_loss = self.model(batch.images, train=True)
        return nn.functional.cross_entropy(logits[:, old:seen], batch.targets - old), prompt_loss.sum()


def ours_from(official: OfficialVQ) -> VQPrompt:
    """Our method on the official side's weights."""
    vit = VisionTransformer(**VIT)
    vit.load_state_dict(official.model.feat.state_dict())
    tap = TapConfig(epochs=TAP_EPOCHS, samples=BATCH * TAP_RATIO)
    config = VQPromptConfig(codewords=CODEWORDS, length=LENGTH, temperature=TEMPERATURE, tap=tap)
    method = VQPrompt(config, PromptedViT(vit), Setup(TASKS * CLASSES, TASKS, SCHEDULE))
    share(official, method)
    return method


@torch.no_grad()
def share(official: OfficialVQ, method: VQPrompt) -> None:
    """Copy everything learnt from the official side."""
    method.pool.prompts.copy_(official.stacked("e_p"))
    method.pool.keys.copy_(official.stacked("e_k"))
    method.head.load_state_dict(official.model.last.state_dict())


def enter(method: VQPrompt, task: int) -> None:
    info = TaskInfo(task, range(task * CLASSES, (task + 1) * CLASSES), (BATCH * STEPS // CLASSES,) * CLASSES)
    method.enter_task(info)
    method.begin_task(info)


def compare_step(entry: Entry, stage: str, official: OfficialVQ, method: VQPrompt, data: QueriedImages) -> None:
    """Query, codes, each loss term and all gradients of one step in a state that both sides share."""
    share(official, method)
    batch, config = next(iter(data.batches())), method.config
    with torch.no_grad():
        entry.add(f"{stage}: query", batch.features, official.model.feat(batch.images)[0][:, 0])
        found = quantise(batch.features, method.pool.keys, method.pool.prompts, config.temperature)
    entry.add(f"{stage}: prompts of a batch", found.prompts, official.chosen_codes(batch.features))
    terms = official.loss_terms(batch, method.old_classes, method.seen_classes)
    cross_entropy = current_task_loss(method.predict(batch), batch.targets, method.old_classes)
    entry.add(f"{stage}: cross-entropy", cross_entropy, terms[0])
    entry.add(f"{stage}: quantisation loss", found.loss(config.mixture_weight, config.codeword_weight), terms[1])
    declare_trainable(method, method.parameter_groups())
    theirs = official.step_gradients(batch)
    loss = method.training_step(batch)
    loss.backward()
    entry.add(f"{stage}: total loss", loss, theirs)
    head, last = method.head, official.model.last
    gradients = {
        "codewords": (method.pool.prompts.grad, official.stacked("e_p", "grad")),
        "keys": (method.pool.keys.grad, official.stacked("e_k", "grad")),
        "classifier's weight": (head.weight.grad, last.weight.grad),
        "classifier's bias": (head.bias.grad, last.bias.grad),
    }
    for name, (mine, their) in gradients.items():
        assert mine is not None
        entry.add(f"{stage}: gradient of the {name}", mine, their)


def compare_run(entry: Entry, official: OfficialVQ, method: VQPrompt, data: QueriedImages) -> None:
    rates: list[list[float]] = []
    losses: list[float] = []
    generator = torch.Generator().manual_seed(2)
    for task in range(TASKS):
        seen, samples = (task + 1) * CLASSES, BATCH * TAP_RATIO
        noise = torch.randn(TAP_EPOCHS, seen, samples, VIT["embed_dim"], generator=generator)
        orders = torch.stack([torch.randperm(seen * samples, generator=generator) for _ in range(TAP_EPOCHS)])
        official.enter(task)
        enter(method, task)
        official.learn()
        ours: Any = method  # the shared loop is typed for the method of its own repository
        learn(ours, data, rates, losses)
        entry.add(f"run: codewords after the steps of task {task + 1}", method.pool.prompts, official.stacked("e_p"))
        entry.add(f"run: keys after the steps of task {task + 1}", method.pool.keys, official.stacked("e_k"))
        entry.add(f"run: classifier after the steps of task {task + 1}", method.head.weight, official.model.last.weight)
        official.align(task, noise, orders)
        end(ours, data, noise, orders)
    entry.add("run: learning rates of all steps", torch.tensor(rates), torch.tensor(official.rates))
    entry.add("run: loss of every step", torch.tensor(losses), torch.tensor(official.losses))
    for name, theirs in zip(("mean", "covariance"), official.statistics(), strict=True):
        entry.add(f"run: class {name}s", getattr(method.statistics, name), theirs)
    entry.add("run: classifier weights after alignment", method.head.weight, official.model.last.weight)
    entry.add("run: classifier biases after alignment", method.head.bias, official.model.last.bias)
    theirs = official.tested_as_published(data.test)
    mine = method.predict(data.queried(data.test))
    entry.add("run: test logits after two tasks", mine, theirs)
    entry.add("run: predictions after two tasks", mine.argmax(dim=1), theirs.argmax(dim=1))


def make(root: Path) -> Entry:
    """The whole comparison."""
    repository = root / "VQ-Prompt"
    entry = Entry("vq_prompt", "VQ-Prompt", "jiaolifengmi/VQ-Prompt", revision(repository), SETTING)
    entry.deviations += DEVIATIONS
    on_cpu = mock.patch.object(torch.Tensor, "cuda", lambda self: self.clone())
    with contextlib.redirect_stdout(sys.stderr), on_cpu:
        data = QueriedImages()
        official = OfficialVQ(repository, data)
        first = ours_from(official)
        data.backbone = first.backbone
        enter(first, 0)
        official.learner.valid_out_dim = CLASSES
        official.learner.data_weighting(None)
        compare_step(entry, "task 1", official, first, data)
        official.learner.valid_out_dim = 0
        whole = ours_from(official)
        compare_run(entry, official, whole, data)
        official.learner.last_valid_out_dim = CLASSES  # as it is while the second task is trained
        compare_step(entry, "task 2", official, whole, data)
    return entry


DEVIATIONS = [
    (
        "the nearest codeword is found from the codewords' Gram matrix, in double precision",
        "the same distances without a table of every image, codeword and entry; only exact ties could differ",
    ),
    (
        "the quantisation loss is not computed at test",
        "the official code computes it and throws it away",
    ),
    (
        "the backbone is frozen",
        "the official code leaves it out of the optimiser but computes and keeps its gradients; results are the same",
    ),
    (
        "alignment trains the classifier alone",
        "the official optimiser also holds the backbone, which has no gradient there and does not move",
    ),
    (
        "alignment draws only the pseudo-features that are read, and without a matrix",
        "the official loop draws n of every class from a dense Gaussian with a diagonal covariance and reads a part: the same"
        " distribution, compared above with the same draws on both sides",
    ),
    (
        "class means and variances by one streaming pass",
        "sums in float64 stand for k-means with one centre and a float32 two-pass computation on kept features",
    ),
    (
        "a run never loads an old checkpoint in place of training",
        "the official default does so silently where a folder of the same name exists",
    ),
]


if __name__ == "__main__":
    run_adapter(make)
