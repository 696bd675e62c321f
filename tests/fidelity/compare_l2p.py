"""L2P++ and Deep L2P++ beside the CODA-Prompt repository's ``L2P``."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch

from smope_bench.methods.common.api import TaskInfo
from smope_bench.methods.common.classifier import current_task_loss
from smope_bench.methods.common.prompts.pools import choose, pull_loss_over_batch
from smope_bench.methods.l2p import L2P, DeepL2P, DeepL2PConfig, L2PConfig
from tests.fidelity.coda_prompt_repository import (  # pyright: ignore[reportMissingImports]
    CLASSES_A_TASK,
    Official,
    Pair,
    adopt,
    compare_rates,
    make_batch,
    train_both,
)
from tests.fidelity.ledger import Entry, run_adapter  # pyright: ignore[reportMissingImports]

POOL, LENGTH = 10, 8
NOTE = f" Pool of {POOL} entries of {LENGTH} tokens, five chosen; both the shallow and the deep variant."
DEVIATIONS = [
    (
        "The pull loss is computed from the use counts and the sum of cosines",
        "the same sum over all images and all choices of the batch, without a table of B x B x 5 distances",
    ),
    (
        "The pull loss always spans the whole batch",
        "the official scripts split a batch over four GPUs, and each part has a pull loss of its own",
    ),
    (
        "The backbone asks for no gradients",
        "the official one gathers gradients that no optimiser ever reads; results are the same",
    ),
]


def compare(root: Path) -> Entry:
    """Both depths, on one page."""
    with contextlib.redirect_stdout(sys.stderr):
        entry = _variant(root, L2P, L2PConfig(pool_size=POOL, length=LENGTH), -1, None)
        entry = _variant(root, DeepL2P, DeepL2PConfig(pool_size=POOL, length=LENGTH), 1, entry)
    entry.deviations = DEVIATIONS
    return entry


def _variant(root: Path, kind: type[L2P], config: L2PConfig, depth: float, entry: Entry | None) -> Entry:
    official = Official(root, "L2P", "L2P", [POOL, LENGTH, depth])
    method = kind(config, official.backbone(), official.setup())
    prompt, blocks = official.net.prompt, range(config.prompt_blocks)
    pairs = [
        Pair("prompts", method.pool.prompts, [getattr(prompt, f"e_p_{block}") for block in blocks]),
        Pair("keys", method.pool.keys, [getattr(prompt, f"e_k_{block}") for block in blocks]),
        Pair("classifier weight", method.head.weight, [official.net.last.weight]),
        Pair("classifier bias", method.head.bias, [official.net.last.bias]),
    ]
    adopt(pairs)
    if entry is None:
        entry = official.entry(method.name, "L2P++ and Deep L2P++", NOTE)
        compare_rates(entry, official)
    _first_batch(entry, official, method)
    train_both(entry, official, method, pairs, f"{method.card.title}, ")
    return entry


@torch.no_grad()
def _first_batch(entry: Entry, official: Official, method: L2P) -> None:
    """Query, logits and each loss term before any step; leaves both sides before their first task."""
    official.enter_task(0)
    method.enter_task(TaskInfo(0, range(CLASSES_A_TASK), (2,) * CLASSES_A_TASK))
    batch, tag = make_batch(method.backbone, 0), method.card.title
    scores = method.pool.scores(batch.features)
    logits, cross_entropy, prompt_loss = official.training_terms(batch)
    ours = method.predict(batch)
    entry.add(f"{tag}: query", batch.features, official.query(batch.images))
    entry.add(f"{tag}: training logits", ours, logits[:, :CLASSES_A_TASK])
    entry.add(f"{tag}: cross-entropy", current_task_loss(ours, batch.targets, 0), cross_entropy)
    entry.add(f"{tag}: pull loss", pull_loss_over_batch(scores, choose(scores, method.config.top_k)), prompt_loss)
    official.learner.valid_out_dim = 0


if __name__ == "__main__":
    run_adapter(compare)
