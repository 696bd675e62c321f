"""Gaussian class statistics of features, gathered in one streaming pass (SMoPE card, section 5; HiDe-Prompt card, 4.1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

Covariance = Literal["diag", "full"]

STRETCH = 192
"""Columns of a triangular factor that are multiplied at once."""


class ClassStatistics(nn.Module):
    """Mean and covariance a class, in buffers, so that they are part of a checkpoint.

    ``correction`` is what the covariance's denominator takes off n: 0 for the population form, 1 for the unbiased one. The
    covariance of a class with a single image is zero in both. ``skip_flat`` leaves classes without any variance out of
    sampling, as the code with diagonal covariances does; otherwise they are sampled with the jitter alone.
    """

    mean: Tensor
    covariance: Tensor
    count: Tensor

    def __init__(
        self, num_classes: int, dim: int, kind: Covariance = "diag", correction: int = 0, skip_flat: bool = True
    ) -> None:
        """Buffers for ``num_classes`` classes of ``dim`` features; ``full``: a covariance (dim, dim) a class, else variances."""
        super().__init__()
        self.kind = kind
        self.correction = correction
        self.skip_flat = skip_flat
        shape = (dim,) if kind == "diag" else (dim, dim)
        self.register_buffer("mean", torch.zeros(num_classes, dim))
        self.register_buffer("covariance", torch.zeros(num_classes, *shape))
        self.register_buffer("count", torch.zeros(num_classes, dtype=torch.long))

    @torch.no_grad()
    def collect(self, classes: range, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Statistics of ``classes`` from a pass over (features (B, d), labels (B,)) pairs, joined with earlier images of a class.

        Sums are in double precision, so that a single pass is as exact as float32 features.
        """
        size, dim = len(classes), self.mean.shape[1]
        total = torch.zeros(size, dim, dtype=torch.double, device=self.mean.device)
        moment = torch.zeros(size, *self.covariance.shape[1:], dtype=torch.double, device=self.mean.device)
        count = torch.zeros(size, dtype=torch.long, device=self.mean.device)
        for features, labels in pairs:
            rows, exact = labels - classes.start, features.double()
            total.index_add_(0, rows, exact)
            count.index_add_(0, rows, torch.ones_like(rows))
            if self.kind == "diag":
                moment.index_add_(0, rows, exact.square())
            else:
                members = torch.nn.functional.one_hot(rows, size).to(exact)
                moment += torch.einsum("bc,bd,be->cde", members, exact, exact)
        number = count.clamp(min=1).double()
        mean = total / number[:, None]
        scale = number / (number - self.correction).clamp(min=1)
        if self.kind == "diag":
            covariance = (moment / number[:, None] - mean.square()).clamp(min=0) * scale[:, None]
        else:
            outer = mean[:, :, None] * mean[:, None, :]
            covariance = (moment / number[:, None, None] - outer) * scale[:, None, None]
        before = self.count[classes.start : classes.stop]
        if bool(before.any()):
            mean, covariance, count = self._joined(classes, mean, covariance, count)
        self.mean[classes.start : classes.stop] = mean.float()
        self.covariance[classes.start : classes.stop] = covariance.float()
        self.count[classes.start : classes.stop] = count

    def _joined(self, classes: range, mean: Tensor, covariance: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Statistics of all images of ``classes``: the stored ones and those with these statistics (double)."""
        part = slice(classes.start, classes.stop)
        wide = (slice(None),) + (None,) * (covariance.dim() - 1)
        old, new = self.count[part], count
        total = (old + new).clamp(min=1).double()
        apart = mean - self.mean[part].double()
        between = apart.square() if self.kind == "diag" else apart[:, :, None] * apart[:, None, :]
        # Sums of squares about each mean, then those of the two means about the common one.
        within = self.covariance[part].double() * (old - self.correction).clamp(min=0)[wide]
        within = within + covariance * (new - self.correction).clamp(min=0)[wide]
        squares = within + between * (old * new / total)[wide]
        shared = self.mean[part].double() + apart * (new / total)[:, None]
        return shared, squares / (total - self.correction).clamp(min=1)[wide], old + new

    def known(self, seen: int) -> int:
        """Number of classes below ``seen`` that have statistics."""
        return int((self.count[:seen] > 0).sum())

    def usable_classes(self, seen: int) -> Tensor:
        """Classes below ``seen`` that have images, and some variance where flat ones are skipped (SMoPE card, section 5)."""
        usable = self.count[:seen] > 0
        if self.skip_flat:
            usable = usable & self.covariance[:seen].flatten(1).ne(0).any(dim=1)
        return torch.nonzero(usable).flatten()

    def sampler_of(self, seen: int) -> GaussianSampler | None:
        classes = self.usable_classes(seen)
        return self.sampler(classes) if len(classes) else None

    def sampler(self, classes: Tensor, jitter: float = 1e-4) -> GaussianSampler:
        """A sampler over ``classes``, its factors computed once; ``jitter`` is added to every variance."""
        covariance = self.covariance[classes]
        is_diagonal = self.kind == "diag"
        factor = (covariance + jitter).sqrt() if is_diagonal else factor_of(covariance.double(), jitter).float()
        return GaussianSampler(classes, self.mean[classes], factor)


def factor_of(covariance: Tensor, jitter: float) -> Tensor:
    """Lower triangular factors (n, d, d) of covariances (n, d, d) in double, with ``jitter`` added to every variance.

    A covariance of few images has directions without variance. Where others are so wide that rounding in the stored matrix
    outweighs the jitter, the sum is not positive definite: only there, negative eigenvalues are set to zero first.
    """
    eye = torch.eye(covariance.shape[-1], device=covariance.device)
    factor, faults = torch.linalg.cholesky_ex(covariance + jitter * eye)
    bad = torch.nonzero(faults).flatten()
    if len(bad):
        values, vectors = torch.linalg.eigh(covariance[bad])
        # A root of the matrix, whose QR factor is the triangular one up to the signs of its columns.
        root = (values.clamp(min=0) + jitter).sqrt()[:, :, None] * vectors.mT
        upper = torch.linalg.qr(root, mode="r").R
        factor[bad] = (upper * upper.diagonal(dim1=-2, dim2=-1).sign()[:, :, None]).mT
    return factor


class GaussianSampler:
    """Draws pseudo-features of classes from cached factors. Buffers are used again: new pages would cost more than the samples."""

    def __init__(self, classes: Tensor, mean: Tensor, factor: Tensor) -> None:
        self.classes = classes
        self.mean = mean
        self.factor = factor
        self._memory: dict[str, Tensor] = {}

    @property
    def rows(self) -> int:
        """Number of classes that can be drawn."""
        return len(self.classes)

    def draw(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """One sample for each entry of ``rows`` (n,), positions in ``classes``, on the host: features (n, d) and labels (n,).

        The next call overwrites the features. Only the copy of ``rows`` may make the host wait.
        """
        most, slots = self._slots(rows) if self.factor.dim() > 2 else (0, rows)
        rows, slots = torch.stack([rows, slots]).to(self.mean.device).unbind()
        width = self.mean.shape[1]
        noise = torch.randn(len(rows), width, out=self._room("noise", len(rows)))
        mean = torch.index_select(self.mean, 0, rows, out=self._room("mean", len(rows)))
        if self.factor.dim() == 2:
            factor = torch.index_select(self.factor, 0, rows, out=self._room("factor", len(rows)))
            features = torch.addcmul(mean, factor, noise, out=noise)
        else:
            features = self._coloured(noise, most, slots).add_(mean)
        return features, self.classes[rows]

    def _slots(self, rows: Tensor) -> tuple[int, Tensor]:
        """The samples of the class that has most, and each sample's place (n,) where every class has room for so many."""
        counts = torch.bincount(rows, minlength=self.rows)
        order = rows.argsort(stable=True)
        place = torch.empty_like(rows)
        place[order] = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows[order]]
        most = int(counts.max())
        return most, rows * most + place

    def _coloured(self, noise: Tensor, most: int, slots: Tensor) -> Tensor:
        """Noise (n, d) through the factor of its row, all classes in one product: no (n, d, d) gather. Overwrites ``noise``.

        ``most`` and ``slots``: a result of ``_slots``. Factors are lower triangular: a band of columns needs no noise beyond
        its last column.
        """
        width = noise.shape[1]
        # Rows without a sample are never read.
        by_class = self._room("by class", self.rows * most).index_copy_(0, slots, noise).view(self.rows, most, width)
        coloured = self._room("coloured", self.rows * most).view(self.rows, most, width)
        for start in range(0, width, STRETCH):
            end = min(start + STRETCH, width)
            factor = self.factor[:, start:end, :end].transpose(1, 2)
            torch.bmm(by_class[:, :, :end], factor, out=coloured[:, :, start:end])
        return torch.index_select(coloured.view(-1, width), 0, slots, out=noise)

    def _room(self, use: str, count: int) -> Tensor:
        """A buffer (count, d) with the values of an earlier draw."""
        if len(self._memory.get(use, ())) < count:
            self._memory[use] = self.mean.new_empty(count, self.mean.shape[1])
        return self._memory[use][:count]
