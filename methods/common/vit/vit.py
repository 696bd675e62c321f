"""The frozen vision transformer; a method enters it through an adaptation of each block that it changes.

The blocks are timm's own, or those of ``plain_vit``, weights by name. An attention rule replaces only the attention product of
its block.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn

from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.vit.attention import attend
from smope_bench.methods.common.vit.attention_rules import AttentionRule, TokenRule
from smope_bench.methods.common.vit.block import Layout, enter_block, joined_projection, run_block
from smope_bench.methods.common.vit.block_adaptation import (
    UNCHANGED,
    Adaptation,
    BlockAdaptation,
    Layer,
    LowRank,
    Target,
    as_block,
    part_of_adaptation,
    require_fit,
)
from smope_bench.methods.common.vit.frozen_linear import freeze_products
from smope_bench.methods.common.vit.memory_plan import MemoryPlan, recomputed
from smope_bench.methods.common.vit.merging import merged_layers
from smope_bench.methods.common.vit.plain_vit import PlainViT

__all__ = ["AttentionRule", "PromptedViT", "TokenRule", "obstacle", "plain_attention"]

if TYPE_CHECKING:  # importing timm takes longer than torch; planning and reporting need neither
    from timm.models.vision_transformer import Attention, Block, VisionTransformer

Result = TypeVar("Result")

Adaptations: TypeAlias = Mapping[int, Adaptation]
"""Block numbers, 0-based, to what is changed of these blocks: an attention rule, or a ``BlockAdaptation``."""

Watch: TypeAlias = Callable[[int, BlockAdaptation, Layout, int], BlockAdaptation]
"""Maps a block's number, its adaptation, and the layout and number of the tokens that enter it to the adaptation to use."""


@dataclass(frozen=True)
class _Stream:
    """Tokens between two blocks, the rotary embedding of the patches (for all blocks) if there is one, and what lies where."""

    tokens: Tensor
    rotations: Tensor | None
    layout: Layout
    depth: int = 0


class PromptedViT(nn.Module):
    """A ViT, frozen; ``forward`` returns its feature: class token, mean of patches or attention pool, after its norm."""

    def __init__(self, vit: VisionTransformer | PlainViT) -> None:
        """Freeze ``vit``, ours or one of timm. Raises MethodError where prompts cannot enter its blocks."""
        super().__init__()
        _require_supported(vit)
        self.vit = vit.eval().requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                freeze_products(module)
        self.blocks = cast("list[Block]", list(vit.blocks))
        self.attentions = [cast("Attention", block.attn) for block in self.blocks]
        self.num_heads = self.attentions[0].num_heads
        self.head_dim = self.attentions[0].head_dim
        self.feature_dim: int = int(vit.num_features)
        self.image_size: int = int(vit.patch_embed.img_size[0])  # type: ignore[index]
        self.memory = MemoryPlan()
        self._read_tokens = _read_tokens(vit)
        self._exact: Callable[[], PromptedViT] | None = None
        self.watch: Watch | None = None
        """Where it is set, blocks are computed for all tokens and with the adaptation that it returns."""

    def keep_products_in(self, precision: torch.dtype, reload: Callable[[], PromptedViT] | None = None) -> None:
        """Store the weights of linear layers and convolutions as autocast would cast them in every pass: same bits.

        ``reload`` gives the backbone with its original weights, for ``merged``; without it, a copy of them is kept.
        """
        original = copy.deepcopy(self) if reload is None else None
        self._exact = reload or (lambda: cast("PromptedViT", original))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(precision)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def num_tokens(self) -> int:
        """Tokens of an image, class token and registers included."""
        return int(self.vit.patch_embed.num_patches + self.vit.num_prefix_tokens)

    def train(self, mode: bool = True) -> PromptedViT:
        """Stay in evaluation mode: nothing in a frozen backbone may be stochastic."""
        del mode
        return super().train(False)

    def forward(self, images: Tensor, adaptations: Adaptations | None = None) -> Tensor:
        """Images (B, 3, H, W) in the backbone's input range -> features (B, feature_dim); other blocks are as they are."""
        return _put_together(self._by_slices(self._pass, images, [adaptations or {}]))

    def forward_each(self, images: Tensor, sets: Sequence[Adaptations]) -> Tensor:
        """Features (sets, B, feature_dim) of the same images with each set of adaptations.

        Blocks below the first one that any set adapts are run once. A method that predicts with it declares ``passes_at_test``.
        """
        parts = self._by_slices(self._passes, images, sets)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def run_prompted(self, images: Tensor, adaptations: Adaptations) -> None:
        """Run up to the last adapted block, for what rules, readers and token sources record."""
        self._by_slices(self._prompted_pass, images, [adaptations])

    def _by_slices(self, run: Callable[..., Result], images: Tensor, sets: Sequence[Adaptations]) -> list[Result]:
        """``run(images, *sets)`` for the images of the memory plan's micro-batches, each recomputed for its gradient."""
        for adaptations in sets:
            self._require_fit(adaptations)
        slices = self.memory.slices(len(images))
        if len(slices) == 1:
            return [run(images, *sets)]
        parts = (
            [{number: part_of_adaptation(one, rows) for number, one in each.items()} for each in sets]
            for rows in slices
        )
        return [recomputed(run, images[rows], *part) for rows, part in zip(slices, parts, strict=True)]

    def _require_fit(self, adaptations: Adaptations) -> None:
        if adaptations and not 0 <= min(adaptations) <= max(adaptations) < self.depth:
            raise MethodError(
                f"adaptations are given for blocks {sorted(adaptations)}, but the backbone has {self.depth}, numbered from 0"
            )
        for number, adaptation in adaptations.items():
            if adaptation is not (adapted := as_block(adaptation)):
                continue  # an attention rule alone fits every block
            require_fit(number, self.blocks[number], adapted, is_last=number == self.depth - 1)

    def _pass(self, images: Tensor, adaptations: Adaptations) -> Tensor:
        return self._feature(self._embed(images), adaptations)

    def _passes(self, images: Tensor, *sets: Adaptations) -> Tensor:
        shared = self._up_to(min((number for each in sets for number in each), default=self.depth - 1), images, {})
        return torch.stack([self._feature(shared, adaptations) for adaptations in sets])

    def _prompted_pass(self, images: Tensor, adaptations: Adaptations) -> None:
        last = max(adaptations)
        stream, adaptation = self._up_to(last, images, adaptations), as_block(adaptations[last])
        if adaptation.attention is None:
            enter_block(self.blocks[last], stream.tokens, adaptation, stream.layout)
        else:  # the rule is called with all tokens; what comes after it is not read
            self._through(stream, adaptations, 1)

    def _feature(self, stream: _Stream, adaptations: Adaptations) -> Tensor:
        """The feature (B, feature_dim) of what is left of a pass."""
        last = self.depth - 1
        stream = self._on_to(last, stream, adaptations)
        if self._read_tokens is None:
            stream = self._through(stream, adaptations)
            tokens = stream.layout.own(stream.tokens)
        else:  # the last block for the tokens alone whose outputs are read
            tokens = self._through(stream, adaptations, self._read_tokens).tokens
        if self._read_tokens == 1:
            return self.vit.fc_norm(self.vit.norm(tokens[:, 0]))
        # A pool ends in a product, which autocast rounds: the feature has the type of the tokens, whatever the pool.
        return self.vit.forward_head(self.vit.norm(tokens), pre_logits=True).to(tokens.dtype)

    def _up_to(self, depth: int, images: Tensor, adaptations: Adaptations) -> _Stream:
        """After the first ``depth`` blocks."""
        return self._on_to(depth, self._embed(images), adaptations)

    def _on_to(self, depth: int, stream: _Stream, adaptations: Adaptations) -> _Stream:
        while stream.depth < depth:
            stream = self._through(stream, adaptations)
        return stream

    def _through(self, stream: _Stream, adaptations: Adaptations, read: int | None = None) -> _Stream:
        """Through the next block."""
        number, tokens = stream.depth, stream.tokens
        is_adapted = number in adaptations
        adaptation = as_block(adaptations[number]) if is_adapted else UNCHANGED
        if self.watch is not None:
            adaptation, read = self.watch(number, adaptation, stream.layout, tokens.shape[1]), None
        inputs = self.blocks[number], tokens, _at(stream.rotations, number), adaptation, stream.layout, read
        # Below the first prompt there is no graph, so there is nothing to save by recomputation.
        if self.memory.checkpoint_blocks and (is_adapted or tokens.requires_grad):
            found = recomputed(run_block, *inputs, may_draw=is_adapted)
        else:
            found = run_block(*inputs, recomputes_mlp=self.memory.checkpoint_mlps)
        layout = stream.layout if read else stream.layout.after(adaptation, found.shape[1] - tokens.shape[1])
        return _Stream(found, stream.rotations, layout, number + 1)

    def require_blocks(self, count: int, method: str, setting: str | None = "prompt_blocks") -> None:
        """Raise MethodError unless the first ``count`` blocks can be prompted; ``setting`` of the method lowers it."""
        if count > self.depth:
            lower = f"--set {method}.{setting}={self.depth}" if setting else "a deeper backbone"
            remedy = f" use {lower}"
            raise MethodError(f"{method} prompts the first {count} blocks, but the backbone has {self.depth};{remedy}")

    def _embed(self, images: Tensor) -> _Stream:
        vit, layout = self.vit, Layout(int(self.vit.num_prefix_tokens))
        embedded = vit._pos_embed(vit.patch_embed(images))
        if isinstance(embedded, tuple):  # Eva
            return _Stream(vit.norm_pre(embedded[0]), embedded[1], layout)
        return _Stream(vit.norm_pre(vit.patch_drop(embedded)), None, layout)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features (B, feature_dim) without prompts and without a graph: the frozen query."""
        return self(images)

    @torch.no_grad()
    def tokens(self, images: Tensor, depth: int = 0, *, norm: bool = True) -> Tensor:
        """Tokens (B, N, d) after the first ``depth`` blocks without prompts, and through the norm that comes next."""

        def run(images: Tensor, adaptations: Adaptations) -> Tensor:
            tokens = self._up_to(depth, images, adaptations).tokens
            if not norm:
                return tokens
            return self.blocks[depth].norm1(tokens) if depth < self.depth else self.vit.fc_norm(self.vit.norm(tokens))

        return _put_together(self._by_slices(run, images, [{}]))

    def key_value_weights(self, blocks: range) -> tuple[Tensor, Tensor]:
        """Frozen W_K and W_V of ``blocks``, each (len(blocks), heads, head_dim, feature_dim)."""
        stacked = torch.stack([joined_projection(self.attentions[number])[0] for number in blocks])
        by_head = stacked.view(len(blocks), 3, self.num_heads, self.head_dim, self.feature_dim)
        return by_head[:, 1], by_head[:, 2]

    def merged(self, updates: Mapping[int, Mapping[Target, LowRank]]) -> dict[int, dict[Layer, Tensor]]:
        """Effective weights for ``BlockAdaptation.weights``: the backbone's plus low-rank updates, by block and layer.

        Summed in float32, or what is wider, from the original weights, then cast to the type of those in use. The backbone is
        not changed. A pass that asks for no gradient of the updates needs no further products with them.
        """
        for number, by_target in updates.items():
            self._require_fit({number: BlockAdaptation(low_rank=by_target)})
        exact = self if self._exact is None or not updates else self._exact()
        return {
            number: merged_layers(self.blocks[number], exact.blocks[number], by_target)
            for number, by_target in updates.items()
        }


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention without a prompt, as an attention rule."""
    return attend(q, k, v)


def _put_together(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _at(rotations: Tensor | None, number: int) -> Tensor | None:
    """The rotary embedding of a block: (N, 2 * head_dim) for all of them, or one (heads, N, 2 * head_dim) for each."""
    return rotations[number] if rotations is not None and rotations.dim() > 3 else rotations


def _read_tokens(vit: Any) -> int | None:
    """How many of the first tokens the feature reads: one, or two with a distillation token; None for all."""
    if isinstance(vit, PlainViT):
        return 1
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
    if isinstance(vit, PlainViT):
        return None
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
