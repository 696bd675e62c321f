"""SMoPE card, section 11 (f): learning rates with the official off-by-ones."""

from __future__ import annotations

import itertools
import math

import pytest

from smope_bench.methods.common.schedules import FLOOR, Schedule, learning_rate, quarter_cosine, restart_cosine

CIFAR = Schedule(shape="coswm", lr=0.005, freeze_steps=80, steps_per_epoch=40)
IMAGENET_R_10 = Schedule(shape="coswm", lr=0.0025, freeze_steps=40, steps_per_epoch=40)


def rate(schedule: Schedule, base: float, step: int, epochs: int = 20, loader_steps: int = 39) -> float:
    return learning_rate(schedule, base, step=step, loader_steps=loader_steps, epochs=epochs)


@pytest.mark.parametrize(
    ("step", "prompts", "head"),
    [
        (0, 0.025, 0.005),
        (1, 1e-6, 1e-6),
        (80, 1e-6, 1e-6),
        (81, 0.025, 0.005),
        (440, 0.0125550, 0.00251141),
        (779, 5.8545e-5, 1.2507e-5),
    ],
)
def test_cifar_sparse(step: int, prompts: float, head: float) -> None:
    assert rate(CIFAR, 0.025, step) == pytest.approx(prompts, rel=1e-4)
    assert rate(CIFAR, 0.005, step) == pytest.approx(head, rel=1e-4)


@pytest.mark.parametrize(("step", "prompts"), [(200, 0.0173970), (389, 8.7641e-5)])
def test_cifar_dense(step: int, prompts: float) -> None:
    assert rate(CIFAR, 0.025, step, epochs=10) == pytest.approx(prompts, rel=1e-4)


@pytest.mark.parametrize(("step", "prompts"), [(41, 0.0125), (400, 0.00679232), (801, 1e-6), (900, 1e-6)])
def test_imagenet_r_sparse(step: int, prompts: float) -> None:
    assert rate(IMAGENET_R_10, 0.0125, step, loader_steps=46) == pytest.approx(prompts, rel=1e-4)


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 0.025), (1, 0.025), (2, 0.024916), (3, 0.024666), (4, 0.024250), (19, 0.002435)]
)
def test_cub_is_stepped_by_epoch(epoch: int, expected: float) -> None:
    schedule = Schedule(shape="cosine", lr=0.005)
    assert quarter_cosine(epoch, base=0.025, epochs=20) == pytest.approx(expected, abs=5e-7)
    for step in (0, 3):
        assert rate(schedule, 0.025, epoch * 4 + step, loader_steps=4) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(("step", "expected"), [(0, 1e-4), (1, 1e-5), (500, 5.5141e-6), (999, 1.0001e-6)])
def test_alignment(step: int, expected: float) -> None:
    assert restart_cosine(step, base=1e-5, total=1000, first=1e-4) == pytest.approx(expected, rel=1e-4)


def test_dense_cub_ends_at_its_known_fraction() -> None:
    assert quarter_cosine(9, base=1.0, epochs=10) == pytest.approx(0.1874, abs=5e-5)
    assert quarter_cosine(0, base=1.0, epochs=1) == 1.0


def test_plain_cosine_has_neither_full_first_step_nor_freeze() -> None:
    schedule = CIFAR.model_copy(update={"shape": "plain_cosine"})
    rates = [rate(schedule, 0.01, step) for step in range(39 * 20)]
    assert rates[0] == pytest.approx(0.01)
    assert all(later < sooner for sooner, later in itertools.pairwise(rates))


def test_first_step_switch() -> None:
    schedule = CIFAR.model_copy(update={"lr_first_step_full": False})
    assert rate(schedule, 0.025, 0) == FLOOR
    assert rate(schedule, 0.025, 80) == pytest.approx(0.025)


def test_a_freeze_longer_than_the_phase_stays_at_the_floor() -> None:
    schedule = Schedule(shape="coswm", lr=0.01, freeze_steps=1000, steps_per_epoch=2)
    assert [rate(schedule, 0.01, step, epochs=2, loader_steps=2) for step in range(4)] == [0.01, FLOOR, FLOOR, FLOOR]


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.015), (30, 0.015), (31, 0.0015), (49, 0.0015)])
def test_the_step_schedule_lags_by_one_epoch(epoch: int, expected: float) -> None:
    """HiDe-Prompt card, section 6.1: fifty epochs fall once, before epoch 31."""
    schedule = Schedule(shape="step", lr=0.015)
    for step in (0, 39):
        assert rate(schedule, 0.015, epoch * 40 + step, epochs=50, loader_steps=40) == pytest.approx(expected)


def test_the_epoch_cosine_lags_by_one_and_ends_above_its_floor() -> None:
    """HiDe-Prompt card, section 6.1: rate of s = e - 1 over E epochs, down to 1e-5."""
    schedule = Schedule(shape="epoch_cosine", lr=0.015)
    rates = [rate(schedule, 0.015, epoch * 19, epochs=150, loader_steps=19) for epoch in range(150)]
    assert rates[0] == rates[1] == pytest.approx(0.015)
    assert rates[76] == pytest.approx(1e-5 + (0.015 - 1e-5) / 2)
    assert rates[149] == pytest.approx(1e-5 + (0.015 - 1e-5) * 0.5 * (1 + math.cos(math.pi * 148 / 150)))
