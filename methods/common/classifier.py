"""The linear classifier that grows with the classes, and the losses on its logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def make_head(feature_dim: int, num_classes: int, *, small: bool = False) -> nn.Linear:
    """One linear layer for all classes, indexed in order of arrival, in PyTorch's default initialisation.

    ``small``: truncated normal weights of deviation 0.02 and no bias at the start (HiDe-Prompt card, section 1).
    """
    head = nn.Linear(feature_dim, num_classes)
    if small:
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
    return head


def seen_logits(head: nn.Linear, features: Tensor, seen_classes: int) -> Tensor:
    """Logits (B, seen_classes) in float32; rows of later classes are not read."""
    with torch.autocast(features.device.type, enabled=False):
        return F.linear(features.float(), head.weight[:seen_classes], head.bias[:seen_classes])


def settled_rows(head: nn.Linear, seen_classes: int) -> dict[str, Tensor]:
    """Weights and bias (d + 1,) of each seen class, by name, for ``Method.settled`` where classes do not come again."""
    rows = torch.cat([head.weight, head.bias[:, None]], dim=1)[:seen_classes]
    return {f"classifier of class {number}": row for number, row in enumerate(rows)}


def current_task_loss(
    logits: Tensor, labels: Tensor, old_classes: int, *, mask_old: bool = True, absent: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy of (B, seen) logits; ``mask_old`` leaves only the current task's classes in the softmax.

    ``absent``: classes that the task has no images of, beside the first ``old_classes``.
    """
    if not mask_old:
        return F.cross_entropy(logits, labels)
    if absent is not None:
        logits = logits.index_fill(1, absent, float("-inf"))
    return F.cross_entropy(logits[:, old_classes:], labels - old_classes)
