"""The contrastive regulariser of HiDe-Prompt and NoRGa (HiDe-Prompt card, section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(features: Tensor, prototypes: Tensor, temperature: float = 0.8) -> Tensor:
    """Keep every row apart from all others: scalar, mean over prototypes and features.

    ``features``: (B, d), not normalised; ``prototypes``: (M, d) of earlier classes, without gradient, M may be 0. Each row is
    its own target in a softmax over its dot products with all M + B rows; labels play no part. Float32 throughout: squared
    norms over the temperature are large.
    """
    with torch.autocast(features.device.type, enabled=False):
        rows = torch.cat([prototypes.detach().float(), features.float()])
        logits = rows @ rows.T / temperature
        return F.cross_entropy(logits, torch.arange(len(rows), device=rows.device))
