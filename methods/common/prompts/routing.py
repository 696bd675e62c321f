"""Routing an image to prompts of a shared pool, and mixing them into one prefix (Hash card, sections 4 and 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from smope_bench.methods.common.prefix import PlainPrefix
from smope_bench.methods.common.prompts.usage_history import top_mask
from smope_bench.methods.common.vit.attention_rules import Trace, of_images
from smope_bench.methods.common.vit.vit import AttentionRule, PromptedViT, TokenRule

PenaltyScope = Literal["both", "select_only"]
RouterInput = Literal["embed", "embed_raw", "per_layer", "frozen_final"]


@dataclass(frozen=True)
class Routing:
    """Scores before the penalty, choices (boolean) and mixing weights of a batch, each (B, M); weights sum to one."""

    scores: Tensor
    chosen: Tensor
    weights: Tensor

    def detached(self) -> Routing:
        """Without a graph."""
        return Routing(self.scores.detach(), self.chosen, self.weights.detach())

    @property
    def entropy(self) -> Tensor:
        """How evenly each image spreads its weight: (B,), in nats, without a graph."""
        return -torch.special.xlogy(self.weights.detach(), self.weights.detach()).sum(dim=-1)


def router_scores(inputs: Tensor, routers: Tensor) -> Tensor:
    """Scores (B, T, M) of mean tokens (B, d) by routers (T, d, M), over the root of d; float32.

    The mean over tokens of each token's scores is the score of the mean token.
    """
    with torch.autocast(inputs.device.type, enabled=False):
        return torch.einsum("bd,tdm->btm", inputs.float(), routers.float()) * inputs.shape[-1] ** -0.5


def route(scores: Tensor, penalty: Tensor | float, top_k: int, scope: PenaltyScope = "both") -> Routing:
    """Choose the ``top_k`` best of ``scores`` (B, M) less ``penalty``; softmax over the chosen, penalised or raw."""
    penalised = scores - penalty
    chosen = top_mask(penalised.detach(), top_k)
    base = penalised if scope == "both" else scores
    return Routing(scores, chosen, base.masked_fill(~chosen, -torch.inf).softmax(dim=-1))


@dataclass(frozen=True)
class Picker:
    """Routes images by the routers of ``tasks`` (B,), or by the mean of all routers where that is None.

    ``penalty``: (T, slots, M). Choices are recorded in ``trace``, a place a slot; ``first``: number of the first image.
    """

    tasks: Tensor | None
    penalty: Tensor
    top_k: int
    scope: PenaltyScope
    trace: Trace[Routing]
    first: int = 0

    def __call__(self, slot: int, scores: Tensor) -> Tensor:
        """Mixing weights (B, M) from a slot's scores (B, T, M) by all routers so far."""
        penalty = self.penalty[: scores.shape[1], slot]
        if self.tasks is None:
            scores, penalty = scores.mean(dim=1), penalty.mean(dim=0)
        else:
            own = torch.arange(len(self.tasks), device=self.tasks.device)
            scores, penalty = scores[own, self.tasks], penalty[self.tasks]
        found = route(scores, penalty, self.top_k, self.scope)
        # Detached: a graph that holds the rule, for recomputation, would be a reference cycle that is never freed.
        self.trace.note(slot, self.first, found.detached())
        return found.weights

    def part(self, rows: slice) -> Picker:
        """For some of the images."""
        tasks = None if self.tasks is None else of_images(self.tasks, rows, 0)
        return replace(self, tasks=tasks, first=rows.start)


def mix(weights: Tensor, pool: Tensor) -> Tensor:
    """Prefixes (L, 2, B, heads, P, e) of images with ``weights`` (B, M) from a pool (L, 2, M, heads, P, e); float32."""
    with torch.autocast(weights.device.type, enabled=False):
        return torch.einsum("bm,lkmhpe->lkbhpe", weights, pool)


class RoutedPrefix(TokenRule):
    """Prefix attention whose prefix depends on the block's own normalised input."""

    def __init__(self, prefix_of: Callable[[Tensor], Tensor]) -> None:
        """``prefix_of`` maps mean tokens (B, d) to keys and values (2, B, heads, P, head_dim)."""
        self._prefix_of = prefix_of
        self._prefix: PlainPrefix | None = None

    def read(self, tokens: Tensor) -> None:
        """Route by the mean of the tokens (B, N, d)."""
        keys, values = self._prefix_of(tokens.mean(dim=1))
        self._prefix = PlainPrefix(keys, values)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention over the prefix that the last ``read`` chose, and the tokens."""
        # Used once and released: otherwise the graph would hold this rule and the rule the graph.
        prefix, self._prefix = self._prefix, None
        if prefix is None:
            raise RuntimeError("a routed prefix was asked to attend before it was shown its block's tokens")
        return prefix(q, k, v)


class PickedPrefix(RoutedPrefix):
    """A routed prefix whose images each have routers of their own, by a ``Picker``."""

    def __init__(self, prefix_by: Callable[[Picker, Tensor], Tensor], pick: Picker) -> None:
        super().__init__(partial(prefix_by, pick))
        self._prefix_by = prefix_by
        self._pick = pick

    def part(self, rows: slice) -> PickedPrefix:
        return PickedPrefix(self._prefix_by, self._pick.part(rows))


class SharedPool(nn.Module):
    """Prompts (stored layers, 2, M, heads, P, head_dim) for all tasks, and a router (slots, d, M) for each task.

    A slot is a unit of routing: all prompted blocks together, or each block where routers read ``per_layer``. A ``tied`` pool
    has one stored layer for all blocks.
    """

    def __init__(
        self,
        backbone: PromptedViT,
        blocks: list[int],
        *,
        prompts: int,
        length: int,
        tasks: int,
        reads: RouterInput,
        tied: bool = False,
        bound: float = 1.0,
    ) -> None:
        """``blocks`` count from 0. Prompts start uniform in [-bound, bound), routers in [-1, 1)."""
        super().__init__()
        self.blocks = blocks
        self.reads = reads
        self.slots = len(blocks) if reads == "per_layer" else 1
        shape = (1 if tied else len(blocks), 2, prompts, backbone.num_heads, length, backbone.head_dim)
        self.prompts = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        routers = (torch.empty(self.slots, backbone.feature_dim, prompts).uniform_(-1, 1) for _ in range(tasks))
        self.routers = nn.ParameterList(routers)

    def features(self, backbone: PromptedViT, images: Tensor, tasks: int, pick: Picker) -> Tensor:
        """Prompted features (B, d); ``pick`` sees the scores of the first ``tasks`` routers."""
        rules: dict[int, AttentionRule]
        if self.reads == "per_layer":
            own = [partial(self._own_prefix, tasks, slot) for slot in range(self.slots)]
            rules = {block: PickedPrefix(each, pick) for block, each in zip(self.blocks, own, strict=True)}
        else:
            prefixes = mix(pick(0, self._scores(tasks, 0, self._read(backbone, images))), self.prompts)
            prefixes = prefixes.expand(len(self.blocks), *prefixes.shape[1:])
            rules = {block: PlainPrefix(*each) for block, each in zip(self.blocks, prefixes, strict=True)}
        return backbone(images, rules)

    def _own_prefix(self, tasks: int, slot: int, pick: Picker, inputs: Tensor) -> Tensor:
        return mix(pick(slot, self._scores(tasks, slot, inputs)), self.prompts[slot : slot + 1])[0]

    def _scores(self, tasks: int, slot: int, inputs: Tensor) -> Tensor:
        return router_scores(inputs, torch.stack([self.routers[task][slot] for task in range(tasks)]))

    def _read(self, backbone: PromptedViT, images: Tensor) -> Tensor:
        """Mean token (B, d) that the routers read, computed without prompts."""
        depth = backbone.depth if self.reads == "frozen_final" else 0
        return backbone.tokens(images, depth, norm=self.reads != "embed_raw").float().mean(dim=1)


class RoutingLog(nn.Module):
    """Statistics of routing in each task, in buffers, for comparison with delta (Hash card, sections 2 and 6).

    ``score_range`` (T, 2): median of largest minus smallest score in a task's first and last training batch.
    """

    score_range: Tensor
    entropy_sum: Tensor
    images: Tensor

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.register_buffer("score_range", torch.zeros(num_tasks, 2))
        self.register_buffer("entropy_sum", torch.zeros(num_tasks, dtype=torch.double))
        self.register_buffer("images", torch.zeros(num_tasks, dtype=torch.long))

    @torch.no_grad()
    def note(self, task: int, trace: Iterable[Routing]) -> None:
        """Add a training batch of ``task``; with routing per layer, of all layers."""
        decisions = list(trace)
        scores = torch.cat([each.scores.detach() for each in decisions])
        median = (scores.amax(dim=-1) - scores.amin(dim=-1)).median()
        self.score_range[task, 0] = torch.where(self.images[task] == 0, median, self.score_range[task, 0])
        self.score_range[task, 1] = median
        self.entropy_sum[task] += torch.cat([each.entropy for each in decisions]).sum()
        self.images[task] += len(scores)

    @property
    def entropy(self) -> Tensor:
        """Mean entropy of the mixing weights in each task: (T,)."""
        return self.entropy_sum / self.images.clamp(min=1)
