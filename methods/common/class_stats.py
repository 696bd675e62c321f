"""Gaussian class statistics of features, gathered in one streaming pass (SMoPE card, section 5)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

Covariance = Literal["diag", "full"]


class ClassStatistics(nn.Module):
    """Mean and population (1/n) covariance a class, in buffers, so that they are part of a checkpoint."""

    mean: Tensor
    covariance: Tensor
    count: Tensor

    def __init__(self, num_classes: int, dim: int, kind: Covariance = "diag") -> None:
        """Room for ``num_classes`` classes of ``dim``-dimensional features; ``full`` keeps (dim, dim) a class."""
        super().__init__()
        self.kind = kind
        shape = (dim,) if kind == "diag" else (dim, dim)
        self.register_buffer("mean", torch.zeros(num_classes, dim))
        self.register_buffer("covariance", torch.zeros(num_classes, *shape))
        self.register_buffer("count", torch.zeros(num_classes, dtype=torch.long))

    @torch.no_grad()
    def collect(self, classes: range, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Replace the statistics of ``classes`` by those of a pass over (features (B, d), labels (B,)) pairs.

        Sums are kept in double precision: a single pass loses nothing that float32 features hold.
        """
        size, dim = len(classes), self.mean.shape[1]
        total = torch.zeros(size, dim, dtype=torch.double, device=self.mean.device)
        moment = torch.zeros(size, *self.covariance.shape[1:], dtype=torch.double, device=self.mean.device)
        count = torch.zeros(size, dtype=torch.long, device=self.mean.device)
        for features, labels in pairs:
            rows, exact = labels - classes.start, features.double()
            total.index_add_(0, rows, exact)
            count += torch.bincount(rows, minlength=size)
            if self.kind == "diag":
                moment.index_add_(0, rows, exact.square())
            else:
                members = torch.nn.functional.one_hot(rows, size).to(exact)
                moment += torch.einsum("bc,bd,be->cde", members, exact, exact)
        number = count.clamp(min=1).double()
        mean = total / number[:, None]
        if self.kind == "diag":
            covariance = (moment / number[:, None] - mean.square()).clamp(min=0)
        else:
            covariance = moment / number[:, None, None] - mean[:, :, None] * mean[:, None, :]
        self.mean[classes.start : classes.stop] = mean.float()
        self.covariance[classes.start : classes.stop] = covariance.float()
        self.count[classes.start : classes.stop] = count

    def usable_classes(self, seen: int) -> Tensor:
        """Classes below ``seen`` with images and some variance; others cannot be sampled (SMoPE card, section 5)."""
        varies = self.covariance[:seen].flatten(1).ne(0).any(dim=1)
        return torch.nonzero(varies & (self.count[:seen] > 0)).flatten()

    def sampler(self, classes: Tensor, jitter: float = 1e-4) -> GaussianSampler:
        """A sampler over ``classes``, its factors computed once; ``jitter`` is added to every variance."""
        covariance = self.covariance[classes]
        if self.kind == "diag":
            factor = (covariance + jitter).sqrt()
        else:
            eye = torch.eye(covariance.shape[-1], device=covariance.device)
            factor = torch.linalg.cholesky(covariance.double() + jitter * eye).float()
        return GaussianSampler(classes, self.mean[classes], factor)


class GaussianSampler:
    """Draws pseudo-features of classes from cached factors."""

    def __init__(self, classes: Tensor, mean: Tensor, factor: Tensor) -> None:
        self.classes = classes
        self.mean = mean
        self.factor = factor

    def draw(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """One sample for each entry of ``rows``, positions in ``classes``: features (n, d) and labels (n,)."""
        noise = torch.randn(len(rows), self.mean.shape[1], device=self.mean.device)
        if self.factor.dim() == 2:
            features = torch.addcmul(self.mean[rows], self.factor[rows], noise)
        else:
            features = self.mean[rows] + torch.einsum("nde,ne->nd", self.factor[rows], noise)
        return features, self.classes[rows]
