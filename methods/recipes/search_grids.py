"""Grids of hyper-parameter searches: published ones where a paper has one, else a small one of ours, labelled so. Data only.

A value is a setting as ``--set`` takes it. Base rates are factors of the recipe's rate, because recipes differ by
benchmark. Only SMoPE's paper publishes a grid; official code has fixed values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SMOPE_PAPER = "SMoPE paper, App. C (SMoPE card, section 7)"
HASH_CARD = "ours: the paper states no value; sweep of the Hash card, section 2"
OURS = "ours: no published grid; the recipe's base rate times 1/3, 1 and 3"

RATE_FACTORS = (1 / 3, 1.0, 3.0)
TENTHS = tuple(round(step / 10, 1) for step in range(11))
WEIGHTS = (5e-6, 1e-5, 5e-5, 1e-4, 5e-4, 1e-3)
RANGE_OF_START = (1.0, 0.2)
SHARE_OF_RATE = (0.1, 1.0)


@dataclass(frozen=True)
class Grid:
    """Values of a method's settings, all combinations, and their source.

    ``rate_factors`` multiply the base rate of the recipe; empty leaves the rate alone.
    """

    method: str
    source: str
    values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    rate_factors: tuple[float, ...] = ()


def _ours(method: str, key: str, values: tuple[Any, ...]) -> Grid:
    return Grid(method, f"{OURS}, with two values of {key}", {key: values}, RATE_FACTORS)


GRIDS: Mapping[str, Grid] = {
    grid.method: grid
    for grid in (
        Grid("smope", SMOPE_PAPER, {"epsilon": TENTHS, "alpha_router": WEIGHTS, "alpha_proto": WEIGHTS}),
        Grid("hash_prompt", HASH_CARD, {"delta": (0.0, 0.1, 0.5, 1.0), "beta": (0.0, 0.1, 0.3, 1.0)}),
        _ours("l2p++", "prompt_init", RANGE_OF_START),
        _ours("deep_l2p++", "prompt_lr_mult", (1.0, 0.2)),
        _ours("dualprompt", "prompt_init", RANGE_OF_START),
        _ours("coda_prompt", "prompt_lr_mult", (1.0, 5.0)),
        _ours("ovor", "prompt_init", RANGE_OF_START),
        _ours("hide_prompt", "head_lr_mult", SHARE_OF_RATE),
        _ours("norga", "head_lr_mult", SHARE_OF_RATE),
        _ours("vq_prompt", "prompt_init", RANGE_OF_START),
        _ours("cpg", "temperature", (28.0, 1.0)),
        _ours("one_prompt", "prompt_init", RANGE_OF_START),
        _ours("linear_probe", "beta1", (0.9, 0.0)),
        _ours("ranpac", "prompt_init", RANGE_OF_START),
        _ours("ease", "proxy_scale", (1.0, 20.0)),
        _ours("inflora", "threshold", (0.95, 0.98)),
        _ours("sd_lora", "magnitude", (0.8, 0.2)),
        _ours("joint_head", "beta1", (0.9, 0.0)),
        _ours("joint", "prompt_init", RANGE_OF_START),
        Grid("ncm", "ours: both metrics", {"metric": ("euclidean", "cosine")}),
        Grid("ridge", "ours: powers of ten around the default", {"penalty": (1e-4, 1e-3, 1e-2, 1e-1, 1.0)}),
    )
}


def find_grid(method: str) -> Grid:
    """The grid of a method; base rates alone for a method without one, such as a plugin's."""
    return GRIDS.get(method) or Grid(method, OURS, rate_factors=RATE_FACTORS)
