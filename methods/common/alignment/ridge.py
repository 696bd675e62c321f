"""Ridge regression to one-hot labels from moments that accumulate over tasks.

The solution depends only on sums over all images: order and number of tasks do not change it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RidgeMoments(nn.Module):
    """Second moment of rows (M,) and their sums by class, in double precision: the checkpoint of a ridge regression."""

    gram: Tensor
    sums: Tensor

    def __init__(self, size: int, num_classes: int) -> None:
        """``size``: entries of a row."""
        super().__init__()
        self.register_buffer("gram", torch.zeros(size, size, dtype=torch.double))
        self.register_buffer("sums", torch.zeros(size, num_classes, dtype=torch.double))

    @torch.no_grad()
    def add(self, rows: Tensor, labels: Tensor) -> None:
        """Add rows (B, M) with labels (B,)."""
        rows = rows.double()
        self.gram.addmm_(rows.T, rows)
        self.sums.index_add_(1, labels, rows.T.contiguous())

    def solve(self, penalty: Tensor | float, seen_classes: int) -> Tensor:
        """Weights (M, seen_classes) under a penalty, one for all entries or (M,)."""
        wanted = torch.as_tensor(penalty, dtype=torch.double, device=self.gram.device)
        penalised = self.gram.clone()
        penalised.diagonal().add_(resolvable(wanted, self.gram.trace()))
        return torch.cholesky_solve(self.sums[:, :seen_classes], torch.linalg.cholesky(penalised))


def resolvable(penalty: Tensor, trace: Tensor) -> Tensor:
    """``penalty``, raised where needed to the smallest value that double precision resolves beside a matrix of this trace.

    A smaller one would leave a matrix of low rank numerically indefinite: its solution would be rounding errors.
    """
    return penalty.clamp(min=16 * torch.finfo(torch.double).eps * trace)


@torch.no_grad()
def choose_penalty(rows: Tensor, labels: Tensor, candidates: Sequence[float], kept: float = 0.8) -> float:
    """The candidate whose ridge regression on the first ``kept`` part of rows (n, M) predicts the rest best.

    Best is the least squared error to one-hot labels; the first of equals wins. One eigendecomposition, of the smaller of
    the two Gram matrices, serves all candidates. With a single row nothing is held out.
    """
    rows, one_hot = rows.double(), F.one_hot(labels - labels.min()).double()
    cut = max(1, int(len(rows) * kept))
    held = slice(cut, None) if cut < len(rows) else slice(None)
    train = rows[:cut]
    dual = cut <= rows.shape[1]
    values, vectors = torch.linalg.eigh(train @ train.T if dual else train.T @ train)
    left = (rows[held] @ train.T if dual else rows[held]) @ vectors
    right = vectors.T @ (one_hot[:cut] if dual else train.T @ one_hot[:cut])
    values, trace = values.clamp(min=0), train.square().sum()
    tried = torch.tensor(list(candidates), dtype=torch.double, device=rows.device)
    errors = [
        (left @ (right / (values + strength)[:, None]) - one_hot[held]).square().mean()
        for strength in resolvable(tried, trace)
    ]
    return float(candidates[int(torch.stack(errors).argmin())])
