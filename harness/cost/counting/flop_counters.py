"""Operations of forward and backward passes: the published closed form, fvcore's trace with own handles, and torch's counter.

Executed counts are two operations per multiply-add of linear layers, convolutions, matrix products, einsums, distance matrices and
both products of attention. Element-wise work (norms, softmax, GELU, sums, sampling, sorting) is not counted.
"""

from __future__ import annotations

import contextlib
import logging
import string
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from smope_bench.harness.planning.outline import Sizes
from smope_bench.methods.common.vit.vit import PromptedViT

NORM_OPERATIONS = 5
"""Operations per element of a LayerNorm in the published convention."""
MLP_RATIO = 4
"""Width of a plain ViT's hidden layers relative to its tokens."""


def published_pass(backbone: PromptedViT) -> int:
    """Operations of one image's forward by the convention of the SMoPE paper's Table 3, from the ViT's shape alone.

    Two per multiply-add of linear layers and convolution, one per convolution bias, five per LayerNorm element and one per GELU
    element. Products of attention are not counted, all blocks are complete and the final norm covers every token. Source:
    method cards, section 7.
    """
    vit: Any = backbone.vit
    patches = int(vit.patch_embed.num_patches)
    tokens = patches + int(vit.num_prefix_tokens)
    convolution = vit.patch_embed.proj
    total = 2 * patches * convolution.weight.numel()
    if convolution.bias is not None:
        total += patches * convolution.out_channels
    for part in vit.modules():
        if isinstance(part, nn.Linear) and part is not vit.head:
            total += 2 * tokens * part.in_features * part.out_features
        elif isinstance(part, nn.LayerNorm):
            total += NORM_OPERATIONS * tokens * prod(part.normalized_shape)
        elif type(part).__name__ == "Mlp" and isinstance(part.fc1, nn.Linear):
            total += tokens * part.fc1.out_features
    return total


def plain_published_pass(sizes: Sizes) -> int:
    """``published_pass`` of a plain ViT, without its modules."""
    dim, tokens = sizes.feature_dim, sizes.tokens
    patches, pixels = tokens - 1, 3 * sizes.patch_size**2
    linear = (
        2 * tokens * (4 + 2 * MLP_RATIO) * dim**2
    )  # queries, keys, values, projection, and the two layers of the MLP
    block = linear + 2 * NORM_OPERATIONS * tokens * dim + MLP_RATIO * tokens * dim
    return patches * dim * (2 * pixels + 1) + sizes.depth * block + NORM_OPERATIONS * tokens * dim


def published_classifier(dim: int, classes: int) -> int:
    """Operations of a linear classifier by the same convention, which leaves out its bias."""
    return 2 * dim * classes


@dataclass(frozen=True)
class Traced:
    """Operations of a traced forward, and occurrences of the operators that they leave out."""

    flops: int
    uncounted: Counter[str]


def traced_flops(module: nn.Module, images: Tensor) -> Traced:
    """Trace ``module(images)`` and count its products. ``module`` must own every parameter that its forward uses.

    Needs real tensors, as tracing does not work on the meta device. Computed values are wrong, see ``_Thin``. Operators that only
    move or compare data are in neither part of the result. Raises RuntimeError for operations that cannot be traced.
    """
    with _quiet():  # fvcore warns during its own import
        from fvcore.nn.jit_analysis import JitModelAnalysis
        from fvcore.nn.jit_handles import conv_flop_jit, linear_flop_jit

    analysis = JitModelAnalysis(module, (images,)).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    # fvcore's handles for products assume that no operand is broadcast, and it counts norms as products.
    analysis.set_op_handle(**{"aten::linear": linear_flop_jit, "aten::_convolution": conv_flop_jit}, **HANDLES)
    with _quiet(), _Recordable(), _Thin().except_in_convolutions(module):
        return Traced(2 * int(analysis.total()), Counter(analysis.unsupported_ops()))


def _shape(value: Any) -> list[int]:
    return list(value.type().sizes())


def _product_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """``a @ b`` for any number of dimensions, broadcast or not."""
    return prod(_shape(outputs[0])) * _shape(inputs[0])[-1]


def _added_product_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """``input + a @ b``."""
    return _product_macs(inputs[1:], outputs)


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Scores and weighted values of fused attention with queries (..., L, e) and keys (..., S, e)."""
    del outputs
    *leading, queries, width = _shape(inputs[0])
    keys, values = _shape(inputs[1])[-2], _shape(inputs[2])[-1]
    return prod(leading) * queries * keys * (width + values)


def _einsum_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """One multiply-add per combination of indices; more than two operands are contracted pairwise, left to right."""
    operands = [_shape(value) for value in inputs[1].node().inputs()]
    terms, kept = _einsum_terms(inputs[0].toIValue().replace(" ", ""), operands, len(_shape(outputs[0])))
    pairs = [pair for term, shape in zip(terms, operands, strict=True) for pair in zip(term, shape, strict=True)]
    sizes = dict(pairs)
    total, left = 0, set(terms[0])
    for number, term in enumerate(terms[1:], start=1):
        joint = left | set(term)
        total += prod(sizes[index] for index in joint)
        later = set(kept).union(*terms[number + 1 :])
        left = joint & later
    return total


def _einsum_terms(equation: str, operands: list[list[int]], kept_axes: int) -> tuple[list[str], str]:
    """The indices of each operand and of the result, with ``...`` and a result that is not written spelled out."""
    names, arrow, kept = equation.partition("->")
    spare = [letter for letter in string.ascii_letters if letter not in equation]

    def spelled(term: str, axes: int) -> str:
        hidden = axes - (len(term) - 3)
        return term.replace("...", "".join(spare[-hidden:] if hidden else ()))

    pairs = zip(names.split(","), operands, strict=True)
    terms = [spelled(term, len(shape)) if "..." in term else term for term, shape in pairs]
    if not arrow:
        joined = "".join(terms)
        return terms, "".join(sorted(letter for letter in set(joined) if joined.count(letter) == 1))
    return terms, spelled(kept, kept_axes) if "..." in kept else kept


def _distance_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Distances between rows: one multiply-add per channel of each pair."""
    return prod(_shape(outputs[0])) * _shape(inputs[0])[-1]


HANDLES: dict[str, Any] = {
    "aten::matmul": _product_macs,
    "aten::bmm": _product_macs,
    "aten::mm": _product_macs,
    "aten::mv": _product_macs,
    "aten::dot": _product_macs,
    "aten::addmm": _added_product_macs,
    "aten::baddbmm": _added_product_macs,
    "aten::einsum": _einsum_macs,
    "aten::cdist": _distance_macs,
    "aten::scaled_dot_product_attention": _attention_macs,
}
"""Multiply-adds of one call, by operator; linear layers and convolutions use fvcore's handles."""


@dataclass(frozen=True)
class Dispatched:
    """Operations of a forward and of its backward, and occurrences in the forward of operators that are not counted."""

    forward: int
    backward: int
    uncounted: Counter[str]


def dispatched_flops(forward: Callable[[], Tensor], *, backward: bool) -> Dispatched:
    """Count the products of ``forward`` and, with ``backward``, of the gradient of its scalar.

    Computed values are wrong, see ``_Thin``. Attention is counted as plain products: scores that a fused kernel computes again in
    its backward count once.
    """
    with (
        _quiet(),
        torch.backends.mkldnn.flags(
            enabled=False
        ),  # it has whole recurrent layers as one operator, which is not counted
        sdpa_kernel(SDPBackend.MATH),
        _Thin() as thin,
        FlopCounterMode(display=False) as counter,
    ):
        if not backward:
            with torch.no_grad():
                forward()
            return Dispatched(counter.get_total_flops(), 0, Counter(thin.uncounted))
        loss = forward()
        before, uncounted = counter.get_total_flops(), Counter(thin.uncounted)
        loss.backward()
    return Dispatched(before, counter.get_total_flops() - before, uncounted)


PRODUCTS = frozenset(getattr(torch.ops.aten, name).default for name in ("mm", "bmm", "addmm", "baddbmm"))


class _Thin(TorchDispatchMode):
    """Below tracer and counter, reduces matrix products to the first index of their sum: right shapes at little cost.

    Counts do not depend on values, and code that reads values still gets some. ``uncounted``: occurrences of operators that
    torch's counter does not know.
    """

    def __init__(self) -> None:
        super().__init__()
        self.uncounted: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, reduced if it is a product."""
        if func._overloadpacket not in flop_registry and not func.is_view:
            self.uncounted[func._schema.name] += 1
        if func in PRODUCTS:
            *added, left, right = args
            args = (*added, left.narrow(-1, 0, 1), right.narrow(-2, 0, 1))
        return func(*args, **(kwargs or {}))

    @contextlib.contextmanager
    def except_in_convolutions(self, module: nn.Module) -> Iterator[None]:
        """Enter the mode, but leave it during convolutions, which tracers record below the dispatch of modes."""
        parts = [part for part in module.modules() if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
        hooks = [part.register_forward_pre_hook(lambda *_: self.__exit__(None, None, None)) for part in parts]
        hooks += [part.register_forward_hook(lambda *_: self.__enter__() and None) for part in parts]
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()


class _Recordable(TorchFunctionMode):
    """Replaces booleans that are scattered by numbers, as tracing fails on them; the operation is the same."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, with numbers in place of booleans in a scatter."""
        if getattr(func, "__name__", "").rstrip("_") == "scatter":
            args = tuple(int(value) if isinstance(value, bool) else value for value in args)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings of tracing and counting, which do not affect counts."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
