"""Block adaptations: what a method changes of one frozen block, beside or in place of its attention.

``BlockAdaptation`` has optional parts, which compose. All of them are made anew for each forward pass, from tensors of the
method, so they may carry tensors of that pass; the shared backbone is never written to. Where memory is short, a block is
computed for a few images at a time, and again in the backward pass: tensors of single images are divided by ``part``, and
callables keep the contract of ``AttentionRule``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.vit.attention_rules import AttentionRule, of_images, part_of, part_of_reader

Target = Literal["q", "k", "v", "proj", "fc1", "fc2"]
"""A linear map of a block: queries, keys, values, the projection after attention, and the two layers of the MLP."""

Layer = Literal["qkv", "proj", "fc1", "fc2"]
"""A weight matrix of a block; ``qkv`` has the rows of queries, keys and values, one below the other."""

Place = Literal["norm1", "q", "k", "v", "proj", "norm2", "fc1", "fc2"]
"""A layer whose output is scaled and shifted."""

QKV: tuple[Target, ...] = ("q", "k", "v")


@dataclass(frozen=True)
class LowRank:
    """The update ``up @ down`` of a weight: ``down`` (r, inputs), ``up`` (outputs, r). It has no scale of its own.

    Targets of a block that share the same tensor ``down`` share its product.
    """

    down: Tensor
    up: Tensor

    def __post_init__(self) -> None:
        rank = len(self.down)
        if self.down.dim() != 2 or self.up.dim() != 2 or self.up.shape[1] != rank:
            shapes = f"down {tuple(self.down.shape)}, up {tuple(self.up.shape)}"
            raise MethodError(f"a low-rank update needs down (rank, inputs) and up (outputs, rank), not {shapes}")
        if rank > (width := min(self.down.shape[1], len(self.up))):
            raise MethodError(
                f"rank {rank} of a low-rank update exceeds the width {width} of its layer; lower the rank"
            )

    @classmethod
    def of(cls, down: Tensor, up: Tensor) -> LowRank:
        """The product of factors of any rank: one above the width of the layer is lowered to it."""
        if len(down) <= min(down.shape[1], len(up)):
            return cls(down, up)
        dense, narrow_inputs = up @ down, down.shape[1] <= len(up)
        one = torch.eye(min(dense.shape), dtype=dense.dtype, device=dense.device)
        return cls(one, dense) if narrow_inputs else cls(dense, one)

    @classmethod
    def joined(cls, *updates: LowRank) -> LowRank:
        """The sum of several updates as one, of the sum of their ranks, or of the layer's width where that is less."""
        return cls.of(torch.cat([one.down for one in updates]), torch.cat([one.up for one in updates], dim=1))


@dataclass(frozen=True)
class Adapter:
    """A bottleneck, ``scale * (up act(down x + down_bias) * mask + up_bias)``: down (b, d), up (d, b), biases (b) and (d).

    ``mask`` (B, N, b): dropout of the bottleneck, drawn before the pass for the whole batch and already divided by the share
    that is kept, as ``dropout_mask`` makes it.
    """

    down: Tensor
    up: Tensor
    down_bias: Tensor | None = None
    up_bias: Tensor | None = None
    scale: float | Tensor = 1.0
    activation: Callable[[Tensor], Tensor] = F.relu
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if self.down.dim() != 2 or self.up.shape != self.down.T.shape:
            shapes = f"down {tuple(self.down.shape)}, up {tuple(self.up.shape)}"
            raise MethodError(f"an adapter needs down (bottleneck, width) and up (width, bottleneck), not {shapes}")

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens (B, n, d), the first n of the block's, to what is added to them."""
        narrow = self.activation(F.linear(tokens, self.down, self.down_bias))
        if self.mask is not None:
            narrow = narrow * self.mask[:, : tokens.shape[1]].to(narrow.dtype)
        return F.linear(narrow, self.up, self.up_bias) * self.scale

    def part(self, rows: slice) -> Adapter:
        """For some of the images."""
        return self if self.mask is None else replace(self, mask=of_images(self.mask, rows, 2))


def dropout_mask(batch: int, tokens: int, width: int, drop: float, device: torch.device) -> Tensor:
    """A mask (batch, tokens, width) of dropout: 0 with probability ``drop``, else 1 / (1 - drop)."""
    return torch.empty(batch, tokens, width, device=device).bernoulli_(1 - drop).div_(1 - drop)


TokenSource: TypeAlias = Callable[[Tensor], Tensor]
"""Maps the tokens (B, N, d) that enter a block, before its first norm, to extra tokens (B, L, d), image by image.

One with tensors of single images, or that records into a ``Trace``, has a method ``part(rows: slice)``.
"""


@dataclass(frozen=True)
class ExtraTokens:
    """Tokens that enter a block beside its own: (L, d), (B, L, d), or a function of the block's input.

    ``place``: after all others, or directly after the backbone's own first tokens (class token, registers). A rotary embedding
    does not turn them. Unless they are to ``keep``, they are dropped after the block's attention, so that they act as keys and
    values alone; kept ones go on into the later blocks, and are no part of the feature.
    """

    rows: Tensor | TokenSource
    place: Literal["end", "start"] = "end"
    keep: bool = False

    def beside(self, tokens: Tensor) -> Tensor:
        """The extra tokens (B, L, d) for tokens (B, N, d)."""
        found = self.rows if isinstance(self.rows, Tensor) else self.rows(tokens)
        if found.shape[-1] != tokens.shape[-1] or (found.dim() == 3 and len(found) not in (1, len(tokens))):
            raise MethodError(
                f"extra tokens are {tuple(found.shape)}, but a block with tokens {tuple(tokens.shape)} takes (L,"
                f" {tokens.shape[-1]}) or ({len(tokens)}, L, {tokens.shape[-1]})"
            )
        return found.to(tokens.dtype).expand(len(tokens), *found.shape[-2:])

    def part(self, rows: slice) -> ExtraTokens:
        """For some of the images."""
        if isinstance(self.rows, Tensor):
            return replace(self, rows=of_images(self.rows, rows, 2))
        part = getattr(self.rows, "part", None)
        return self if part is None else replace(self, rows=part(rows))


@dataclass(frozen=True)
class ScaleShift:
    """``x * scale + shift`` of a layer's output; both have its width."""

    scale: Tensor
    shift: Tensor

    def __call__(self, outputs: Tensor) -> Tensor:
        """Outputs (..., width)."""
        return outputs * self.scale + self.shift


@dataclass(frozen=True)
class BlockAdaptation:
    """What is changed of a block; every part is optional.

    ``attention``: in place of the attention product, see ``AttentionRule``. In the last block it has all queries, and what comes
    after it is computed for the class token alone; without it, only the class token has a query.
    ``reads``: called with the block's input after its first norm (B, N, d), for statistics. One that needs to know which images
    it sees has a method ``part(rows: slice)``.
    ``tokens``: extra tokens.
    ``weights``: effective weights in place of the block's own, from ``PromptedViT.merged``.
    ``low_rank``: updates beside the weights, as products of their own.
    ``scale_shift``: of layers' outputs.
    ``beside_mlp``: an adapter of the tokens after attention, not normalised, added to the MLP's output (AdaptFormer).
    ``after_mlp``: an adapter of the MLP's output, added to it before the residual (Houlsby). Excludes ``beside_mlp``.
    """

    attention: AttentionRule | None = None
    reads: Callable[[Tensor], None] | None = None
    tokens: ExtraTokens | None = None
    weights: Mapping[Layer, Tensor] = field(default_factory=dict)
    low_rank: Mapping[Target, LowRank] = field(default_factory=dict)
    scale_shift: Mapping[Place, ScaleShift] = field(default_factory=dict)
    beside_mlp: Adapter | None = None
    after_mlp: Adapter | None = None

    def __post_init__(self) -> None:
        if self.beside_mlp is not None and self.after_mlp is not None:
            raise MethodError("beside_mlp and after_mlp of a block's adaptation exclude each other; give one of them")
        named: tuple[tuple[str, Any, Any], ...] = (
            ("weights", self.weights, Layer),
            ("low_rank", self.low_rank, Target),
            ("scale_shift", self.scale_shift, Place),
        )
        for part, given, known in named:
            if given and (unknown := sorted(set(given) - set(known.__args__))):
                raise MethodError(f"{part} is given for {', '.join(unknown)}; a block has {', '.join(known.__args__)}")

    @property
    def changes_products(self) -> bool:
        """Whether queries, keys or values are computed in another way than by the block's own layer."""
        return "qkv" in self.weights or any(name in self.low_rank or name in self.scale_shift for name in QKV)

    def part(self, rows: slice) -> BlockAdaptation:
        """For some of the images."""
        divided: dict[str, Any] = {}
        if self.attention is not None:
            divided["attention"] = part_of(self.attention, rows)
        if self.reads is not None:
            divided["reads"] = part_of_reader(self.reads, rows)
        for name in ("tokens", "beside_mlp", "after_mlp"):
            if (one := getattr(self, name)) is not None:
                divided[name] = one.part(rows)
        return replace(self, **divided) if divided else self


Adaptation: TypeAlias = AttentionRule | BlockAdaptation
"""What is given for a block; an attention rule alone stands for an adaptation that has only this part."""

UNCHANGED = BlockAdaptation()


def as_block(adaptation: Adaptation | None) -> BlockAdaptation:
    """An adaptation in its full form."""
    if adaptation is None:
        return UNCHANGED
    return adaptation if isinstance(adaptation, BlockAdaptation) else BlockAdaptation(attention=adaptation)


def part_of_adaptation(adaptation: Adaptation, rows: slice) -> Adaptation:
    """The adaptation for some of the images."""
    return adaptation.part(rows) if isinstance(adaptation, BlockAdaptation) else part_of(adaptation, rows)


def require_fit(number: int, block: Any, adaptation: BlockAdaptation, *, is_last: bool) -> None:
    """Raise MethodError where an adaptation does not fit the block with this number."""
    if is_last and adaptation.tokens is not None and adaptation.tokens.keep:
        raise MethodError(
            f"extra tokens are kept after block {number}, the last one, after which nothing reads them; use keep=False there"
        )
    mlp_parts = {"fc1", "fc2"} & {*adaptation.weights, *adaptation.low_rank, *adaptation.scale_shift}
    if mlp_parts and type(block.mlp).__name__ != "Mlp":  # timm's; those with gates have layers of the same names
        raise MethodError(
            f"block {number} has an MLP of type {type(block.mlp).__name__}, which has no {' or '.join(sorted(mlp_parts))} that"
            " can be adapted; adapt other layers"
        )
    for name, shape in _given_shapes(adaptation):
        expected = _shape(block, name)
        if shape != expected:
            raise MethodError(
                f"the adaptation of {name} in block {number} is for {shape}, but the layer has {expected}"
            )
    for place, change in adaptation.scale_shift.items():
        width = _outputs(block, place)
        for what, tensor in (("scale", change.scale), ("shift", change.shift)):
            if tensor.dim() and tensor.shape[-1] not in (1, width):
                raise MethodError(
                    f"the {what} of {place} in block {number} is {tuple(tensor.shape)}, but the layer's outputs have width {width}"
                )


def _given_shapes(adaptation: BlockAdaptation) -> list[tuple[str, tuple[int, ...]]]:
    found: list[tuple[str, tuple[int, ...]]] = [(name, tuple(one.shape)) for name, one in adaptation.weights.items()]
    found += [(name, (len(one.up), one.down.shape[1])) for name, one in adaptation.low_rank.items()]
    for name in ("beside_mlp", "after_mlp"):
        adapter = cast("Adapter | None", getattr(adaptation, name))
        found += [] if adapter is None else [(name, (len(adapter.up), adapter.down.shape[1]))]
    return found


def _outputs(block: Any, place: Place) -> int:
    """Width of what a layer of a block gives."""
    return block.attn.proj.weight.shape[0] if place in ("norm1", "norm2") else _shape(block, place)[0]


def _shape(block: Any, name: str) -> tuple[int, int]:
    attention = block.attn
    width, inner = attention.proj.weight.shape[0], attention.num_heads * attention.head_dim
    if name in ("fc1", "fc2"):
        return tuple(getattr(block.mlp, name).weight.shape)  # type: ignore[return-value]
    shapes = {
        "qkv": (3 * inner, width),
        "proj": (width, inner),
        "beside_mlp": (width, width),
        "after_mlp": (width, width),
    }
    return shapes.get(name, (inner, width))
