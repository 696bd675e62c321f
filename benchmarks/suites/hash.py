"""The experiments of the Hash paper, and of CPG's, all on three class orders.

Hash prints CPG's own number, which is from the AugReg weights of ImageNet-21k, 100 passes and AutoAugment: CPG has a suite
of its own on these weights, ``cpg_main``, and no row beside methods on the original 21k weights.
"""

from __future__ import annotations

from dataclasses import replace

from smope_bench.benchmarks.suites.schema import (
    CIFAR_10,
    CPG,
    CUB_10,
    DIGITS_5,
    GLYPHS_10,
    GLYPHS_RANDOM,
    HASH,
    HIDE,
    NORGA,
    OVOR,
    SMALL_SETS,
    Column,
    Printed,
    Row,
    Suite,
    glyphs,
    imagenet_r,
)

ORIGINAL = "sup21k_orig"
SEEDS = (0, 1, 2)
COMPARED = (OVOR, HIDE, NORGA, HASH)
CIFAR = replace(CIFAR_10, backbone=ORIGINAL, printed_backbone="sup21k")
CIFAR_20 = replace(CIFAR, label="CIFAR-100, 20 tasks", config={"tasks": 20})
FIVE = Column("5-Datasets", "five_datasets", {"tasks": 5, "class_order": "natural"}, ORIGINAL, "sup21k")
CUB = replace(CUB_10, backbone=ORIGINAL, printed_backbone="sup21k")
IMAGENET_R = replace(imagenet_r(10, ORIGINAL), printed_backbone="sup21k")
IMAGENET_R_20 = replace(imagenet_r(20, ORIGINAL), printed_backbone="sup21k")
WITH_FORGETTING = ("faa", "caa", "fm_max")
"""Forgetting as Hash, HiDe-Prompt and NoRGa print it: the maximum is over all stages, the last included."""


def _layers(*spans: tuple[int, int]) -> tuple[Row, ...]:
    """Rows that prompt blocks from ... to ..., counted from 1."""
    return tuple(
        Row(
            f"Block {first}" if first == last else f"Blocks {first}-{last}",
            "hash_prompt",
            {"layers": list(range(first, last + 1))},
            f"layers_{first}_{last}",
        )
        for first, last in spans
    )


AUGREG = "sup21k"


def _domainnet(tasks: int) -> Column:
    return Column(f"DomainNet (200 classes), {tasks} tasks", "domainnet_200", {"tasks": tasks}, AUGREG)


CPG_SUITE = Suite(
    name="cpg_main",
    title="CPG: prompts from consistent experts",
    summary="CPG with its projection and without, 100 passes a task, on AugReg 21k weights and iBOT; tiny: digits and glyphs",
    rows=(CPG, Row("CPG, steps not projected", "cpg", {"projection": "off"}, "no_projection")),
    reference=CPG.label,
    tiny=(DIGITS_5, GLYPHS_10),
    full=(
        imagenet_r(10, AUGREG, "Sup-21K"),
        replace(CIFAR_10, backbone=AUGREG),
        imagenet_r(50, AUGREG, "Sup-21K"),
        imagenet_r(100, AUGREG, "Sup-21K"),
        imagenet_r(10, "ibot1k", "iBOT-1K"),
        *(_domainnet(tasks) for tasks in (10, 50, 100)),
    ),
    seeds=SEEDS,
    printed=Printed("cpg", "cpg_main", "the authors' later paper and a summary of it, partly second-hand"),
    metrics=("faa",),
)

HASH_SUITES: tuple[Suite, ...] = (
    Suite(
        name="hash_main",
        title="Hash: main comparison",
        summary="Hash and its hosted baselines on CIFAR-100 and ImageNet-R, original 21k weights; tiny: digits and glyphs",
        rows=COMPARED,
        reference=HASH.label,
        tiny=(DIGITS_5, GLYPHS_10),
        full=(CIFAR, IMAGENET_R),
        seeds=SEEDS,
        printed=Printed("hash", "hash_main"),
        metrics=WITH_FORGETTING,
    ),
    Suite(
        name="hash_cub200",
        title="Hash: CUB-200",
        summary="Hash and its hosted baselines on CUB-200 in ten tasks, original 21k weights; tiny form on glyphs",
        rows=COMPARED,
        reference=HASH.label,
        tiny=(GLYPHS_10,),
        full=(CUB,),
        seeds=SEEDS,
        printed=Printed("hash", "hash_cub200"),
        metrics=WITH_FORGETTING,
    ),
    Suite(
        name="hash_20_tasks",
        title="Hash: twenty tasks",
        summary="Hash and its hosted baselines on CIFAR-100 and ImageNet-R in twenty tasks; tiny form on glyphs",
        rows=COMPARED,
        reference=HASH.label,
        tiny=(glyphs(20),),
        full=(CIFAR_20, IMAGENET_R_20),
        seeds=SEEDS,
        printed=Printed("hash", "hash_20_tasks"),
        metrics=WITH_FORGETTING,
    ),
    Suite(
        name="hash_five_datasets",
        title="Hash: 5-Datasets",
        summary="Hash and its hosted baselines on five data sets, one a task; tiny form on digits, letters and renditions",
        rows=COMPARED,
        tiny=(SMALL_SETS,),
        full=(FIVE,),
        seeds=SEEDS,
        printed=Printed("hash", "hash_five_datasets"),
        metrics=WITH_FORGETTING,
    ),
    Suite(
        name="hash_ablation",
        title="Hash: routing penalty and update scaling",
        summary="the shared pool alone, with HDR, with HGM and with both; tiny form on digits and glyphs",
        rows=(
            Row("Shared pool", "hash_prompt", {"phi": "none", "psi": "none"}, "moe_only"),
            Row("+ HDR", "hash_prompt", {"psi": "none"}, "moe_hdr"),
            Row("+ HGM", "hash_prompt", {"phi": "none"}, "moe_hgm"),
            Row("+ HDR + HGM", "hash_prompt", variant="full"),
        ),
        tiny=(DIGITS_5, GLYPHS_10),
        full=(CIFAR, IMAGENET_R),
        seeds=SEEDS,
        printed=Printed("hash", "hash_ablation"),
        metrics=("faa",),
    ),
    Suite(
        name="hash_layers",
        title="Hash: which blocks are prompted",
        summary="spans of blocks and two single ones (ours: the paper's two are not named) on CIFAR-100; tiny: six blocks",
        rows=_layers((1, 4), (1, 12), (5, 12), (1, 1), (12, 12)),
        tiny=(GLYPHS_10,),
        full=(CIFAR,),
        seeds=SEEDS,
        tiny_rows=_layers((1, 4), (1, 6), (5, 6), (1, 1), (6, 6)),
        printed=Printed("hash", "hash_layers"),
        metrics=("faa",),
    ),
    Suite(
        name="hash_backbones",
        title="Hash: other weights",
        summary="ImageNet-R on supervised, iBOT, DINO and MoCo v3 weights; tiny form with the tiny and with RANDOM weights",
        rows=COMPARED,
        reference=HASH.label,
        tiny=(GLYPHS_10, GLYPHS_RANDOM),
        full=(
            imagenet_r(10, ORIGINAL, "Sup-21K"),
            imagenet_r(10, "ibot1k", "iBOT-1K"),
            imagenet_r(10, "dino1k", "DINO-1K"),
            imagenet_r(10, "moco1k", "MoCo-1K"),
        ),
        seeds=SEEDS,
        metrics=WITH_FORGETTING,
    ),
    CPG_SUITE,
)
