"""Prompt experts: prefix pairs of which each image uses only the best few (SMoPE card, sections 2 and 3).

One proxy score an expert, from the mean query of its head, serves all tokens of an image.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from smope_bench.methods.common.prefix import prepend
from smope_bench.methods.common.prompts.prefix_logits import attend_with_shared_logits
from smope_bench.methods.common.vit.attention import attend
from smope_bench.methods.common.vit.attention_rules import Recorder, of_images

Form = Literal["logprob", "prob"]


@dataclass(frozen=True)
class Choice:
    """Routing of one block: ``scores`` (B, heads, P), unscaled; ``selected`` (B, heads, P), boolean."""

    scores: Tensor
    selected: Tensor


@dataclass(frozen=True)
class Handicap:
    """Subtracted from the scores for the selection only; each field broadcasts to (B, heads, P).

    ``of_range`` counts in units of an image's score range in that head, ``absolute`` in units of the score.
    """

    of_range: Tensor | None = None
    absolute: Tensor | None = None

    def apply(self, scores: Tensor) -> Tensor:
        """Selection scores, without a graph."""
        lowered = scores.detach()
        if self.of_range is not None:
            lowered = lowered - self.of_range * score_range(scores)
        if self.absolute is not None:
            lowered = lowered - self.absolute
        return lowered

    def part(self, rows: slice) -> Handicap:
        """For some of the images."""
        fields = (self.of_range, self.absolute)
        return Handicap(*(None if field is None else of_images(field, rows, 2) for field in fields))


class SparseExperts:
    """Attention rule of one block: ``top_k`` of the P experts of each head join the tokens (top_k <= 0: all)."""

    def __init__(
        self,
        keys: Tensor,
        values: Tensor,
        top_k: int,
        handicap: Handicap,
        *,
        per_token: bool = False,
        record: Recorder[Choice] | None = None,
    ) -> None:
        self.keys = keys
        self.values = values
        self.top_k = top_k
        self.handicap = handicap
        self.per_token = per_token
        self.record = record

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Head outputs (B, heads, N, head_dim); the routing is recorded."""
        scores = proxy_scores(q, self.keys)
        selected = select(self.handicap.apply(scores), self.top_k)
        if self.record is not None:
            self.record(Choice(scores, selected))
        if self.per_token:
            return self._attend_per_token(q, k, v, selected)
        logits = (scores * q.shape[-1] ** -0.5).masked_fill(~selected, -torch.inf)
        return attend_with_shared_logits(q, k, v, logits, self.values)

    def part(self, rows: slice) -> SparseExperts:
        """The rule for some of the images."""
        part = copy.copy(self)
        part.handicap = self.handicap.part(rows)
        part.record = None if self.record is None else self.record.part(rows)
        return part

    def _attend_per_token(self, q: Tensor, k: Tensor, v: Tensor, selected: Tensor) -> Tensor:
        mask = None
        if self.top_k > 0:
            mask = F.pad(selected, (0, k.shape[2]), value=True)[:, :, None]
        return attend(q, prepend(self.keys, k), prepend(self.values, v), mask=mask)


def proxy_scores(q: Tensor, keys: Tensor) -> Tensor:
    """Unscaled score of each expert by the mean of all queries, class token included: (B, heads, P), float32."""
    with torch.autocast(q.device.type, enabled=False):
        return torch.einsum("bhe,hpe->bhp", q.float().mean(dim=2), keys.float())


def score_range(scores: Tensor) -> Tensor:
    """Largest minus smallest score of a head, without a graph: (..., 1)."""
    detached = scores.detach()
    return detached.amax(dim=-1, keepdim=True) - detached.amin(dim=-1, keepdim=True)


def select(scores: Tensor, top_k: int) -> Tensor:
    """Boolean mask of the ``top_k`` largest entries along the last dimension; all of them where top_k <= 0."""
    if top_k <= 0:
        return torch.ones_like(scores, dtype=torch.bool)
    indices = scores.topk(min(top_k, scores.shape[-1]), dim=-1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, indices, True)


def router_loss(scores: Tensor, selected: Tensor, margin: float, form: Form = "logprob") -> Tensor:
    """Raise the chosen experts' scores above the others': scalar, summed over heads and choices, mean over the batch.

    ``scores``, ``selected``: (L, B, heads, P). Experts that were not chosen are first raised by ``margin`` times the range.
    ``logprob`` is the code's cross-entropy, ``prob`` the paper's Eq. 14.
    """
    raised = scores + margin * score_range(scores) * ~selected
    return -_picked(raised, selected, form).sum(dim=(0, 2, 3)).mean()


def prototype_loss(
    keys: Tensor,
    old_keys: Tensor,
    important: Tensor,
    top_k: int,
    *,
    form: Form = "logprob",
    target: Literal["old", "current"] = "old",
    reduce: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Keep the scores that the old important keys, as queries, get from the keys: scalar, summed over layers and heads.

    ``keys``, ``old_keys``: (L, heads, P, head_dim); ``important``: boolean (L, heads, P), whose old keys act as queries.
    """
    old_keys = old_keys.detach()
    with torch.autocast(keys.device.type, enabled=False):
        now = torch.einsum("lhue,lhpe->lhup", old_keys, keys.to(old_keys.dtype))  # autocast may have changed their type
        then = torch.einsum("lhue,lhpe->lhup", old_keys, old_keys)
    targets = select(then if target == "old" else now.detach(), top_k)
    each = -_picked(now, targets, form).sum(dim=-1) * important
    total = each.sum(dim=-1)
    if reduce == "mean":
        total = total / important.sum(dim=-1).clamp(min=1)
    return total.sum()


def _picked(scores: Tensor, selected: Tensor, form: Form) -> Tensor:
    """(Log-)probabilities of the selected entries, 0 elsewhere."""
    probabilities = scores.log_softmax(dim=-1) if form == "logprob" else scores.softmax(dim=-1)
    return probabilities * selected
