"""Tolerances of floating-point comparisons that hold on every processor, derived from the sums that are compared.

The order in which the terms of a sum are added depends on the processor's vector width, on fused multiply-add, on the
blocks of a matrix library and on the number of threads; two orders give two results. For every order, the error of a sum
of n products is at most gamma_n times the sum of the products' absolute values, with gamma_n = n u / (1 - n u) and the
unit roundoff u (N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.1). A tolerance
taken from this bound, rather than from the error seen on one machine, fails on no processor; a missing term, a wrong
factor or a product in bfloat16 is still far outside it.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

Size = TypeVar("Size", float, Tensor)


def sum_tolerance(magnitude: Size, terms: int, dtype: torch.dtype = torch.float32) -> Size:
    """Largest error of a sum of ``terms`` products computed in ``dtype``, in any order.

    ``magnitude`` is the sum of the products' absolute values, or a bound of it.
    """
    roundoff = torch.finfo(dtype).eps / 2
    return magnitude * (terms * roundoff / (1 - terms * roundoff))


def printed_tolerance(size: float, terms: int = 16, decimals: int = 6, dtype: torch.dtype = torch.float32) -> float:
    """Tolerance against a figure printed with ``decimals`` decimals, for a value computed in ``dtype``.

    Half a unit of the last printed decimal, and the rounding of ``terms`` operations on numbers up to ``size``.
    """
    return 0.5 * 10**-decimals + sum_tolerance(size, terms, dtype)


def assert_sum_close(actual: Tensor, reference: Tensor, magnitude: Tensor, terms: int) -> None:
    """Assert that sums are those of a float64 reference, element by element.

    ``magnitude``, of the same shape, is the sum of the ``terms`` products' absolute values in each element.
    """
    assert reference.dtype == torch.float64, f"the reference must be float64, not {reference.dtype}"
    assert actual.shape == reference.shape == magnitude.shape
    error, tolerance = (actual.double() - reference).abs(), sum_tolerance(magnitude, terms, actual.dtype)
    far = ~(error <= tolerance)  # NaN is far, too
    assert not far.any(), (
        f"{int(far.sum())} of {far.numel()} elements are too far from the reference: "
        f"error up to {error[far].max():.3g} where {tolerance[far].max():.3g} is allowed"
    )
