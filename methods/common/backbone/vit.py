"""The frozen vision transformer; prompts enter it through one attention rule per prompted block.

The blocks are timm's own, weights by name. A method's rule replaces only the attention product of a prompted block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smope_bench.methods.common.backbone.attention import attend
from smope_bench.methods.common.backbone.attention_rules import AttentionRule, TokenRule, part_of
from smope_bench.methods.common.backbone.memory_plan import MemoryPlan, recomputed
from smope_bench.methods.common.errors import MethodError

if TYPE_CHECKING:  # importing timm takes longer than torch; planning and reporting need neither
    from timm.models.vision_transformer import Attention, Block, VisionTransformer

Result = TypeVar("Result")


class PromptedViT(nn.Module):
    """timm's ViT, frozen; ``forward`` returns its feature: class token, mean of patches or attention pool, after its norm."""

    def __init__(self, vit: VisionTransformer) -> None:
        """Freeze ``vit``, a VisionTransformer or Eva of timm. Raises MethodError where prompts cannot enter its blocks."""
        super().__init__()
        _require_supported(vit)
        self.vit = vit.eval().requires_grad_(False)
        self.blocks = cast("list[Block]", list(vit.blocks))
        self.attentions = [cast("Attention", block.attn) for block in self.blocks]
        self.num_heads = self.attentions[0].num_heads
        self.head_dim = self.attentions[0].head_dim
        self.feature_dim: int = int(vit.num_features)
        self.image_size: int = int(vit.patch_embed.img_size[0])  # type: ignore[index]
        self.memory = MemoryPlan()
        self._read_tokens = _read_tokens(vit)

    def keep_products_in(self, precision: torch.dtype) -> None:
        """Store the weights of linear layers and convolutions as autocast would cast them in every pass: same bits."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(precision)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def train(self, mode: bool = True) -> PromptedViT:
        """Stay in evaluation mode: nothing in a frozen backbone may be stochastic."""
        del mode
        return super().train(False)

    def forward(self, images: Tensor, rules: Mapping[int, AttentionRule] | None = None) -> Tensor:
        """Images (B, 3, H, W) in the backbone's input range -> features (B, feature_dim).

        ``rules`` maps block numbers, 0-based, to attention rules; other blocks are timm's.
        """
        return _put_together(self._by_slices(self._pass, images, rules or {}))

    def run_prompted(self, images: Tensor, rules: Mapping[int, AttentionRule]) -> None:
        """Run up to the last prompted block, for what the rules record."""
        self._by_slices(self._prompted_pass, images, rules)

    def _by_slices(
        self,
        run: Callable[[Tensor, Mapping[int, AttentionRule]], Result],
        images: Tensor,
        rules: Mapping[int, AttentionRule],
    ) -> list[Result]:
        """``run`` for the images of the memory plan's micro-batches, each pass recomputed for its gradient."""
        if rules and not 0 <= min(rules) <= max(rules) < self.depth:
            raise MethodError(
                f"attention rules are given for blocks {sorted(rules)}, but the backbone has {self.depth}"
            )
        slices = self.memory.slices(len(images))
        if len(slices) == 1:
            return [run(images, rules)]
        parts = ({number: part_of(rule, rows) for number, rule in rules.items()} for rows in slices)
        return [recomputed(run, images[rows], part) for rows, part in zip(slices, parts, strict=True)]

    def _pass(self, images: Tensor, rules: Mapping[int, AttentionRule]) -> Tensor:
        last = self.depth - 1
        tokens, rotations = self._up_to(last, images, rules)
        if last in rules or self._read_tokens is None:
            tokens = self._through(last, tokens, rotations, rules)
        else:
            inputs = self.blocks[last], tokens, _at(rotations, last), self._read_tokens
            recompute = self.memory.checkpoint_blocks
            tokens = recomputed(_first_tokens, *inputs, may_draw=False) if recompute else _first_tokens(*inputs)
        if self._read_tokens == 1:
            return self.vit.fc_norm(self.vit.norm(tokens[:, 0]))
        # A pool ends in a product, which autocast rounds: the feature has the type of the tokens, whatever the pool.
        return self.vit.forward_head(self.vit.norm(tokens), pre_logits=True).to(tokens.dtype)

    def _prompted_pass(self, images: Tensor, rules: Mapping[int, AttentionRule]) -> None:
        self._up_to(max(rules) + 1, images, rules)

    def _up_to(self, depth: int, images: Tensor, rules: Mapping[int, AttentionRule]) -> tuple[Tensor, Tensor | None]:
        """Tokens after ``depth`` blocks, and the rotary embedding of the patches (for all blocks) if there is one."""
        tokens, rotations = self._embed(images)
        for number in range(depth):
            tokens = self._through(number, tokens, rotations, rules)
        return tokens, rotations

    def _through(
        self, number: int, tokens: Tensor, rotations: Tensor | None, rules: Mapping[int, AttentionRule]
    ) -> Tensor:
        inputs = self.blocks[number], tokens, _at(rotations, number), rules.get(number, plain_attention)
        # Below the first prompt there is no graph, so there is nothing to save by recomputation.
        if self.memory.checkpoint_blocks and (number in rules or tokens.requires_grad):
            return recomputed(_block, *inputs, may_draw=number in rules)
        return _block(*inputs)

    def require_blocks(self, count: int, method: str, setting: str | None = "prompt_blocks") -> None:
        """Raise MethodError unless the first ``count`` blocks can be prompted; ``setting`` of the method lowers it."""
        if count > self.depth:
            lower = f"--set {method}.{setting}={self.depth}" if setting else "a deeper backbone"
            remedy = f" use {lower}"
            raise MethodError(f"{method} prompts the first {count} blocks, but the backbone has {self.depth};{remedy}")

    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        vit = self.vit
        embedded = vit._pos_embed(vit.patch_embed(images))
        if isinstance(embedded, tuple):  # Eva
            return vit.norm_pre(embedded[0]), embedded[1]
        return vit.norm_pre(vit.patch_drop(embedded)), None

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features (B, feature_dim) without prompts and without a graph: the frozen query."""
        return self(images)

    @torch.no_grad()
    def tokens(self, images: Tensor, depth: int = 0, *, norm: bool = True) -> Tensor:
        """Tokens (B, N, d) after the first ``depth`` blocks without prompts, and through the norm that comes next."""

        def run(images: Tensor, rules: Mapping[int, AttentionRule]) -> Tensor:
            tokens, _ = self._up_to(depth, images, rules)
            if not norm:
                return tokens
            return self.blocks[depth].norm1(tokens) if depth < self.depth else self.vit.fc_norm(self.vit.norm(tokens))

        return _put_together(self._by_slices(run, images, {}))

    def key_value_weights(self, blocks: range) -> tuple[Tensor, Tensor]:
        """Frozen W_K and W_V of ``blocks``, each (len(blocks), heads, head_dim, feature_dim)."""
        stacked = torch.stack([_projection(self.attentions[number]) for number in blocks])
        by_head = stacked.view(len(blocks), 3, self.num_heads, self.head_dim, self.feature_dim)
        return by_head[:, 1], by_head[:, 2]


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention without a prompt, as an attention rule."""
    return attend(q, k, v)


def _put_together(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _at(rotations: Tensor | None, number: int) -> Tensor | None:
    """The rotary embedding of a block: (N, 2 * head_dim) for all of them, or one (heads, N, 2 * head_dim) for each."""
    return rotations[number] if rotations is not None and rotations.dim() > 3 else rotations


def _projection(attention: Any) -> Tensor:
    """W_Q, W_K and W_V, one below the other."""
    if attention.qkv is not None:
        return attention.qkv.weight
    return torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])


def _heads(attention: Any, tokens: Tensor) -> tuple[Tensor, ...]:
    """Project tokens (B, N, d) to q, k and v, each (B, heads, N, head_dim); q and k are not normalised yet."""
    batch, count, _ = tokens.shape
    if attention.qkv is None:
        projected = (layer(tokens) for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
        shape = batch, count, attention.num_heads, attention.head_dim
        return tuple(part.view(shape).transpose(1, 2) for part in projected)
    if getattr(attention, "q_bias", None) is None:
        joined = attention.qkv(tokens)
    else:
        bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
        joined = F.linear(tokens, attention.qkv.weight, bias)
    qkv = joined.view(batch, count, 3, attention.num_heads, attention.head_dim)
    return qkv.permute(2, 0, 3, 1, 4).unbind(0)


def _queries_keys_values(attention: Any, normed: Tensor, rotation: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """What the attention product takes; the rotary embedding turns queries and keys of patches, never those of a prompt."""
    q, k, v = _heads(attention, normed)
    q, k = attention.q_norm(q), attention.k_norm(k)
    if rotation is not None:
        q, k = (_rotated(attention, part, rotation).type_as(v) for part in (q, k))
    return q, k, v


def _rotated(attention: Any, heads: Tensor, rotation: Tensor) -> Tensor:
    from timm.layers import apply_rot_embed_cat

    first = attention.num_prefix_tokens
    patches = apply_rot_embed_cat(heads[:, :, first:], rotation, half=attention.rotate_half)
    return torch.cat([heads[:, :, :first], patches], dim=2)


def _leave_heads(attention: Attention, heads: Tensor) -> Tensor:
    """Join head outputs (B, heads, N, head_dim) and project them: (B, N, d)."""
    joined = heads.transpose(1, 2).flatten(2)
    return attention.proj_drop(attention.proj(attention.norm(joined)))


def _residuals(block: Any, tokens: Tensor, attended: Tensor) -> Tensor:
    if hasattr(block, "ls1"):
        tokens = tokens + block.drop_path1(block.ls1(attended))
        return tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
    tokens = tokens + (attended if block.gamma_1 is None else block.gamma_1 * attended)
    mixed = block.mlp(block.norm2(tokens))
    return tokens + (mixed if block.gamma_2 is None else block.gamma_2 * mixed)


def _block(block: Block, tokens: Tensor, rotation: Tensor | None, rule: AttentionRule) -> Tensor:
    attention = cast("Attention", block.attn)
    normed = block.norm1(tokens)
    if isinstance(rule, TokenRule):
        rule.read(normed)
    heads = rule(*_queries_keys_values(attention, normed, rotation))
    return _residuals(block, tokens, _leave_heads(attention, heads))


def _first_tokens(block: Block, tokens: Tensor, rotation: Tensor | None, read: int) -> Tensor:
    """The last block for the first ``read`` tokens alone, the only outputs that are read."""
    attention = cast("Attention", block.attn)
    normed = block.norm1(tokens)
    if hasattr(block, "ls1"):
        q, k, v = _few_queries(attention, normed, read)
    else:
        q, k, v = _queries_keys_values(attention, normed, rotation)
        q = q[:, :, :read]
    return _residuals(block, tokens[:, :read], _leave_heads(attention, attend(q, k, v)))


def _few_queries(attention: Attention, normed: Tensor, read: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of the first ``read`` tokens, keys and values of all, without computing other queries."""
    batch, count, _ = normed.shape
    width = attention.num_heads * attention.head_dim
    weight, bias = attention.qkv.weight, attention.qkv.bias
    query = F.linear(normed[:, :read], weight[:width], None if bias is None else bias[:width])
    pairs = F.linear(normed, weight[width:], None if bias is None else bias[width:])
    q = query.view(batch, read, attention.num_heads, attention.head_dim).transpose(1, 2)
    k, v = pairs.view(batch, count, 2, attention.num_heads, attention.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    return attention.q_norm(q), attention.k_norm(k), v


def _read_tokens(vit: Any) -> int | None:
    """How many of the first tokens the feature reads: one, or two with a distillation token; None for all."""
    from timm.models.deit import VisionTransformerDistilled

    if isinstance(vit, VisionTransformerDistilled):
        return 2
    return 1 if vit.global_pool == "token" and vit.attn_pool is None else None


def _require_supported(vit: Any) -> None:
    reason = obstacle(vit)
    if reason:
        raise MethodError(f"{reason}; use a ViT whose blocks are those of timm's VisionTransformer or Eva")


def obstacle(vit: Any) -> str | None:
    """What keeps prompts out of a model of timm, as a clause; None if they can enter it."""
    from timm.layers import PatchEmbed
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    if type(vit) not in (VisionTransformer, VisionTransformerDistilled, Eva):
        return f"the backbone is a {type(vit).__name__}, which has no plain attention blocks for prompts to enter"
    height, width = vit.patch_embed.img_size
    embedding = type(vit.patch_embed)
    if embedding is not PatchEmbed:
        return f"the backbone's patches come from a convolutional network ({embedding.__name__})"
    if not vit.global_pool:
        return "the backbone does not pool its tokens, so it has no feature"
    if height != width:
        return f"the backbone's images have {height} x {width} pixels, but those of a benchmark are square"
    return next(filter(None, map(_block_obstacle, vit.blocks)), None)


def _block_obstacle(block: Any) -> str | None:
    from timm.layers import Attention
    from timm.layers.attention import AttentionRope
    from timm.models.eva import EvaAttention, EvaBlock
    from timm.models.vision_transformer import Block

    attention = getattr(block, "attn", None)
    if type(block) not in (Block, EvaBlock) or type(attention) not in (Attention, EvaAttention, AttentionRope):
        kind = type(attention).__name__ if attention is not None else "another form"
        return f"the backbone's blocks are of type {type(block).__name__} with attention of type {kind}"
    if getattr(attention, "gate", None) is not None:
        return "the backbone's attention is gated by its tokens"
    if getattr(attention, "num_kv_groups", 1) > 1:
        return "the backbone's heads share keys and values (grouped-query attention)"
    return None
