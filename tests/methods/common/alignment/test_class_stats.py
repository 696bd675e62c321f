"""Class statistics against NumPy, samplers against their moments, and classifier alignment (SMoPE card, section 5)."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smope_bench.methods.common.alignment.class_stats import (
    STRETCH,
    ClassStatistics,
    Covariance,
    GaussianSampler,
    factor_of,
)
from smope_bench.methods.common.alignment.tap import TapConfig, align
from tests.tolerance import assert_sum_close  # pyright: ignore[reportMissingImports]


def features(seed: int = 0, count: int = 60, dim: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator)
    return torch.randn(count, dim, generator=generator) @ mixing + 3, 2 + torch.arange(count) % 3


def collected(kind: Covariance, batch: int) -> ClassStatistics:
    values, labels = features()
    stats = ClassStatistics(6, 5, kind)
    stats.collect(range(2, 5), zip(values.split(batch), labels.split(batch), strict=True))
    return stats


@pytest.mark.parametrize("batch", [1, 7, 60])
def test_statistics_equal_numpy_whatever_the_batch(batch: int) -> None:
    values, labels = features()
    diagonal, full = collected("diag", batch), collected("full", batch)
    for label in (2, 3, 4):
        members = values[labels == label].numpy().astype(np.float64)
        np.testing.assert_allclose(diagonal.mean[label], members.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(diagonal.covariance[label], members.var(axis=0), rtol=1e-4)
        np.testing.assert_allclose(full.covariance[label], np.cov(members.T, bias=True), rtol=1e-4, atol=1e-6)
        assert diagonal.count[label] == len(members)
    assert (diagonal.mean[[0, 1, 5]] == 0).all()


@pytest.mark.parametrize("kind", ["diag", "full"])
def test_samples_have_the_classes_moments(kind: Covariance) -> None:
    torch.manual_seed(0)
    stats = collected(kind, 20)
    drawn, labels = stats.sampler(torch.tensor([3])).draw(torch.zeros(40_000, dtype=torch.long))
    assert (labels == 3).all()
    torch.testing.assert_close(drawn.mean(dim=0), stats.mean[3], atol=0.1, rtol=0.02)
    covariance = stats.covariance[3] if kind == "full" else torch.diag(stats.covariance[3])
    torch.testing.assert_close(torch.cov(drawn.T), covariance, atol=0.25, rtol=0.08)


def test_the_unbiased_form_and_its_single_image() -> None:
    """HiDe-Prompt card, self-check E: (1,2), (3,2), (2,5) have variances 1 and 3 with n - 1, and no covariance."""
    stats = ClassStatistics(2, 2, "full", correction=1, skip_flat=False)
    rows = torch.tensor([[1.0, 2], [3, 2], [2, 5], [7, 7]])
    stats.collect(range(2), [(rows, torch.tensor([0, 0, 0, 1]))])
    assert stats.mean.tolist() == [[2, 3], [7, 7]]
    torch.testing.assert_close(stats.covariance[0], torch.diag(torch.tensor([1.0, 3])))
    assert stats.covariance[1].abs().max() == 0
    sampler = stats.sampler_of(2)
    assert sampler is not None and sampler.rows == 2
    torch.testing.assert_close(sampler.factor[0].square(), torch.diag(torch.tensor([1.0001, 3.0001])))
    drawn, labels = sampler.draw(torch.ones(500, dtype=torch.long))
    assert labels.eq(1).all() and abs(float(drawn.std(dim=0).mean()) - 0.01) < 1e-3


def test_full_covariance_draws_are_the_noise_through_each_rows_own_factor() -> None:
    stats = collected("full", 20)
    sampler = stats.sampler(torch.tensor([2, 4, 3]))
    rows = torch.tensor([2, 0, 0, 1, 2, 2, 0])
    torch.manual_seed(5)
    drawn, labels = sampler.draw(rows)
    torch.manual_seed(5)
    noise = torch.randn(len(rows), 5)
    expected = torch.stack([sampler.mean[r] + sampler.factor[r] @ z for r, z in zip(rows, noise, strict=True)])
    torch.testing.assert_close(drawn, expected)
    assert labels.tolist() == [3, 2, 2, 4, 3, 3, 2]


def test_wide_factors_are_multiplied_by_stretches_of_their_triangle() -> None:
    width, generator = 2 * STRETCH + 7, torch.Generator().manual_seed(0)
    factor = torch.randn(3, width, width, generator=generator).tril()
    sampler = GaussianSampler(torch.arange(3), torch.randn(3, width, generator=generator), factor)
    rows = torch.tensor([2, 0, 2])
    torch.manual_seed(5)
    drawn, _ = sampler.draw(rows)
    torch.manual_seed(5)
    noise = torch.randn(len(rows), width)
    mean, factor, noise = sampler.mean[rows].double(), factor[rows].double(), noise.double()
    reference = mean + torch.einsum("nde,ne->nd", factor, noise)
    magnitude = mean.abs() + torch.einsum("nde,ne->nd", factor.abs(), noise.abs())
    assert_sum_close(drawn, reference, magnitude, terms=width + 1)


def test_alignment_by_sgd_takes_the_steps_of_the_card() -> None:
    """HiDe-Prompt card, section 4.2: momentum 0.9, a cosine by epoch, one step for each old class."""
    config = TapConfig(epochs=3, samples=4, lr=0.5, weight_decay=0, optimizer="sgd", shape="epoch_cosine", cov="full")
    stats, head = collected("full", 20), nn.Linear(5, 6)
    stats.mean[:2], stats.count[:2] = torch.randn(2, 5), 9
    stats.covariance[:2] = torch.eye(5)
    rows: list[Tensor] = []
    handle = head.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0]))
    expected = copy.deepcopy(head)
    torch.manual_seed(1)
    align(head, stats, old_classes=2, seen_classes=5, config=config)
    handle.remove()
    assert [len(each) for each in rows] == [4] * 6
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.5, momentum=0.9)
    sampler = stats.sampler_of(5)
    assert sampler is not None
    for epoch in range(3):
        drawn, labels = sampler.draw(torch.randperm(5 * 4)[:8] % 5)
        for part in (slice(0, 4), slice(4, 8)):
            optimizer.param_groups[0]["lr"] = 0.5 * (1 + math.cos(math.pi * epoch / 3)) / 2
            loss = nn.functional.cross_entropy(expected(drawn[part])[:, :5], labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.testing.assert_close(head.weight, expected.weight)


def test_a_class_without_variance_cannot_be_sampled_and_is_left_out() -> None:
    stats = collected("diag", 20)
    stats.collect(range(0, 1), [(torch.ones(1, 5), torch.zeros(1, dtype=torch.long))])
    assert stats.usable_classes(5).tolist() == [2, 3, 4]


def test_one_image_a_class_with_full_covariance_still_samples() -> None:
    stats = ClassStatistics(2, 4, "full")
    stats.collect(range(0, 2), [(torch.randn(3, 4), torch.tensor([0, 1, 1]))])
    sampler = stats.sampler(torch.tensor([0, 1]))
    drawn, _ = sampler.draw(torch.tensor([0, 1, 0]))
    assert torch.isfinite(drawn).all()


def aligned(config: TapConfig, old: int = 2, seen: int = 5) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(1)
    head = nn.Linear(5, 6)
    before = nn.Linear(5, 6)
    before.load_state_dict(head.state_dict())
    stats = collected("diag", 20)
    stats.collect(range(0, 2), [(torch.randn(20, 5) - 3, torch.arange(20) % 2)])
    align(head, stats, old_classes=old, seen_classes=seen, config=config)
    return before, head


def test_alignment_is_skipped_where_the_code_skips_it() -> None:
    for config, old, moves in (
        (TapConfig(epochs=1, samples=4), 0, False),
        (TapConfig(epochs=1, samples=4, first_task=True), 0, True),
        (TapConfig(epochs=1, samples=4, enabled=False), 2, False),
        (TapConfig(epochs=1, samples=4), 2, True),
    ):
        before, after = aligned(config, old=old)
        assert bool((before.weight != after.weight).any()) is moves


def test_alignment_moves_seen_rows_and_leaves_later_ones_to_weight_decay() -> None:
    before, after = aligned(TapConfig(epochs=4, samples=8))
    change = (after.weight - before.weight).abs().sum(dim=1)
    assert (change[:5] > 1e-4).all()
    assert change[5] < 1e-5


@pytest.mark.parametrize(("steps", "expected"), [("n_old", 2 * 3), ("n_all", 5 * 3)])
def test_steps_an_epoch(monkeypatch: pytest.MonkeyPatch, steps: str, expected: int) -> None:
    taken: list[float] = []
    original = torch.optim.AdamW.step

    def counted(self: torch.optim.AdamW, *args: object) -> object:
        taken.append(self.param_groups[0]["lr"])
        assert self.param_groups[0]["weight_decay"] == 5e-4
        return original(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    aligned(TapConfig(epochs=3, samples=8, steps=steps))  # type: ignore[arg-type]
    assert len(taken) == expected
    assert taken[0] == 1e-4 and taken[1] == pytest.approx(1e-5)
    assert all(later < sooner for sooner, later in itertools.pairwise(taken))


def test_alignment_repairs_a_biased_head() -> None:
    torch.manual_seed(0)
    labels = torch.arange(90) % 3
    values = torch.eye(3)[labels] * 8 + torch.randn(90, 3)
    stats = ClassStatistics(3, 3)
    stats.collect(range(3), [(values, labels)])
    head = nn.Linear(3, 3)
    head.bias.data[2] += 50

    def accuracy() -> float:
        return (head(values).argmax(dim=1) == labels).float().mean().item()

    assert accuracy() < 0.4
    align(head, stats, old_classes=2, seen_classes=3, config=TapConfig(epochs=200, samples=16, lr=5.0))
    assert accuracy() > 0.95


def test_few_widely_spread_images_of_a_class_have_a_factor() -> None:
    """Three images of 64 features: rounding of their covariance to float32 outweighs the jitter in 62 directions."""
    torch.manual_seed(0)
    spread = torch.randn(3, 64) * 3000
    statistics = ClassStatistics(2, 64, "full")
    statistics.collect(range(2), [(torch.cat([spread, torch.randn(90, 64)]), torch.tensor([0] * 3 + [1] * 90))])
    covariance = statistics.covariance.double()
    jitter = 1e-4 * torch.eye(64)
    assert torch.linalg.cholesky_ex(covariance + jitter).info.gt(0).tolist() == [True, False]
    factor = factor_of(covariance, 1e-4)
    assert torch.equal(factor, factor.tril()) and (factor.diagonal(dim1=1, dim2=2) > 0).all()
    torch.testing.assert_close(factor @ factor.mT, covariance, rtol=1e-6, atol=1.0)
    assert torch.equal(factor[1], torch.linalg.cholesky(covariance[1] + jitter)), (
        "well-conditioned classes keep every bit"
    )
    sampler = statistics.sampler_of(2)
    assert sampler is not None
    drawn, _ = sampler.draw(torch.zeros(4000, dtype=torch.long))
    torch.testing.assert_close(drawn.std(dim=0), spread.std(dim=0, correction=0), rtol=0.1, atol=0)
