"""Gated prefix attention: a non-linear residual on the prefix logits (NoRGa card, section 2.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from smope_bench.methods.common.prompts.prefix_logits import attend_with_logits
from smope_bench.methods.common.vit.attention_rules import of_images

Activation = Literal["sigmoid", "tanh", "gelu", "relu", "softplus", "elu", "identity"]

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "relu": F.relu,
    "softplus": F.softplus,
    "elu": F.elu,
    "identity": lambda scores: scores,
}


class GatedPrefix:
    """Attention rule in which prefix j's scaled logit s becomes ``s + alpha * act(tau * s)``; tokens' logits stay as they are.

    ``keys``, ``values``: (heads, P, head_dim) or (B, heads, P, head_dim); ``tau``, ``alpha``: scalars, with ``alpha`` 0 the
    rule is ``PlainPrefix``.
    """

    def __init__(self, keys: Tensor, values: Tensor, tau: Tensor, alpha: Tensor, activation: Activation) -> None:
        self.keys = keys
        self.values = values
        self.tau = tau
        self.alpha = alpha
        self.activation: Activation = activation

    def part(self, rows: slice) -> GatedPrefix:
        """The rule for some of the images."""
        keys, values = of_images(self.keys, rows, 3), of_images(self.values, rows, 3)
        return GatedPrefix(keys, values, self.tau, self.alpha, self.activation)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention over the P prefix pairs and the N token pairs: (B, heads, N, head_dim)."""
        scores = (q @ self.keys.transpose(-2, -1).to(q.dtype)) * q.shape[-1] ** -0.5
        gated = scores + self.alpha * ACTIVATIONS[self.activation](self.tau * scores)
        return attend_with_logits(q, k, v, gated, self.values)
