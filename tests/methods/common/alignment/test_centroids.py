"""Multi-centroid statistics, and the one-Gaussian kinds as HiDe-Prompt takes them (HiDe card, sections 4.1 and 11 E)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from smope_bench.methods.common.alignment.centroids import (
    CentroidStatistics,
    StatisticsKind,
    UnbiasedStatistics,
    make_statistics,
)
from smope_bench.methods.common.alignment.tap import HIDE_TAP, align

THREE = torch.tensor([[1.0, 2.0], [3.0, 2.0], [2.0, 5.0]])


def blobs(seed: int = 0) -> Tensor:
    """Three well separated clusters of 10, 10 and 1 points."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[0.0, 0.0, 0.0]] * 10 + [[50.0, 0.0, 0.0]] * 10 + [[0.0, 500.0, 0.0]])
    return centres + torch.randn(21, 3, generator=generator)


def collected(rows: Tensor, centroids: int = 3, number: int = 1) -> CentroidStatistics:
    torch.manual_seed(0)
    statistics = CentroidStatistics(4, rows.shape[1], centroids)
    labels = torch.full((len(rows),), number)
    statistics.collect(range(number, number + 1), zip(rows.split(4), labels.split(4), strict=True))
    return statistics


def test_card_check_e_statistics() -> None:
    full, diagonal = make_statistics("full", 1, 2), make_statistics("diag", 1, 2)
    for statistics in (full, diagonal):
        assert isinstance(statistics, UnbiasedStatistics)
        statistics.collect(range(1), [(THREE, torch.zeros(3, dtype=torch.long))])
        assert statistics.mean[0].tolist() == [2.0, 3.0]
        sampler = statistics.sampler_of(1)
        assert sampler is not None
        factor = sampler.factor[0] if statistics.kind == "full" else torch.diag(sampler.factor[0])
        expected = torch.tensor([[1.0001, 0.0], [0.0, 3.0001]])
        torch.testing.assert_close(factor @ factor.T, expected, atol=1e-6, rtol=0)


def test_clusters_have_their_means_and_population_variances() -> None:
    rows = blobs()
    statistics = collected(rows)
    parts = [rows[:10], rows[10:20], rows[20:]]
    order = statistics.mean[1].norm(dim=1).argsort()
    for place, part in zip(order, sorted(parts, key=lambda p: float(p.mean(0).norm())), strict=True):
        np.testing.assert_allclose(statistics.mean[1, place], part.double().mean(0), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(statistics.variance[1, place], part.numpy().astype(float).var(axis=0), rtol=1e-4)
        assert statistics.count[1, place] == len(part)


def test_clustering_is_sklearns_with_the_seed_of_torch() -> None:
    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(3))
    statistics = collected(rows, centroids=10)
    torch.manual_seed(0)
    seed = int(torch.randint(2**31 - 1, ()))
    reference = KMeans(10, n_init=10, random_state=seed).fit(rows.double().numpy())  # type: ignore[arg-type]
    torch.testing.assert_close(
        statistics.mean[1], torch.as_tensor(reference.cluster_centers_).float(), atol=1e-5, rtol=1e-5
    )
    assert torch.equal(collected(rows, centroids=10).mean, statistics.mean)


def test_single_images_are_prototypes_but_never_sampled() -> None:
    statistics = collected(blobs())
    assert len(statistics.prototypes(2)) == 3
    sampler = statistics.sampler_of(2)
    assert sampler is not None and sampler.rows == 2 and sampler.classes.tolist() == [1, 1]
    torch.manual_seed(0)
    drawn, labels = sampler.draw(torch.arange(400) % 2)
    assert (labels == 1).all() and drawn[:, 1].max() < 50


def test_jitter_is_part_of_the_sampled_variance() -> None:
    statistics = collected(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), centroids=1)
    sampler = statistics.sampler_of(2)
    assert sampler is not None
    torch.testing.assert_close(sampler.factor[0].square(), torch.tensor([1.0001, 0.0001]))


@pytest.mark.parametrize("count", [1, 4])
def test_fewer_images_than_centroids(count: int) -> None:
    statistics = collected(blobs()[:count], centroids=10)
    assert len(statistics.prototypes(2)) == count
    assert statistics.sampler_of(2) is None
    torch.nn.init.zeros_((head := torch.nn.Linear(3, 2)).weight)
    align(head, statistics, old_classes=1, seen_classes=2, config=HIDE_TAP)
    assert (head.weight == 0).all()


def test_equal_images_give_fewer_clusters() -> None:
    statistics = collected(torch.ones(12, 3), centroids=10)
    assert statistics.prototypes(2).tolist() == [[1.0, 1.0, 1.0]] and statistics.sampler_of(2) is None


@pytest.mark.parametrize("kind", ["full", "diag", "centroids"])
def test_one_interface_for_all_kinds(kind: StatisticsKind) -> None:
    torch.manual_seed(0)
    statistics = make_statistics(kind, 4, 3)
    rows = torch.cat([blobs(), blobs(1) + 3])
    labels = torch.tensor([0] * 21 + [1] * 21)
    assert statistics.prototypes(0).shape == (0, 3) and statistics.sampler_of(2) is None
    statistics.collect(range(2), [(rows, labels)])
    first = statistics.of_classes(range(1)).clone()
    assert statistics.prototypes(1).shape == (10 if kind == "centroids" else 1, 3)
    statistics.collect(range(2, 3), [(rows[:21], labels[:21] + 2)])
    assert torch.equal(statistics.of_classes(range(1)), first)
    with torch.device("meta"):
        make_statistics(kind, 4, 3)


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_a_class_of_one_image_is_sampled_with_the_jitter_alone(kind: StatisticsKind) -> None:
    statistics = make_statistics(kind, 2, 3)
    statistics.collect(range(1), [(torch.ones(1, 3), torch.zeros(1, dtype=torch.long))])
    sampler = statistics.sampler_of(1)
    assert sampler is not None
    torch.manual_seed(0)
    drawn, _ = sampler.draw(torch.zeros(5000, dtype=torch.long))
    assert float(drawn.std(dim=0).mean()) == pytest.approx(0.01, rel=0.05)
