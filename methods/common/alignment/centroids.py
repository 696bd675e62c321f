"""Multi-centroid class statistics: a few diagonal Gaussians a class, by k-means (HiDe-Prompt card, section 4.1)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from smope_bench.methods.common.alignment.class_stats import ClassStatistics, GaussianSampler
from smope_bench.methods.common.progress import counted

StatisticsKind = Literal["full", "diag", "centroids"]


class CentroidStatistics(nn.Module):
    """Up to ``centroids`` clusters a class, each with its mean, variance a channel (population form) and image count.

    Same interface as ``ClassStatistics``. A class with fewer images than ``centroids`` gets a cluster an image. Clusters
    without any variance, such as those of a single image, are prototypes but are never sampled from.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, num_classes: int, dim: int, centroids: int = 10, restarts: int = 10) -> None:
        """``restarts``: k-means runs a class; the best one is kept."""
        super().__init__()
        self.centroids = centroids
        self.restarts = restarts
        self.register_buffer("mean", torch.zeros(num_classes, centroids, dim))
        self.register_buffer("variance", torch.zeros(num_classes, centroids, dim))
        self.register_buffer("count", torch.zeros(num_classes, centroids, dtype=torch.long))

    @torch.no_grad()
    def collect(self, classes: range, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Replace the statistics of ``classes`` by those of (features (B, d), labels (B,)) pairs, gathered in memory."""
        found = [(features.float(), labels) for features, labels in pairs]
        features = torch.cat([each for each, _ in found])
        labels = torch.cat([each for _, each in found])
        for number in counted(classes, "k-means", len(classes), "classes"):
            rows = features[labels == number].double()
            self.mean[number], self.variance[number], self.count[number] = 0.0, 0.0, 0
            if len(rows):
                self._fill(number, rows)

    def _fill(self, number: int, rows: Tensor) -> None:
        assignment = _clusters(rows, self.centroids, self.restarts)
        for place, cluster in enumerate(assignment.unique()):
            members = rows[assignment == cluster]
            self.mean[number, place] = members.mean(dim=0).float()
            self.variance[number, place] = members.var(dim=0, correction=0).float()
            self.count[number, place] = len(members)

    def known(self, seen: int) -> int:
        """Number of classes below ``seen`` that have statistics."""
        return int((self.count[:seen] > 0).any(dim=1).sum())

    def prototypes(self, seen: int) -> Tensor:
        """All centroids of the classes below ``seen``: (M, d)."""
        return self.mean[:seen][self.count[:seen] > 0]

    def sampler_of(self, seen: int, jitter: float = 1e-4) -> GaussianSampler | None:
        """A sampler over the clusters of the classes below ``seen`` that have variance, one row each; None without any."""
        usable = (self.count[:seen] > 0) & self.variance[:seen].ne(0).any(dim=-1)
        classes = usable.nonzero()[:, 0]
        if not len(classes):
            return None
        return GaussianSampler(classes, self.mean[:seen][usable], (self.variance[:seen][usable] + jitter).sqrt())

    def of_classes(self, classes: range) -> Tensor:
        """All statistics of ``classes`` in one tensor, for comparison."""
        part = slice(classes.start, classes.stop)
        return torch.cat([self.mean[part], self.variance[part], self.count[part, :, None].float()], dim=-1)


def _clusters(rows: Tensor, centroids: int, restarts: int) -> Tensor:
    """Cluster number of each row (n, d); the seed comes from torch's generator."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    seed = int(torch.randint(2**31 - 1, ()))
    model = KMeans(min(centroids, len(rows)), n_init=cast("Any", restarts), random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct images than clusters: fewer clusters
        found = model.fit_predict(rows.cpu().numpy())
    return torch.as_tensor(found, device=rows.device).long()


class UnbiasedStatistics(ClassStatistics):
    """One Gaussian a class as in HiDe-Prompt: denominator n - 1, and classes without variance are sampled too."""

    def __init__(self, num_classes: int, dim: int, kind: Literal["full", "diag"]) -> None:
        super().__init__(num_classes, dim, kind, correction=1, skip_flat=False)

    def prototypes(self, seen: int) -> Tensor:
        """Means of the classes below ``seen``: (M, d)."""
        return self.mean[:seen][self.count[:seen] > 0]

    def of_classes(self, classes: range) -> Tensor:
        """All statistics of ``classes`` in one tensor, for comparison."""
        part = slice(classes.start, classes.stop)
        known = (self.mean[part], self.covariance[part].flatten(1), self.count[part, None].float())
        return torch.cat(known, dim=-1)


StatisticsModule: TypeAlias = CentroidStatistics | UnbiasedStatistics


def make_statistics(kind: StatisticsKind, num_classes: int, dim: int) -> StatisticsModule:
    """Statistics of a ``kind``: ``full`` (HiDe-Prompt as NoRGa's code has it), ``diag``, or ``centroids`` (HiDe-Prompt)."""
    if kind == "centroids":
        return CentroidStatistics(num_classes, dim)
    return UnbiasedStatistics(num_classes, dim, kind)
