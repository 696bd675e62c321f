"""The frozen vision transformer; prompts enter it through one attention rule per prompted block.

The blocks are timm's own, weights by name. A method's rule replaces only the attention product of a prompted block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smope_bench.methods.common.backbone.attention import attend
from smope_bench.methods.common.backbone.attention_rules import AttentionRule, TokenRule, part_of
from smope_bench.methods.common.backbone.memory_plan import MemoryPlan, recomputed
from smope_bench.methods.common.errors import MethodError

if TYPE_CHECKING:  # importing timm takes longer than torch; planning and reporting need neither
    from timm.models.vision_transformer import Attention, Block, VisionTransformer

MIN_BLOCKS = 6

Result = TypeVar("Result")


class PromptedViT(nn.Module):
    """timm's ViT, frozen; ``forward`` returns the class token after the final norm."""

    def __init__(self, vit: VisionTransformer) -> None:
        """Freeze ``vit``. Raises MethodError for a transformer without a usable class token."""
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
        """Images (B, 3, H, W) in the backbone's input range -> class-token features (B, feature_dim).

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
        tokens = self._up_to(last, images, rules)
        if last in rules:
            tokens = self._through(last, tokens, rules)
        elif self.memory.checkpoint_blocks:
            tokens = recomputed(_class_token_block, self.blocks[last], tokens, may_draw=False)
        else:
            tokens = _class_token_block(self.blocks[last], tokens)
        return self.vit.norm(tokens[:, 0])

    def _prompted_pass(self, images: Tensor, rules: Mapping[int, AttentionRule]) -> None:
        self._up_to(max(rules) + 1, images, rules)

    def _up_to(self, depth: int, images: Tensor, rules: Mapping[int, AttentionRule]) -> Tensor:
        tokens = self._embed(images)
        for number in range(depth):
            tokens = self._through(number, tokens, rules)
        return tokens

    def _through(self, number: int, tokens: Tensor, rules: Mapping[int, AttentionRule]) -> Tensor:
        block, rule = self.blocks[number], rules.get(number, plain_attention)
        # Below the first prompt there is no graph, so there is nothing to save by recomputation.
        if self.memory.checkpoint_blocks and (number in rules or tokens.requires_grad):
            return recomputed(_block, block, tokens, rule, may_draw=number in rules)
        return _block(block, tokens, rule)

    def require_blocks(self, count: int, method: str) -> None:
        """Raise MethodError unless the first ``count`` blocks can be prompted."""
        if count > self.depth:
            raise MethodError(
                f"{method} prompts the first {count} blocks, but the backbone has {self.depth}; prompt fewer"
            )

    def _embed(self, images: Tensor) -> Tensor:
        vit = self.vit
        return vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Class-token features (B, feature_dim) without prompts and without a graph: the frozen query."""
        return self(images)

    @torch.no_grad()
    def tokens(self, images: Tensor, depth: int = 0, *, norm: bool = True) -> Tensor:
        """Tokens (B, N, d) after the first ``depth`` blocks without prompts, and through the norm that comes next."""

        def run(images: Tensor, rules: Mapping[int, AttentionRule]) -> Tensor:
            tokens = self._up_to(depth, images, rules)
            if not norm:
                return tokens
            return self.blocks[depth].norm1(tokens) if depth < self.depth else self.vit.norm(tokens)

        return _put_together(self._by_slices(run, images, {}))

    def key_value_weights(self, blocks: range) -> tuple[Tensor, Tensor]:
        """Frozen W_K and W_V of ``blocks``, each (len(blocks), heads, head_dim, feature_dim)."""
        stacked = torch.stack([self.attentions[number].qkv.weight for number in blocks])
        by_head = stacked.view(len(blocks), 3, self.num_heads, self.head_dim, self.feature_dim)
        return by_head[:, 1], by_head[:, 2]


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention without a prompt, as an attention rule."""
    return attend(q, k, v)


def _put_together(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _heads(attention: Attention, tokens: Tensor) -> Tensor:
    """Project tokens (B, N, d) to (3, B, heads, N, head_dim); queries and keys are not normalised yet."""
    batch, count, _ = tokens.shape
    qkv = attention.qkv(tokens).view(batch, count, 3, attention.num_heads, attention.head_dim)
    return qkv.permute(2, 0, 3, 1, 4)


def _leave_heads(attention: Attention, heads: Tensor) -> Tensor:
    """Join head outputs (B, heads, N, head_dim) and project them: (B, N, d)."""
    joined = heads.transpose(1, 2).flatten(2)
    return attention.proj_drop(attention.proj(attention.norm(joined)))


def _residuals(block: Block, tokens: Tensor, attended: Tensor) -> Tensor:
    tokens = tokens + block.drop_path1(block.ls1(attended))
    return tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))


def _block(block: Block, tokens: Tensor, rule: AttentionRule) -> Tensor:
    attention = cast("Attention", block.attn)
    normed = block.norm1(tokens)
    if isinstance(rule, TokenRule):
        rule.read(normed)
    q, k, v = _heads(attention, normed).unbind(0)
    heads = rule(attention.q_norm(q), attention.k_norm(k), v)
    return _residuals(block, tokens, _leave_heads(attention, heads))


def _class_token_block(block: Block, tokens: Tensor) -> Tensor:
    """The last block for the class token alone, the only output that is read."""
    attention = cast("Attention", block.attn)
    normed = block.norm1(tokens)
    batch, count, _ = tokens.shape
    width = attention.num_heads * attention.head_dim
    weight, bias = attention.qkv.weight, attention.qkv.bias
    query = F.linear(normed[:, :1], weight[:width], None if bias is None else bias[:width])
    pairs = F.linear(normed, weight[width:], None if bias is None else bias[width:])
    q = query.view(batch, 1, attention.num_heads, attention.head_dim).transpose(1, 2)
    k, v = pairs.view(batch, count, 2, attention.num_heads, attention.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    heads = attend(attention.q_norm(q), attention.k_norm(k), v)
    return _residuals(block, tokens[:, :1], _leave_heads(attention, heads))


def _require_supported(vit: VisionTransformer) -> None:
    from timm.models.vision_transformer import Attention, Block

    blocks = list(vit.blocks)
    if len(blocks) < MIN_BLOCKS:
        raise MethodError(f"the backbone has {len(blocks)} blocks; prompts need a ViT of at least {MIN_BLOCKS}")
    if vit.global_pool != "token" or vit.cls_token is None:
        raise MethodError(f"the backbone pools by {vit.global_pool!r}; use one whose feature is the class token")
    for block in blocks:
        if type(block) is not Block or type(block.attn) is not Attention or block.attn.gate is not None:
            name = f"{type(block).__name__}/{type(getattr(block, 'attn', None)).__name__}"
            raise MethodError(f"blocks of type {name} are not supported; use a plain timm VisionTransformer")
