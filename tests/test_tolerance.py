"""The bound on the error of a sum holds in every order of its terms, and is far smaller than one of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.tolerance import assert_sum_close, printed_tolerance  # pyright: ignore[reportMissingImports]

COUNT = 400


def products(rows: int = 50) -> Tensor:
    """Signed products (rows, COUNT), float64, that float32 holds exactly."""
    factors = torch.randn(2, rows, COUNT, generator=torch.Generator().manual_seed(0))
    return (factors[0] * factors[1]).double()


def one_by_one(terms: Tensor) -> Tensor:
    total = torch.zeros(len(terms))
    for term in terms.unbind(dim=1):
        total = total + term
    return total


@pytest.mark.parametrize(
    "add",
    [
        one_by_one,
        lambda terms: one_by_one(terms.flip(1)),
        lambda terms: one_by_one(terms.sort(dim=1).values),
        lambda terms: one_by_one(terms.unflatten(1, (-1, 16)).sum(dim=1)),
        lambda terms: terms.sum(dim=1),
    ],
)
def test_every_order_is_within_the_bound(add: Callable[[Tensor], Tensor]) -> None:
    terms = products()
    assert_sum_close(add(terms.float()), terms.sum(dim=1), terms.abs().sum(dim=1), COUNT)


@pytest.mark.parametrize(
    "fault",
    [
        lambda terms: terms[:, 1:].sum(dim=1),
        lambda terms: 1.001 * terms.sum(dim=1),
        lambda terms: terms.bfloat16().float().sum(dim=1),
        lambda terms: terms.sum(dim=1) / 0,
        lambda terms: terms.sum(dim=1) * torch.nan,
    ],
)
def test_faults_are_outside_the_bound(fault: Callable[[Tensor], Tensor]) -> None:
    terms = products()
    with pytest.raises(AssertionError, match="elements are too far from the reference"):
        assert_sum_close(fault(terms.float()), terms.sum(dim=1), terms.abs().sum(dim=1), COUNT)


def test_a_reference_must_be_more_exact_than_what_it_judges() -> None:
    one = torch.ones(2)
    with pytest.raises(AssertionError, match="must be float64"):
        assert_sum_close(one, one, one, 1)


def test_a_printed_figure_is_rounded_by_half_a_unit() -> None:
    assert abs(2 / 3 - 0.666667) < printed_tolerance(1.0, dtype=torch.float64) < abs(2 / 3 - 0.666666)
    assert printed_tolerance(10.0) < 1.1e-5 < printed_tolerance(10.0, decimals=4)
