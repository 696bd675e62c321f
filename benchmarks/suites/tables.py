"""The tables of the SMoPE paper, and its longest sequence of tasks."""

from __future__ import annotations

from typing import Any

from smope_bench.benchmarks.suites.schema import (
    CIFAR_10,
    CODA,
    CUB_10,
    DEEP_L2P,
    DIGITS_5,
    DUALPROMPT,
    EMOJI_10,
    GLYPHS_10,
    GLYPHS_RANDOM,
    HIDE,
    JOINT,
    L2P,
    NORGA,
    OVOR,
    SMOPE,
    VQ,
    Printed,
    Row,
    Suite,
    glyphs,
    imagenet_r,
)

PUBLISHED = (L2P, DEEP_L2P, DUALPROMPT, CODA, OVOR, HIDE, NORGA, VQ, SMOPE)
"""The nine methods of the paper in the order of its tables."""

_OFF: dict[str, Any] = {
    "score_agg": "mean",
    "top_k": 5,
    "epsilon": 0.0,
    "tap": {"enabled": False},
    "dense_start": False,
    "alpha_router": 0.0,
    "alpha_proto": 0.0,
}

PER_TOKEN: dict[str, Any] = _OFF | {"score_agg": "per_token", "top_k": 0}
"""One prompt with a score for each token and expert: ordinary prefix tuning."""
AGGREGATED: dict[str, Any] = PER_TOKEN | {"score_agg": "mean"}
"""One prompt with one score for each expert and image, and nothing else."""

AS_PRINTED: dict[str, Any] = {"noise_scale": "paper"}
"""Table 7 has fixed and uniform noise of the paper's text, whose scores are divided by the root of the head's width. The
official code has neither form of noise, and its scores are not divided: epsilon on them would be eight times weaker at
width 64. Adaptive noise is in units of the score range and the same on both."""


def ablation() -> tuple[Row, ...]:
    """The eight cumulative rows of Table 4; a part that is switched on takes its value from the recipe."""
    sparse = dict(_OFF)
    rows = [
        Row("One prompt", "smope", PER_TOKEN, "one_prompt"),
        Row("+ score aggregation", "smope", AGGREGATED, "score_aggregation"),
        Row("+ sparse selection", "smope", dict(sparse), "sparse_selection"),
    ]
    for label, part, variant in (
        ("+ adaptive noise", "epsilon", "adaptive_noise"),
        ("+ TAP", "tap", "tap"),
        ("+ dense start", "dense_start", "dense_start"),
        ("+ router loss", "alpha_router", "router_loss"),
        ("+ prototype loss", "alpha_proto", "prototype_loss"),
    ):
        del sparse[part]
        rows.append(Row(label, "smope", dict(sparse), variant))
    return tuple(rows)


TABLES: tuple[Suite, ...] = (
    Suite(
        name="table1",
        title="Table 1: nine methods and joint training",
        summary="ImageNet-R, CIFAR-100 and CUB-200 in ten tasks; tiny form on glyphs and digits",
        rows=(JOINT, *PUBLISHED),
        tiny=(GLYPHS_10, DIGITS_5),
        where_prepared=(EMOJI_10,),
        full=(imagenet_r(10), CIFAR_10, CUB_10),
        printed=Printed("smope", "table1"),
        reference=SMOPE.label,
    ),
    Suite(
        name="table2",
        title="Table 2: self-supervised weights",
        summary="ImageNet-R in ten tasks on iBOT and DINO; tiny form on glyphs with the tiny and with RANDOM weights",
        rows=(DUALPROMPT, CODA, HIDE, NORGA, OVOR, VQ, SMOPE),
        tiny=(GLYPHS_10, GLYPHS_RANDOM),
        full=(imagenet_r(10, "ibot1k", "iBOT-1K"), imagenet_r(10, "dino1k", "DINO-1K")),
        printed=Printed("smope", "table2"),
        reference=SMOPE.label,
    ),
    Suite(
        name="table3",
        title="Table 3: parameters and operations",
        summary="counted, not trained: learnable parameters, training and inference operations on ImageNet-R's 200 classes",
        rows=(DEEP_L2P, DUALPROMPT, CODA, HIDE, NORGA, OVOR, VQ, SMOPE),
        tiny=(GLYPHS_10,),
        full=(imagenet_r(10),),
        seeds=(0,),
        counts_only=True,
        printed=Printed("smope", "table3"),
        metrics=("params_m", "train_gflops", "test_gflops"),
    ),
    Suite(
        name="table4",
        title="Table 4: the parts of SMoPE, added one by one",
        summary="cumulative ablation on CUB-200; tiny form on glyphs in ten tasks",
        rows=ablation(),
        tiny=(GLYPHS_10,),
        where_prepared=(EMOJI_10,),
        full=(CUB_10,),
        printed=Printed("smope", "table4"),
    ),
    Suite(
        name="table6",
        title="Table 6: five, ten and twenty tasks",
        summary="the rows of Table 1 on ImageNet-R in 5, 10 and 20 tasks; tiny form on glyphs in as many",
        rows=(JOINT, *PUBLISHED),
        tiny=(glyphs(5), GLYPHS_10, glyphs(20)),
        full=(imagenet_r(5), imagenet_r(10), imagenet_r(20)),
        printed=Printed("smope", "table6"),
        reference=SMOPE.label,
    ),
    Suite(
        name="table7",
        title="Table 7: forms of noise",
        summary="fixed, uniform and adaptive noise of the recipe's epsilon on ImageNet-R and CUB-200; tiny: glyphs, digits",
        rows=(
            Row("Fixed noise", "smope", {"noise": "fixed"} | AS_PRINTED, "fixed_noise"),
            Row("Uniform noise", "smope", {"noise": "uniform"} | AS_PRINTED, "uniform_noise"),
            Row("Adaptive noise", "smope", {"noise": "adaptive"}, "adaptive_noise"),
        ),
        tiny=(GLYPHS_10, DIGITS_5),
        full=(imagenet_r(10), CUB_10),
        printed=Printed("smope", "table7"),
    ),
    Suite(
        name="imagenet_r_50",
        title="ImageNet-R in fifty tasks",
        summary="the nine methods of Table 1 on four classes a task, recipes inferred; tiny form on glyphs, two a task",
        rows=PUBLISHED,
        tiny=(glyphs(50),),
        full=(imagenet_r(50),),
        printed=Printed("smope", "web_record", "one value from a record on the web, not from a table of the paper"),
        reference=SMOPE.label,
    ),
)
