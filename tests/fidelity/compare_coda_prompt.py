"""CODA-Prompt beside the CODA-Prompt repository's ``CodaPrompt``: slices, losses, gradients, steps and predictions."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from smope_bench.methods.coda_prompt import CODAPrompt, CODAPromptConfig, ortho_penalty
from smope_bench.methods.common.api import TaskInfo
from smope_bench.methods.common.classifier import current_task_loss
from tests.fidelity.coda_prompt_repository import (  # pyright: ignore[reportMissingImports]
    CLASSES_A_TASK,
    TASKS,
    Official,
    Pair,
    adopt,
    compare_rates,
    make_batch,
    train_both,
)
from tests.fidelity.ledger import Entry, run_adapter  # pyright: ignore[reportMissingImports]

COMPONENTS, LENGTH, ORTHO_WEIGHT = 10, 8, 0.1
SLICE = COMPONENTS // TASKS
NOTE = (
    f" {COMPONENTS} components of {LENGTH} tokens, slices of {SLICE}, one component left over; without the orthogonality penalty"
    f" (the published setting) and with a weight of {ORTHO_WEIGHT}. Both sides make their slices from the same draws, the second"
    " task's beside the rows that each has trained itself. Without the penalty nothing is copied between them after the start;"
    " with it, once more at the start of the second task: rows start orthonormal, where the penalty's gradient is nothing but"
    " rounding, and Adam's step shows the sign of it."
)
DEVIATIONS = [
    (
        "A row that has all but vanished is left out of Gram-Schmidt's projections",
        "the official code draws again until it is long enough, and so never ends where a trained row is short",
    ),
    (
        "More rows than dimensions start a new orthogonal set",
        "the official code never ends there; it cannot happen at width 768 with 100 components",
    ),
    (
        "New rows are written into the same parameters",
        "the official code makes new parameter objects; the optimiser is new for each task on both sides",
    ),
    (
        "Weights come from two matrix products",
        "the same cosines without a table of masked queries, one for each image and component",
    ),
    (
        "The penalty counts once a batch",
        "each of the official scripts' four GPUs adds its own copy; its published weight is 0",
    ),
    (
        "A positive weight decay is refused",
        "frozen components would decay; the official setting is 0",
    ),
    (
        "The backbone asks for no gradients",
        "the official one gathers gradients that no optimiser ever reads; results are the same",
    ),
]


class Draws:
    """The random rows of one official task, (L, slice, d) for each kind, in the order in which our side asks for them."""

    def __init__(self) -> None:
        self.recorded: list[Tensor] = []

    def recording(self) -> Any:
        """Note whatever ``torch.randn_like`` gives."""
        original = torch.randn_like
        self.recorded = []

        def noted(like: Tensor) -> Tensor:
            drawn = original(like)
            self.recorded.append(drawn.detach().clone())
            return drawn

        return mock.patch.object(torch, "randn_like", noted)

    def replaying(self, blocks: int) -> Any:
        """Give the same rows to our side. A block's three runs of rows are told apart by width: components are the widest."""
        runs = [torch.stack(self.recorded[i * SLICE : (i + 1) * SLICE]) for i in range(3 * blocks)]
        by_block = [sorted(runs[3 * b : 3 * b + 3], key=lambda rows: -rows.shape[1]) for b in range(blocks)]
        packed = [torch.stack(kind) for kind in zip(*by_block, strict=True)]
        return mock.patch.object(torch, "randn_like", mock.Mock(side_effect=packed))


class RecordedOfficial(Official):
    """The official side, with its draws noted and its pairs renewed when it replaces its parameters."""

    def __init__(self, root: Path, ortho_weight: float) -> None:
        self.draws = Draws()
        self.pairs: list[Pair] = []
        with self.draws.recording():
            super().__init__(root, "CODAPrompt", "CodaPrompt", [COMPONENTS, LENGTH, ortho_weight])

    def enter_task(self, index: int) -> None:
        """As the official trainer does; a first task keeps the draws of the construction."""
        if index == 0:
            super().enter_task(index)
            return
        with self.draws.recording():
            super().enter_task(index)
        for pair, prefix in zip(self.pairs, ("e_p", "e_k", "e_a"), strict=False):
            pair.theirs[:] = self.rows(prefix)

    def rows(self, prefix: str) -> list[Any]:
        """One kind of the official parameters, block by block."""
        return [getattr(self.net.prompt, f"{prefix}_{block}") for block in self.net.prompt.e_layers]


class Replaying(CODAPrompt):
    """Our side with the official draws; its slices are compared as they are made."""

    official: RecordedOfficial
    entry: Entry
    tag: str

    def begin_task(self, task: TaskInfo) -> None:
        """Write the slice from the official draws."""
        with self.official.draws.replaying(self.config.prompt_blocks):
            super().begin_task(task)
        for pair in self.official.pairs[:3]:
            self.entry.add(f"{self.tag}task {task.index + 1}: {pair.name} at its start", pair.ours, pair.official())
        if self.config.ortho_weight > 0:
            adopt(self.official.pairs)
            self._compare_penalty(task.index)

    @torch.no_grad()
    def _compare_penalty(self, task: int) -> None:
        """In the second task it is large: rows that a task has trained are no longer orthonormal."""
        ours = self.config.ortho_weight * sum(ortho_penalty(rows.flatten(2)) for rows in self._visible())
        _, _, theirs = self.official.training_terms(make_batch(self.backbone, task))
        self.entry.add(f"{self.tag}task {task + 1}: penalty at its start", ours, theirs)


def compare(root: Path) -> Entry:
    """Without and with the penalty, on one page."""
    with contextlib.redirect_stdout(sys.stderr):
        entry = _variant(root, 0.0, "", None)
        entry = _variant(root, ORTHO_WEIGHT, "with penalty, ", entry)
    entry.deviations = DEVIATIONS
    return entry


def _variant(root: Path, ortho_weight: float, tag: str, entry: Entry | None) -> Entry:
    official = RecordedOfficial(root, ortho_weight)
    config = CODAPromptConfig(components=COMPONENTS, length=LENGTH, ortho_weight=ortho_weight)
    method = Replaying(config, official.backbone(), official.setup())
    official.pairs = [
        Pair("components", method.components, official.rows("e_p")),
        Pair("keys", method.keys, official.rows("e_k")),
        Pair("attention vectors", method.attention, official.rows("e_a")),
        Pair("classifier weight", method.head.weight, [official.net.last.weight]),
        Pair("classifier bias", method.head.bias, [official.net.last.bias]),
    ]
    adopt(official.pairs)
    if entry is None:
        entry = official.entry(method.name, "CODA-Prompt", NOTE)
        compare_rates(entry, official)
    method.official, method.entry, method.tag = official, entry, tag
    _first_batch(entry, official, method, tag)
    train_both(entry, official, method, official.pairs, tag)
    return entry


@torch.no_grad()
def _first_batch(entry: Entry, official: Official, method: Replaying, tag: str) -> None:
    """Query, logits and cross-entropy before any step; leaves both sides before their first task."""
    official.enter_task(0)
    method.enter_task(TaskInfo(0, range(CLASSES_A_TASK), (2,) * CLASSES_A_TASK))
    batch = make_batch(method.backbone, 0)
    logits, cross_entropy, _ = official.training_terms(batch)
    ours = method.predict(batch)
    entry.add(f"{tag}query", batch.features, official.query(batch.images))
    entry.add(f"{tag}training logits", ours, logits[:, :CLASSES_A_TASK])
    entry.add(f"{tag}cross-entropy", current_task_loss(ours, batch.targets, 0), cross_entropy)
    official.learner.valid_out_dim = 0


if __name__ == "__main__":
    run_adapter(compare)
