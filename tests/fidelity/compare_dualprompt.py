"""DualPrompt beside the CODA-Prompt repository's ``DualPrompt``."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch

from smope_bench.methods.common.api import TaskInfo
from smope_bench.methods.common.prompts.pools import known_entry_loss
from smope_bench.methods.dualprompt import DualPrompt, DualPromptConfig
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

GENERAL, EXPERT = 6, 8
NOTE = f" General prompts of {GENERAL} tokens, {TASKS} experts of {EXPERT} tokens."
DEVIATIONS = [
    (
        "Odd prompt lengths are refused with the configuration",
        "the official code accepts them, makes more values than keys and fails inside attention",
    ),
    (
        "A positive weight decay is refused",
        "it would wear away the experts of other tasks, which rest only because their gradient is zero",
    ),
    (
        "The backbone asks for no gradients",
        "the official one gathers gradients that no optimiser ever reads; results are the same",
    ),
]


def compare(root: Path) -> Entry:
    """Query, logits, loss terms, gradients, parameters and predictions over two tasks."""
    with contextlib.redirect_stdout(sys.stderr):
        official = Official(root, "DualPrompt", "DualPrompt", [TASKS, EXPERT, GENERAL])
        config = DualPromptConfig(general_length=GENERAL, expert_length=EXPERT)
        method = DualPrompt(config, official.backbone(), official.setup())
        prompt = official.net.prompt
        pairs = [
            Pair("general prompts", method.general, [getattr(prompt, f"g_p_{block}") for block in (0, 1)]),
            Pair("expert prompts", method.experts.prompts, [getattr(prompt, f"e_p_{block}") for block in (2, 3, 4)]),
            Pair("expert keys", method.experts.keys, [getattr(prompt, f"e_k_{block}") for block in (2, 3, 4)]),
            Pair("classifier weight", method.head.weight, [official.net.last.weight]),
            Pair("classifier bias", method.head.bias, [official.net.last.bias]),
        ]
        adopt(pairs)
        entry = official.entry(method.name, method.card.title, NOTE)
        compare_rates(entry, official)
        _first_batch(entry, official, method)
        train_both(entry, official, method, pairs)
    entry.deviations = DEVIATIONS
    return entry


@torch.no_grad()
def _first_batch(entry: Entry, official: Official, method: DualPrompt) -> None:
    """Each term before any step; the loss terms are taken apart by the total loss and the key loss."""
    official.enter_task(0)
    method.enter_task(TaskInfo(0, range(CLASSES_A_TASK), (2,) * CLASSES_A_TASK))
    batch = make_batch(method.backbone, 0)
    _, cross_entropy, prompt_loss = official.training_terms(batch)
    key_loss = known_entry_loss(method.experts.scores(batch.features), 0)
    entry.add("query", batch.features, official.query(batch.images))
    entry.add("test logits before training", method.predict(batch), official.test_logits(batch.images))
    entry.add("cross-entropy", method.training_step(batch) - key_loss, cross_entropy)
    entry.add("key loss", key_loss, prompt_loss)
    official.learner.valid_out_dim = 0


if __name__ == "__main__":
    run_adapter(compare)
