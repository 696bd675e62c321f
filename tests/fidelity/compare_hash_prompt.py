"""Hash beside a second reading of its card: plain loops in float64, gradients by central differences.

The authors' code is not public, so this finds mistakes of ours, not differences from theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import erf
from torch import Tensor

from smope_bench.methods.common.alignment.centroids import make_statistics
from smope_bench.methods.common.alignment.class_stats import ClassStatistics
from smope_bench.methods.common.api import Batch, Phase, Setup, TaskInfo
from smope_bench.methods.common.backbone.backbones import MICRO
from smope_bench.methods.common.schedules import Schedule, adamw
from smope_bench.methods.hash_prompt import HashPrompt, HashPromptConfig
from tests.fidelity.ledger import Entry, run_adapter  # pyright: ignore[reportMissingImports]

Arrays = dict[str, Any]
STEPS, RATE, DELTA, BETA, TOP_K = 3, 0.05, 0.4, 0.1, 2
LAYERS = (1, 3)
COUNTS = (7, 1, 5, 0)
HOT = (0, 2)


def norm(x: Any, w: Arrays, name: str) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x: Any, w: Arrays, name: str) -> Any:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def embed(image: Any, w: Arrays, patch: int) -> Any:
    """Class token and patches of one image, with positions: (N, d)."""
    kernel, tokens = w["patch_embed.proj.weight"], [w["cls_token"][0, 0]]
    for top in range(0, image.shape[1], patch):
        for left in range(0, image.shape[2], patch):
            window = image[:, top : top + patch, left : left + patch]
            tokens.append((kernel * window).sum((1, 2, 3)) + w["patch_embed.proj.bias"])
    return np.stack(tokens) + w["pos_embed"][0]


def pick(tokens: Any, router: Any, penalty: Any) -> tuple[list[int], list[float]]:
    """Chosen prompts and their weights (card, sections 4 to 6)."""
    each = [[token @ router[:, m] / len(token) ** 0.5 for m in range(router.shape[1])] for token in tokens]
    scores = np.mean(each, axis=0) - penalty
    chosen = sorted(range(len(scores)), key=lambda m: (-scores[m], m))[:TOP_K]
    total = sum(np.exp(scores[m]) for m in chosen)
    return chosen, [float(np.exp(scores[m]) / total) for m in chosen]


def attention(x: Any, w: Arrays, name: str, heads: int, prefix: Any | None) -> Any:
    """Self-attention of one image; ``prefix`` is (2, heads, P, head_dim)."""
    q, k, v = np.split(linear(x, w, f"{name}.qkv"), 3, axis=-1)
    size, outputs = x.shape[1] // heads, []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        keys, values = k[:, part], v[:, part]
        if prefix is not None:
            keys, values = np.vstack([prefix[0, head], keys]), np.vstack([prefix[1, head], values])
        logits = q[:, part] @ keys.T / size**0.5
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        outputs.append(powers / powers.sum(-1, keepdims=True) @ values)
    return linear(np.hstack(outputs), w, f"{name}.proj")


def feature(image: Any, w: Arrays, p: Arrays, penalty: Any, heads: int) -> tuple[Any, list[int]]:
    """Prompted class-token feature of one image, and its prompts."""
    x = embed(image, w, w["patch_embed.proj.weight"].shape[-1])
    chosen, weights = pick(norm(x, w, "blocks.0.norm1"), p["router"], penalty)
    for block in range(6):
        prefix = None
        if block + 1 in LAYERS:
            stored = p["pool"][LAYERS.index(block + 1)]
            prefix = sum(weight * stored[:, m] for weight, m in zip(weights, chosen, strict=True))
        x = x + attention(norm(x, w, f"blocks.{block}.norm1"), w, f"blocks.{block}.attn", heads, prefix)
        hidden = linear(norm(x, w, f"blocks.{block}.norm2"), w, f"blocks.{block}.mlp.fc1")
        x = x + linear(hidden * (1 + erf(hidden / 2**0.5)) / 2, w, f"blocks.{block}.mlp.fc2")
    return norm(x[0], w, "norm"), chosen


def loss_of(images: Any, labels: list[int], w: Arrays, p: Arrays, penalty: Any, heads: int) -> float:
    """Cross-entropy over classes 2 and 3, the current task's."""
    total = 0.0
    for image, label in zip(images, labels, strict=True):
        logits = p["weight"] @ feature(image, w, p, penalty, heads)[0] + p["bias"]
        total += np.log(np.exp(logits[2:4]).sum()) - logits[label]
    return total / len(labels)


def gradients(images: Any, labels: list[int], w: Arrays, p: Arrays, penalty: Any, heads: int) -> Arrays:
    """Central differences, element by element."""
    found, step = {}, 1e-5
    for name, values in p.items():
        found[name] = np.zeros_like(values)
        for place in np.ndindex(values.shape):
            kept, sides = values[place], []
            for side in (step, -step):
                values[place] = kept + side
                sides.append(loss_of(images, labels, w, p, penalty, heads))
            values[place] = kept
            found[name][place] = (sides[0] - sides[1]) / (2 * step)
    return found


def ours(vit: Any) -> HashPrompt:
    """A method at the start of its second task, after a first one that used its prompts as the card's example has it."""
    config = HashPromptConfig(
        pool_size=4, top_k=TOP_K, prefix_len=1, layers=LAYERS, delta=DELTA, beta=BETA, router_select="latest"
    )
    method = HashPrompt(config, vit, Setup(4, 2, Schedule(lr=RATE)))
    for index in range(2):
        task = TaskInfo(index, range(2 * index, 2 * index + 2), (2, 2))
        method.enter_task(task)
        method.begin_task(task)
        if index == 0:
            method.history.counts[0, 0] = torch.tensor(COUNTS)
            method.history.routed[0] = 7
    method.begin_phase(Phase("prompts", 1))
    return method


def learnables(method: HashPrompt) -> dict[str, Tensor]:
    return {
        "pool": method.pool.prompts,
        "router": method.pool.routers[1],
        "weight": method.head.weight,
        "bias": method.head.bias,
    }


def arrays(method: HashPrompt) -> Arrays:
    """Their parameters: a float64 copy of ours, the router without its slot."""
    copied = {name: value.detach().double().numpy().copy() for name, value in learnables(method).items()}
    return copied | {"router": copied["router"][0]}


def compare(official: Path) -> Entry:
    """Three steps of a braked second task, then features and choices of new images."""
    del official
    vit = MICRO.load()
    w = {name: value.double().numpy() for name, value in vit.vit.state_dict().items()}
    method, heads = ours(vit), vit.num_heads
    p = arrays(method)
    penalty = np.array([DELTA if m in HOT else 0.0 for m in range(4)])
    entry = Entry(
        "hash_prompt",
        "Hash",
        "none: the authors' code is not public; compared with an independent loop implementation of the card",
        "none",
        f"Micro ViT (6 blocks, width 24, 2 heads); second of two tasks; blocks {LAYERS}; 4 prompts of 1 + 1 rows, 2 an image;"
        f" uses before {COUNTS}, delta {DELTA}, beta {BETA}; {STEPS} Adam steps of batch 3 at rate {RATE}.",
    )
    groups = method.parameter_groups()
    optimizer = adamw([(group.parameters, RATE * group.lr_multiplier) for group in groups], method.setup.schedule)
    moments = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in p.items()}
    uses = np.zeros(4, dtype=int)
    for step in range(1, STEPS + 1):
        images, labels = torch.rand(3, 3, 16, 16), [2, 3, 2]
        loss = method.training_step(Batch(images, torch.tensor(labels)))
        optimizer.zero_grad()
        loss.backward()
        pixels = images.double().numpy()
        theirs = gradients(pixels, labels, w, p, penalty, heads)
        for image in pixels:
            uses[feature(image, w, p, penalty, heads)[1]] += 1
        if step in (1, STEPS):
            entry.add(f"loss, step {step}", loss, loss_of(pixels, labels, w, p, penalty, heads))
            for name, value in learnables(method).items():
                assert value.grad is not None
                entry.add(f"gradient of {name}, step {step}", value.grad.reshape(p[name].shape), theirs[name])
        method.apply_step(optimizer)
        _adam(p, theirs, moments, step)
    for name, value in learnables(method).items():
        entry.add(f"{name} after {STEPS} steps", value.reshape(p[name].shape), p[name])
    entry.add("uses of the prompts", method.history.counts[1, 0], torch.from_numpy(uses))
    _compare_statistics(entry, method, w, p, penalty)
    entry.deviations += [
        ("everything", "the card is itself a reading of summaries of the paper; its choices are listed there"),
        ("`router_select=oracle` is left out", "no method is told the task of a test image"),
        ("the embedding is computed twice", "once for the router and once in the prompted pass: under 1 % of a pass"),
    ]
    return entry


def _adam(p: Arrays, gradient: Arrays, moments: Arrays, step: int) -> None:
    """One step of Adam, the pool's shortened for hot prompts (card, section 9.1)."""
    for name, value in p.items():
        first, second = moments[name]
        first[...] = 0.9 * first + 0.1 * gradient[name]
        second[...] = 0.999 * second + 0.001 * gradient[name] ** 2
        rate = RATE * (0.1 if name in ("weight", "bias") else 1.0)
        change = rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        if name == "pool":
            change[:, :, list(HOT)] *= BETA
        np.subtract(value, change, out=value)


@torch.no_grad()
def _compare_statistics(entry: Entry, method: HashPrompt, w: Arrays, p: Arrays, penalty: Any) -> None:
    images = torch.rand(10, 3, 16, 16)
    labels = torch.arange(10) % 2 + 2
    rows = [feature(image, w, p, penalty, method.backbone.num_heads)[0] for image in images.double().numpy()]
    entry.add(
        "logits at test", method.predict(Batch(images)), torch.from_numpy(np.stack(rows) @ p["weight"].T + p["bias"])
    )
    tasks = torch.full((10,), 1)
    features = method._features(images, tasks, method._test_penalty())
    statistics = make_statistics("full", 4, method.backbone.feature_dim)
    statistics.collect(range(2, 4), [(features, labels)])
    assert isinstance(statistics, ClassStatistics)
    for label in (2, 3):
        members = np.stack([row for row, mine in zip(rows, labels.tolist(), strict=True) if mine == label])
        expected = torch.from_numpy(members.mean(0))
        entry.add(f"mean of class {label}", statistics.mean[label], expected)
        expected = torch.from_numpy(np.cov(members, rowvar=False))
        entry.add(f"covariance of class {label}", statistics.covariance[label], expected)


if __name__ == "__main__":
    run_adapter(compare)
