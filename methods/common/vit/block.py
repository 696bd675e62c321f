"""The computation of one frozen block, as it is or adapted, for all of its tokens or for the first ones alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from smope_bench.methods.common.vit.attention import attend
from smope_bench.methods.common.vit.attention_rules import TokenRule
from smope_bench.methods.common.vit.block_adaptation import QKV, UNCHANGED, BlockAdaptation, LowRank, Target
from smope_bench.methods.common.vit.frozen_linear import frozen_linear
from smope_bench.methods.common.vit.layer_norm import norm_for_products
from smope_bench.methods.common.vit.memory_plan import recomputed

if TYPE_CHECKING:  # importing timm takes longer than torch
    from timm.models.vision_transformer import Attention, Block


class Layout(NamedTuple):
    """Where the backbone's own tokens lie: ``first`` class and register tokens, kept extra ones, patches, further extra ones."""

    first: int
    start: int = 0
    end: int = 0

    def after(self, adaptation: BlockAdaptation, grown: int) -> Layout:
        """After a block that kept ``grown`` more tokens."""
        at_start = grown and adaptation.tokens is not None and adaptation.tokens.place == "start"
        return self._replace(start=self.start + grown) if at_start else self._replace(end=self.end + grown)

    def own(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, d) without the extra ones."""
        if not (self.start or self.end):
            return tokens
        patches = tokens[:, self.first + self.start : tokens.shape[1] - self.end]
        return torch.cat([tokens[:, : self.first], patches], dim=1)


class _Entered(NamedTuple):
    """A block's tokens with ``added`` extra ones from place ``at`` on, and the same after its first norm."""

    tokens: Tensor
    normed: Tensor
    layout: Layout
    at: int = 0
    added: int = 0


def enter_block(block: Block, tokens: Tensor, adaptation: BlockAdaptation, layout: Layout) -> _Entered:
    """What comes before a block's attention: extra tokens, the first norm, and what reads its output."""
    extra, at, added = adaptation.tokens, 0, 0
    if extra is not None:
        inserted = extra.beside(tokens)
        at, added = layout.first if extra.place == "start" else tokens.shape[1], inserted.shape[1]
        layout = layout._replace(start=layout.start + added * (extra.place == "start"))
        tokens = torch.cat([tokens[:, :at], inserted, tokens[:, at:]], dim=1)
    shifted, reads = adaptation.scale_shift.get("norm1"), [adaptation.reads] if adaptation.reads is not None else []
    if isinstance(adaptation.attention, TokenRule):
        reads.append(adaptation.attention.read)
    normed = block.norm1(tokens) if shifted or reads else norm_for_products(block.norm1, tokens)
    if shifted:
        normed = shifted(normed)
    for read in reads:
        read(normed)
    return _Entered(tokens, normed, layout, at, added)


def run_block(
    block: Block,
    tokens: Tensor,
    rotation: Tensor | None,
    adaptation: BlockAdaptation,
    layout: Layout,
    read: int | None = None,
    *,
    recomputes_mlp: bool = False,
) -> Tensor:
    """Tokens (B, N, d) through a block. With ``read``, the outputs of the first ``read`` tokens alone: (B, read, d).

    ``recomputes_mlp``: keep nothing of the MLP but its input, the tokens before the norm, for the backward pass.
    """
    attention, extra, rule = cast("Attention", block.attn), adaptation.tokens, adaptation.attention
    count = tokens.shape[1]
    tokens, normed, layout, at, added = enter_block(block, tokens, adaptation, layout)
    is_dropped = extra is not None and not extra.keep
    queries = count if read is None and is_dropped and at == count and rule is None else read
    # A rule may need every query, as for a mean of them, whatever is read of its output.
    asked = queries if rule is None else None
    q, k, v = _queries_keys_values(attention, normed, rotation, adaptation, layout, asked)
    heads = attend(q, k, v) if rule is None else rule(q, k, v)
    if queries:
        tokens, heads = tokens[:, :queries], heads[:, :, :queries]
    elif is_dropped:
        tokens, heads = _without(tokens, at, added, 1), _without(heads, at, added, 2)
    mlp = partial(recomputed, _mlp, may_draw=False) if recomputes_mlp else _mlp
    return _residuals(block, tokens, _leave_heads(attention, heads, adaptation), adaptation, mlp)


def _without(tensor: Tensor, at: int, count: int, dim: int) -> Tensor:
    """A tensor without ``count`` places from ``at`` on."""
    rest = tensor.shape[dim] - at - count
    if not rest:
        return tensor.narrow(dim, 0, at)
    return torch.cat([tensor.narrow(dim, 0, at), tensor.narrow(dim, at + count, rest)], dim=dim)


# -- attention ---------------------------------------------------------------------------------------------------------


def joined_projection(attention: Any) -> tuple[Tensor, Tensor | None]:
    """W_Q, W_K and W_V, one below the other, and their biases."""
    if attention.qkv is not None:
        bias = attention.qkv.bias
        if getattr(attention, "q_bias", None) is not None:
            bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
        return attention.qkv.weight, bias
    layers = attention.q_proj, attention.k_proj, attention.v_proj
    biases = [layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias for layer in layers]
    return torch.cat([layer.weight for layer in layers]), torch.cat(biases)


def _queries_keys_values(
    attention: Any,
    normed: Tensor,
    rotation: Tensor | None,
    adaptation: BlockAdaptation,
    layout: Layout,
    queries: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What the attention product takes: the first ``queries`` queries, or all of them, and all keys and values.

    The rotary embedding turns queries and keys of patches, never those of a prompt.
    """
    is_plain = not adaptation.changes_products
    if is_plain and (queries is None or rotation is not None or attention.qkv is None or _has_own_bias(attention)):
        q, k, v = _heads(attention, normed)
        q = q if queries is None else q[:, :, :queries]
    else:
        q, k, v = _projected(attention, normed, adaptation, queries)
    q, k = attention.q_norm(q), attention.k_norm(k)
    if rotation is not None:
        q, k = (_rotated(attention, part, rotation, layout).type_as(v) for part in (q, k))
    return q, k, v


def _has_own_bias(attention: Any) -> bool:
    return getattr(attention, "q_bias", None) is not None


def _heads(attention: Any, tokens: Tensor) -> tuple[Tensor, ...]:
    """Project tokens (B, N, d) to q, k and v, each (B, heads, N, head_dim); q and k are not normalised yet."""
    batch, count, _ = tokens.shape
    if attention.qkv is None:
        projected = (layer(tokens) for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
        shape = batch, count, attention.num_heads, attention.head_dim
        return tuple(part.view(shape).transpose(1, 2) for part in projected)
    joined = frozen_linear(tokens, *joined_projection(attention)) if _has_own_bias(attention) else attention.qkv(tokens)
    qkv = joined.view(batch, count, 3, attention.num_heads, attention.head_dim)
    return qkv.permute(2, 0, 3, 1, 4).unbind(0)


def _projected(
    attention: Any, normed: Tensor, adaptation: BlockAdaptation, queries: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``_heads``, with changed weights and low-rank updates, and without queries that are not asked for."""
    weight, bias = joined_projection(attention)
    weight, width = adaptation.weights.get("qkv", weight), len(weight) // 3
    found: list[Tensor] = []
    for targets, update in _groups(adaptation, splits_queries=queries is not None):
        rows = slice(len(found) * width, (len(found) + len(targets)) * width)
        seen = normed[:, :queries] if "q" in targets else normed
        made = _with_update(frozen_linear(seen, weight[rows], None if bias is None else bias[rows]), seen, update)
        if targets[0] in adaptation.scale_shift:
            made = adaptation.scale_shift[targets[0]](made)
        by_head = made.view(*made.shape[:2], len(targets), attention.num_heads, attention.head_dim)
        found += by_head.permute(2, 0, 3, 1, 4).unbind(0)
    q, k, v = found
    return q, k, v


def _groups(adaptation: BlockAdaptation, *, splits_queries: bool) -> list[tuple[list[Target], LowRank | None]]:
    """Neighbours among q, k and v that one product gives, with their update: those that share ``down``, or have none."""
    groups: list[tuple[list[Target], LowRank | None]] = []
    for target in QKV:
        update = adaptation.low_rank.get(target)
        if not groups or (splits_queries and target == "k"):
            groups.append(([target], update))
            continue
        targets, before = groups[-1]
        is_alone = not adaptation.scale_shift.keys().isdisjoint({targets[-1], target})
        if not is_alone and update is None and before is None:
            groups[-1] = [*targets, target], None
        elif not is_alone and update is not None and before is not None and update.down is before.down:
            groups[-1] = [*targets, target], LowRank(update.down, torch.cat([before.up, update.up]))
        else:
            groups.append(([target], update))
    return groups


def _with_update(outputs: Tensor, inputs: Tensor, update: LowRank | None) -> Tensor:
    """``outputs`` (B, N, rows) and the product of a low-rank update."""
    if update is None:
        return outputs
    reduced = F.linear(inputs, update.down)
    return torch.addmm(outputs.flatten(0, 1), reduced.flatten(0, 1), update.up.T).view_as(outputs)


def _rotated(attention: Any, heads: Tensor, rotation: Tensor, layout: Layout) -> Tensor:
    from timm.layers import apply_rot_embed_cat

    first = attention.num_prefix_tokens + layout.start
    if heads.shape[2] <= first:  # queries of the first tokens alone
        return heads
    last = first + rotation.shape[-2]
    patches = apply_rot_embed_cat(heads[:, :, first:last], rotation, half=attention.rotate_half)
    return torch.cat([heads[:, :, :first], patches, *([heads[:, :, last:]] if heads.shape[2] > last else [])], dim=2)


def _leave_heads(attention: Attention, heads: Tensor, adaptation: BlockAdaptation) -> Tensor:
    """Join head outputs (B, heads, N, head_dim) and project them: (B, N, d)."""
    joined = attention.norm(heads.transpose(1, 2).flatten(2))
    return attention.proj_drop(_layer("proj", attention.proj, joined, adaptation))


# -- MLP and residuals -------------------------------------------------------------------------------------------------


def _layer(name: Any, layer: Any, inputs: Tensor, adaptation: BlockAdaptation) -> Tensor:
    """A linear layer with the adaptation of its name."""
    weight = adaptation.weights.get(name)
    outputs = layer(inputs) if weight is None else frozen_linear(inputs, weight, layer.bias)
    outputs = _with_update(outputs, inputs, adaptation.low_rank.get(name))
    shifted = adaptation.scale_shift.get(name)
    return outputs if shifted is None else shifted(outputs)


def _mlp(block: Any, tokens: Tensor, adaptation: BlockAdaptation) -> Tensor:
    shifted, mlp = adaptation.scale_shift.get("norm2"), block.mlp
    normed = norm_for_products(block.norm2, tokens) if shifted is None else shifted(block.norm2(tokens))
    if adaptation is UNCHANGED:
        return mlp(normed)
    if not {"fc1", "fc2"} & {*adaptation.weights, *adaptation.low_rank, *adaptation.scale_shift}:
        return mlp(normed)
    hidden = mlp.norm(mlp.drop1(mlp.act(_layer("fc1", mlp.fc1, normed, adaptation))))
    return mlp.drop2(_layer("fc2", mlp.fc2, hidden, adaptation))


def _residuals(
    block: Any, tokens: Tensor, attended: Tensor, adaptation: BlockAdaptation, mlp: Callable[..., Tensor]
) -> Tensor:
    if has_scale := hasattr(block, "ls1"):
        tokens = tokens + block.drop_path1(block.ls1(attended))
        mixed = block.ls2(mlp(block, tokens, adaptation))
    else:
        tokens = tokens + (attended if block.gamma_1 is None else block.gamma_1 * attended)
        mixed = mlp(block, tokens, adaptation)
        mixed = mixed if block.gamma_2 is None else block.gamma_2 * mixed
    if adaptation.beside_mlp is not None:
        mixed = mixed + adaptation.beside_mlp(tokens)
    elif adaptation.after_mlp is not None:
        mixed = mixed + adaptation.after_mlp(mixed)
    return tokens + (block.drop_path2(mixed) if has_scale else mixed)
