"""Recipes: all valid, none silently inferred, unknown combinations refused, and published values where they belong."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from smope_bench.harness.registry.registry import Registries, open_registries
from smope_bench.methods.common.errors import MethodError
from smope_bench.methods.common.schedules import Schedule
from smope_bench.methods.recipes import ANY, GENERIC, RECIPES, TrainingRecipe, find_recipe
from smope_bench.methods.recipes.schema import INFERRED, inferred
from smope_bench.methods.recipes.tiny import EMOJI_SEARCHED, TINY_SOURCE

PAPER = ("cifar100", "imagenet_r", "cub200", "five_datasets", "domainnet_classes", "domainnet_200", "imagenet_a")
UNTUNED = ("fashion_mnist", "glyph_domains", "small_sets")
ON_OWN_WEIGHTS = ("cpg",)
"""Methods without a row in the tables, whose own paper has other weights."""
CARDS = {
    "l2p++": "L2P++ card",
    "deep_l2p++": "L2P++ card",
    "dualprompt": "DualPrompt card",
    "coda_prompt": "CODA-Prompt card",
    "ovor": "OVOR card",
    "hide_prompt": "HiDe-Prompt card",
    "norga": "NoRGa card",
    "vq_prompt": "VQ-Prompt card",
    "hash_prompt": "Hash card",
    "smope": "SMoPE card",
    "ease": "EASE card",
    "inflora": "InfLoRA card",
    "sd_lora": "SD-LoRA card",
    "cpg": "CPG card",
}


@pytest.fixture(scope="module")
def built_in() -> Registries:
    return open_registries()


def test_every_recipe_fits_its_parts(built_in: Registries) -> None:
    """Method, schedule and benchmark accept it, so no typing error waits for the day when the data is there."""
    for recipe in RECIPES:
        built_in.methods.load(recipe.method).Config(**recipe.config)
        Schedule(**recipe.schedule)
        assert recipe.backbone in built_in.backbones.names()
        if recipe.benchmark != ANY:
            values = dict(recipe.data) | ({} if recipe.tasks is None else {"tasks": recipe.tasks})
            config = built_in.benchmarks.load(recipe.benchmark).Config(**values)
            assert config.image_size == built_in.backbones.load(recipe.backbone).image_size


def test_no_combination_has_two_recipes() -> None:
    counts = Counter((recipe.method, recipe.benchmark, recipe.backbone, recipe.tasks) for recipe in RECIPES)
    assert max(counts.values()) == 1


def test_every_source_is_a_card_the_search_or_marked_as_inferred() -> None:
    for recipe in RECIPES:
        stated = recipe.source.removeprefix(INFERRED)
        if recipe.is_inferred:
            assert "; " in stated, f"{recipe}: a reason and a source"
        if recipe.benchmark in PAPER:
            assert CARDS.get(recipe.method, "SMoPE card") in stated
            assert recipe.is_inferred or recipe.method in CARDS, "a floor has no published recipe"
            assert recipe.tasks is not None
        else:
            assert TINY_SOURCE in stated
            is_untuned = recipe.backbone == "tiny_random" or recipe.benchmark in UNTUNED
            is_untuned |= recipe.backbone == "tiny_colour" and recipe.method not in EMOJI_SEARCHED
            assert recipe.is_inferred == is_untuned


@pytest.mark.parametrize(
    ("method", "benchmark", "backbone", "tasks"),
    [
        ("l2p++", "imagenet_r", "sup1k", 20),
        ("dualprompt", "cifar100", "sup1k", 10),
        ("vq_prompt", "cub200", "sup21k", 10),
        ("smope", "imagenet_r", "sup1k", 5),
        ("hide_prompt", "imagenet_r", "dino1k", 10),
        ("norga", "cub200", "sup21k_orig", 10),
        ("norga", "cifar100", "dino1k", 10),
        *(("ease", "cifar100", weights, 20) for weights in ("sup1k", "sup21k")),
        ("ease", "imagenet_r", "sup1k", 10),
        *(("inflora", "imagenet_r", "sup21k", tasks) for tasks in (5, 10, 20)),
        ("sd_lora", "cifar100", "sup1k", 10),
        ("deep_l2p++", "cifar100", "sup1k", 10),
        ("hide_prompt", "five_datasets", "sup21k_orig", 5),
        ("norga", "five_datasets", "sup21k_orig", 5),
        *((method, "cifar100", weights, 10) for method in ("hide_prompt", "norga") for weights in ("ibot1k", "moco1k")),
        *((method, "imagenet_r", "moco1k", 10) for method in ("hide_prompt", "norga")),
        *(("cpg", benchmark, "sup21k", 10) for benchmark in ("cifar100", "imagenet_r", "domainnet_200")),
        *((method, "domainnet_classes", "sup1k", 5) for method in ("l2p++", "dualprompt", "coda_prompt", "sd_lora")),
        ("inflora", "domainnet_classes", "sup21k", 5),
        ("ease", "imagenet_a", "sup21k", 10),
    ],
)
def test_what_a_card_states_is_not_marked_as_inferred(method: str, benchmark: str, backbone: str, tasks: int) -> None:
    assert not find_recipe(method, benchmark, backbone, tasks=tasks).is_inferred


@pytest.mark.parametrize(
    ("method", "benchmark", "backbone", "tasks"),
    [
        ("l2p++", "cub200", "sup21k", 10),
        ("ovor", "imagenet_r", "sup1k", 5),
        ("ovor", "imagenet_r", "sup1k", 10),
        ("ovor", "cifar100", "sup1k", 10),
        *((method, "imagenet_r", "sup21k_orig", count) for method in ("hide_prompt", "norga") for count in (5, 20)),
        ("ovor", "cub200", "sup21k", 10),
        ("hide_prompt", "imagenet_r", "sup1k", 10),
        ("norga", "cub200", "sup21k", 10),
        ("hash_prompt", "cifar100", "sup21k_orig", 10),
        ("smope", "imagenet_r", "ibot1k", 10),
        ("smope", "imagenet_r", "sup1k", 50),
        ("ease", "cifar100", "sup1k", 10),
        ("inflora", "imagenet_r", "sup1k", 10),
        ("sd_lora", "cub200", "sup21k", 10),
        ("joint", "cifar100", "sup1k", 10),
        ("cpg", "imagenet_r", "sup21k", 50),
        ("sd_lora", "imagenet_a", "sup1k", 10),
        *((method, "domainnet_classes", "sup1k", 5) for method in ("ease", "ovor", "deep_l2p++", "inflora")),
    ],
)
def test_what_no_card_states_is_marked_as_inferred(method: str, benchmark: str, backbone: str, tasks: int) -> None:
    assert find_recipe(method, benchmark, backbone, tasks=tasks).is_inferred


def values_of(recipe: TrainingRecipe, registries: Registries) -> dict[str, Any]:
    """Everything that a run would be given, every default spelled out, with dotted names."""
    config = registries.methods.load(recipe.method).Config(**recipe.config).model_dump()
    flat = {**dict(Schedule(**recipe.schedule)), **config, **recipe.data}
    for name in ("tap", "task_inference", "outliers", "augment"):
        flat |= {f"{name}.{key}": value for key, value in (flat.get(name) or {}).items()}
    inner = flat.get("task_inference.tap") or {}
    return flat | {f"task_inference.tap.{key}": value for key, value in inner.items()}


CODA_FAMILY = {"batch_size": 128, "lr": 1e-3, "shape": "cosine", "weight_decay": 0.0, "drop_last": True}
HIDE_FAMILY = {"batch_size": 128, "lr": 0.015, "grad_clip": 1.0, "drop_last": False, "weight_decay": 0.0}
WARM = {"epochs": 20, "shape": "coswm", "lr_first_step_full": True, "drop_last": True, "prompt_lr_mult": 5.0}
PLAIN = {"augment.scale": [0.08, 1.0], "normalize": "none", "test_resize": 256, "image_size": 224}
HIDE_TAP = {"tap.epochs": 30, "tap.lr": 0.005, "tap.samples": 640, "tap.cov": "full", "tap.optimizer": "sgd"}
EASE_SGD = {
    "epochs": 20, "optimizer": "sgd", "sgd_momentum": 0.9, "nesterov": False, "shape": "epoch_cosine", "epoch_lag": 0,
    "min_lr": 0.0, "drop_last": False, "test_resize": 256, "test_interpolation": "bicubic", "normalize": "none",
    "augment.scale": [0.05, 1.0],
}  # fmt: skip
CPG = {
    "batch_size": 360, "epochs": 100, "lr": 0.01, "optimizer": "adam", "weight_decay": 5e-5, "milestones": (40, 70),
    "normalize": "half", "augment.flip": False, "augment.scale": [0.08, 1.0],
}  # fmt: skip
CPG_PICTURES = CPG | {"augment.policy": "imagenet", "test_resize": 256, "test_squeeze": True}
SPOTS: list[tuple[str, str, str, int, dict[str, Any]]] = [
    (
        "cpg",
        "cifar100",
        "sup21k",
        20,
        CPG | {"augment.policy": "cifar10", "augment.interpolation": "bicubic", "keep": 4},
    ),
    ("cpg", "imagenet_r", "sup21k", 10, CPG_PICTURES | {"temperature": 30.0, "keep": 4}),
    ("cpg", "domainnet_200", "sup21k", 10, CPG_PICTURES | {"temperature": 30.0, "keep": 16}),
    ("coda_prompt", "domainnet_classes", "sup1k", 5, CODA_FAMILY | PLAIN | {"epochs": 5}),
    (
        "inflora",
        "domainnet_classes",
        "sup21k",
        5,
        PLAIN | {"epochs": 5, "lr": 0.005, "optimizer": "sgd", "milestones": (4,), "rank": 30, "head_lr_mult": 2.0},
    ),
    (
        "sd_lora",
        "domainnet_classes",
        "sup1k",
        5,
        {"epochs": 10, "lr": 0.02, "decay_factor": 0.005, "milestones": (4, 6, 8)},
    ),
    ("ease", "imagenet_a", "sup1k", 10, EASE_SGD | {"batch_size": 32, "lr": 0.05, "weight_decay": 5e-3, "alpha": 0.1}),
    ("l2p++", "cifar100", "sup1k", 10, CODA_FAMILY | {"epochs": 20, "pool_size": 30, "length": 20, "top_k": 5}),
    ("l2p++", "imagenet_r", "sup1k", 10, CODA_FAMILY | PLAIN | {"epochs": 50, "prompt_blocks": 1}),
    ("l2p++", "cub200", "sup21k", 10, CODA_FAMILY | PLAIN | {"epochs": 50}),
    ("deep_l2p++", "cifar100", "sup1k", 10, CODA_FAMILY | {"epochs": 20, "prompt_blocks": 5}),
    ("deep_l2p++", "imagenet_r", "sup1k", 20, CODA_FAMILY | {"epochs": 50}),
    ("deep_l2p++", "cub200", "sup21k", 10, CODA_FAMILY | {"epochs": 50}),
    ("dualprompt", "cifar100", "sup1k", 10, CODA_FAMILY | {"epochs": 20, "general_length": 6, "expert_length": 20}),
    ("dualprompt", "imagenet_r", "sup1k", 5, CODA_FAMILY | {"epochs": 50, "general_blocks": 2, "expert_blocks": 3}),
    ("dualprompt", "cub200", "sup21k", 10, CODA_FAMILY | {"epochs": 50}),
    ("coda_prompt", "cifar100", "sup1k", 10, CODA_FAMILY | {"epochs": 20, "components": 100, "length": 8}),
    ("coda_prompt", "imagenet_r", "sup1k", 10, CODA_FAMILY | {"epochs": 50, "ortho_weight": 0.0}),
    ("coda_prompt", "cub200", "sup21k", 10, CODA_FAMILY | {"epochs": 50}),
    ("ovor", "cifar100", "sup1k", 10, CODA_FAMILY | {"epochs": 20, "drop_last": False, "outlier_share": 0.2}),
    ("ovor", "imagenet_r", "sup1k", 10, CODA_FAMILY | PLAIN | {"epochs": 50, "drop_last": False}),
    ("ovor", "cub200", "sup21k", 10, CODA_FAMILY | {"epochs": 50, "drop_last": False, "warmup_epochs": 0}),
    (
        "vq_prompt",
        "cifar100",
        "sup1k",
        10,
        WARM | {"batch_size": 128, "lr": 0.0025, "steps_per_epoch": 40, "freeze_steps": 80, "tap.samples": 512},
    ),
    (
        "vq_prompt",
        "imagenet_r",
        "sup1k",
        5,
        WARM | PLAIN | {"batch_size": 64, "steps_per_epoch": 80, "freeze_steps": 80, "tap.samples": 256},
    ),
    ("vq_prompt", "imagenet_r", "sup1k", 10, WARM | {"batch_size": 64, "steps_per_epoch": 40, "freeze_steps": 40}),
    ("vq_prompt", "imagenet_r", "sup1k", 20, WARM | {"steps_per_epoch": 20, "freeze_steps": 20, "tap.epochs": 10}),
    (
        "vq_prompt",
        "cub200",
        "sup21k",
        10,
        {"batch_size": 128, "lr": 0.0025, "shape": "cosine", "temperature": 5.0, "tap.samples": 256},
    ),
    (
        "hide_prompt",
        "cifar100",
        "sup21k_orig",
        10,
        HIDE_FAMILY
        | HIDE_TAP
        | {"epochs": 50, "shape": "step", "decay_epochs": 30, "length": 5, "contrastive": 0.1, "head_lr_mult": 0.1}
        | {"test_resize": 256, "normalize": "cifar100", "augment.brightness": 63 / 255, "test_interpolation": "bicubic"}
        | {"augment.interpolation": "bicubic", "augment.scale": [0.08, 1.0], "task_inference.lr": 2.5e-4},
    ),
    (
        "hide_prompt",
        "imagenet_r",
        "sup1k",
        10,
        HIDE_FAMILY
        | HIDE_TAP
        | {"epochs": 150, "shape": "epoch_cosine", "min_lr": 1e-5, "length": 20, "contrastive": 0.5, "momentum": 0.01}
        | {"test_resize": 256, "normalize": "none", "augment.scale": [0.05, 1.0], "test_interpolation": "bicubic"},
    ),
    (
        "hide_prompt",
        "cub200",
        "sup21k",
        10,
        HIDE_FAMILY
        | HIDE_TAP
        | {"epochs": 50, "shape": "step", "length": 20, "contrastive": 0.01, "head_lr_mult": 1.0}
        | {"task_inference.lr": 0.005, "task_inference.epochs": 20, "task_inference.tap.lr": 0.0025},
    ),
    ("hide_prompt", "imagenet_r", "ibot1k", 10, HIDE_FAMILY | {"epochs": 50, "shape": "constant", "length": 20}),
    (
        "norga",
        "cifar100",
        "sup21k_orig",
        10,
        HIDE_FAMILY | {"epochs": 50, "length": 5, "activation": "sigmoid", "tap.epochs": 80, "tap.lr": 0.05},
    ),
    ("norga", "imagenet_r", "sup1k", 10, HIDE_FAMILY | HIDE_TAP | {"epochs": 150, "activation": "sigmoid"}),
    (
        "norga",
        "cub200",
        "sup21k",
        10,
        {"tap.epochs": 80, "tap.lr": 0.05, "task_inference.tap.lr": 0.025, "task_inference.lr": 0.005}
        | {"head_lr_mult": 1.0, "contrastive": 0.01, "task_inference.tap.samples": 128},
    ),
    ("norga", "imagenet_r", "ibot1k", 10, {"activation": "sigmoid", "tap.epochs": 80, "tap.lr": 0.005, "epochs": 50}),
    ("norga", "imagenet_r", "dino1k", 10, {"activation": "tanh", "tap.epochs": 30, "shape": "constant"}),
    ("norga", "imagenet_r", "moco1k", 10, {"activation": "gelu", "contrastive": 0.5}),
    ("norga", "cifar100", "dino1k", 10, {"activation": "tanh", "epochs": 20, "momentum": 0.1, "tap.epochs": 80}),
    (
        "hash_prompt",
        "cifar100",
        "sup21k_orig",
        10,
        HIDE_FAMILY | {"epochs": 50, "shape": "step", "prefix_len": 5, "head_lr_mult": 0.1, "layers": (1, 2, 3, 4)},
    ),
    (
        "hash_prompt",
        "imagenet_r",
        "sup21k_orig",
        10,
        HIDE_FAMILY | {"epochs": 150, "shape": "epoch_cosine", "prefix_len": 20, "pool_size": 10, "top_k": 5},
    ),
    (
        "hash_prompt",
        "cub200",
        "sup21k",
        10,
        HIDE_FAMILY | {"epochs": 50, "prefix_len": 20, "head_lr_mult": 1.0, "task_inference.lr": 0.005},
    ),
    (
        "smope",
        "cifar100",
        "sup1k",
        10,
        WARM
        | {"batch_size": 128, "lr": 0.005, "steps_per_epoch": 40, "freeze_steps": 80, "epsilon": 0.4}
        | {"alpha_router": 1e-5, "alpha_proto": 1e-5, "tap.epochs": 50, "tap.samples": 128, "experts": 25, "top_k": 5}
        | {"test_resize": None, "normalize": "none"},
    ),
    (
        "smope",
        "cub200",
        "sup21k",
        10,
        PLAIN
        | {"batch_size": 128, "lr": 0.005, "shape": "cosine", "epochs": 20, "alpha_router": 1e-5, "alpha_proto": 5e-5}
        | {"epsilon": 0.4, "tap.epochs": 50, "tap.samples": 128},
    ),
    (
        "smope",
        "imagenet_r",
        "sup1k",
        5,
        WARM
        | {"batch_size": 64, "lr": 0.0025, "steps_per_epoch": 80, "freeze_steps": 80, "epsilon": 0.7}
        | {"alpha_router": 1e-4, "alpha_proto": 1e-5, "tap.epochs": 60, "tap.samples": 128},
    ),
    (
        "smope",
        "imagenet_r",
        "sup1k",
        10,
        WARM
        | PLAIN
        | {"batch_size": 64, "lr": 0.0025, "steps_per_epoch": 40, "freeze_steps": 40, "epsilon": 0.5}
        | {"alpha_router": 5e-5, "alpha_proto": 1e-4, "tap.epochs": 50, "tap.samples": 384},
    ),
    (
        "smope",
        "imagenet_r",
        "sup1k",
        20,
        WARM
        | {"batch_size": 64, "lr": 0.0025, "steps_per_epoch": 20, "freeze_steps": 20, "epsilon": 0.3}
        | {"alpha_router": 1e-4, "alpha_proto": 5e-5, "tap.epochs": 50, "tap.samples": 256},
    ),
    ("smope", "imagenet_r", "sup1k", 50, WARM | {"steps_per_epoch": 8, "freeze_steps": 8, "epsilon": 0.3}),
    ("smope", "imagenet_r", "dino1k", 10, WARM | {"epsilon": 0.5, "tap.samples": 384}),
    (
        "ease",
        "cifar100",
        "sup1k",
        20,
        EASE_SGD
        | {"batch_size": 48, "lr": 0.025, "weight_decay": 5e-4, "bottleneck": 64, "alpha": 0.1, "bare_features": False},
    ),
    ("ease", "imagenet_r", "sup21k", 10, EASE_SGD | {"batch_size": 16, "lr": 0.05, "weight_decay": 5e-3, "alpha": 0.1}),
    (
        "ease",
        "cub200",
        "sup1k",
        20,
        EASE_SGD
        | {"batch_size": 16, "lr": 0.005, "weight_decay": 5e-4, "alpha": 0.005, "bare_features": True, "beta": 1.0},
    ),
    ("ease", "cub200", "sup21k", 20, EASE_SGD | {"batch_size": 32, "lr": 0.008, "alpha": 0.05, "bare_features": False}),
    (
        "inflora",
        "cifar100",
        "sup21k",
        10,
        PLAIN
        | {
            "epochs": 20,
            "lr": 5e-4,
            "optimizer": "adam",
            "shape": "cosine",
            "rank": 10,
            "threshold": 0.95,
            "test_resize": None,
        },
    ),
    (
        "inflora",
        "imagenet_r",
        "sup21k",
        20,
        PLAIN | {"epochs": 50, "threshold": 0.98, "drop_last": False, "weight_decay": 0.0},
    ),
    ("sd_lora", "cifar100", "sup1k", 10, {"epochs": 20, "lr": 0.008, "optimizer": "sgd", "test_resize": 256}),
    (
        "sd_lora",
        "imagenet_r",
        "sup1k",
        20,
        {"lr": 0.01, "shape": "constant", "sgd_momentum": 0.9, "augment.scale": [0.05, 1.0]},
    ),
    ("joint", "imagenet_r", "sup1k", 10, {"batch_size": 64, "lr": 0.0025, "epochs": 20, "shape": "plain_cosine"}),
    ("one_prompt", "imagenet_r", "sup1k", 10, WARM | {"tap.enabled": False, "tap.samples": 384, "steps_per_epoch": 40}),
]


@pytest.mark.parametrize(
    ("method", "benchmark", "backbone", "tasks", "expected"), SPOTS, ids=[f"{m}-{b}-{w}-{t}" for m, b, w, t, _ in SPOTS]
)
def test_published_values_are_what_a_run_gets(
    method: str, benchmark: str, backbone: str, tasks: int, expected: dict[str, Any], built_in: Registries
) -> None:
    values = values_of(find_recipe(method, benchmark, backbone, tasks=tasks), built_in)
    assert {key: values[key] for key in expected} == expected


def test_every_method_has_a_recipe_for_each_benchmark_of_the_tables(built_in: Registries) -> None:
    for method in built_in.methods.names():
        for benchmark, backbone in (
            () if method in ON_OWN_WEIGHTS else (("cifar100", "sup1k"), ("imagenet_r", "sup1k"), ("cub200", "sup21k"))
        ):
            for tasks in (10, 20):
                assert find_recipe(method, benchmark, backbone, tasks=tasks).benchmark == benchmark
        for benchmark in ("digits", "glyphs", "fashion_mnist"):
            find_recipe(method, benchmark, "tiny", tasks=5)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("smope", "digits", "random", None), r"smope on digits with backbone random; the nearest known is smope"),
        (
            ("smope", "imagenet_r", "sup1k", 4),
            r"smope on imagenet_r in 4 tasks with backbone sup1k; .* smope on imagenet_r in 5 tasks with backbone sup1k",
        ),
        (
            ("norga", "imagenet_r", "sup1k", 100),
            r"norga on imagenet_r in 100 tasks .* norga on imagenet_r in 50 tasks with backbone sup1k",
        ),
        (
            ("smope", "cifar100", "tiny", 10),
            r"smope on cifar100 in 10 tasks with backbone tiny; .* smope on cifar100 in 10 tasks with backbone sup1k",
        ),
        (("vq_prompt", "imagenet_r", "moco1k", 10), r"nearest known is vq_prompt on imagenet_r in 10 tasks"),
        (("norga", "cub200", "sup21k", 1), r"norga on cub200 in 1 task with"),
    ],
)
def test_unknown_combinations_are_refused_with_the_nearest(asked: tuple[Any, ...], says: str) -> None:
    method, benchmark, backbone, tasks = asked
    with pytest.raises(MethodError, match=f"there is no recipe for .*{says}"):
        find_recipe(method, benchmark, backbone, tasks=tasks)


def test_users_own_parts_get_the_generic_recipe_only_where_no_other_fits() -> None:
    assert find_recipe("mine", "digits", "tiny", own=True) is GENERIC
    assert find_recipe("ncm", "mine", "tiny", tasks=3, own=True).method == "ncm"


def test_inference_keeps_what_it_rests_on() -> None:
    (once,) = inferred([TrainingRecipe("m", "b", "w", "X card, section 1")], "because", tasks=2)
    (twice,) = inferred([once], "again", tasks=3)
    assert (once.source, once.tasks) == ("inferred: because; X card, section 1", 2)
    assert (twice.source, twice.is_inferred) == ("inferred: again; because; X card, section 1", True)
