"""Which operators may multiply matrices, so that a count that does not know them lacks work: by schema and tags, not by a list."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

MOVED = re.compile(
    r"(native_|fused_|cudnn_)?(layer|batch|group|instance|rms)_norm\w*|\w*_loss(_forward|2d|nd)?\w*|embedding\w*"
    r"|(cosine_similarity|pairwise_distance|normalize)"
    r"|(_unsafe_)?index\w*|(masked_)?scatter\w*|gather|take\w*|masked_\w+|slice_scatter|select_scatter|diagonal_scatter"
    r"|copy_?|fill_?|_to_copy|cat|concat\w*|stack|[hvd]stack|column_stack|broadcast_tensors|meshgrid|cartesian_prod|block_diag"
    r"|\w+_as|repeat_interleave\w*|bucketize|searchsorted|isin|isclose|allclose|equal|bincount|histc|histogram\w*|unique\w*"
    r"|\w*sort|topk|kthvalue|outer|ger|kron|addr|normal\w*|bernoulli\w*|multinomial|binomial|poisson|\w*dropout\w*|lerp\w*|put\w*|set_|resize\w*|random\w*"
)
"""Operators of several tensors that normalise, compare, reduce, draw or move: their work is in proportion to their elements."""
OF_A_MATRIX = re.compile(
    r"linalg_(?!vector_norm|diagonal|norm|matrix_norm)\w+|_?fft_\w+|stft|istft|cholesky\w*|inverse|pinverse|svd|qr|geqrf|lu\w*"
    r"|matrix_(exp|power)\w*|_linalg_(?!check_errors)\w+|(log|slog)?det|corrcoef|cov|triangular_solve|lstsq"
)
"""Operators of one matrix whose work is more than its elements."""
BEHIND: Mapping[str, str] = {
    "_cdist_forward": "cdist",
    "_euclidean_dist": "cdist",
    "_scaled_dot_product": "scaled_dot_product",
}
"""Beginnings of what operators run beneath, and those operators."""


@functools.cache
def carries_products(name: str) -> bool:
    """Whether an operator, such as ``aten::gru``, may multiply matrices: it takes several tensors, element by element or not.

    Pointwise operators and those that only move or reduce do not; one that is not known to torch may.
    """
    space, _, operator = name.partition("::")
    if space == "prim":
        return operator.startswith("PythonOp")  # an autograd function: a trace does not look inside
    packet = getattr(getattr(torch.ops, space, None), operator.partition(".")[0], None)
    if packet is None:
        return True
    if OF_A_MATRIX.fullmatch(operator):
        return True
    overloads = [getattr(packet, one) for one in packet.overloads()]
    if MOVED.fullmatch(operator) or any(torch.Tag.pointwise in one.tags for one in overloads):
        return False
    return any(_tensors(one) > 1 for one in overloads)


def _tensors(overload: Any) -> int:
    """Tensors that an overload multiplies or might; 0 for one that writes into a given tensor. A list counts as two."""
    arguments = overload._schema.arguments
    if any(argument.is_out for argument in arguments):
        return 0
    kinds = [str(argument.type) for argument in arguments]
    return sum({"Tensor": 1, "Optional[Tensor]": 1, "List[Tensor]": 2}.get(kind, 0) for kind in kinds)


def in_products(uncounted: Mapping[str, int]) -> dict[str, int]:
    """Of the operators that a counter leaves out, those that may multiply matrices, with their occurrences."""
    return {name: count for name, count in sorted(uncounted.items()) if carries_products(name)}


def beneath(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The operators that are none of ``known`` and do not run beneath one of them."""
    covered = set(known)
    return [
        name
        for name in names
        if name not in covered
        and not any(
            name.startswith(f"aten::{part}") and any(one.startswith(f"aten::{over}") for one in covered)
            for part, over in BEHIND.items()
        )
    ]
